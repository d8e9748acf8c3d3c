// Requests that the catalogue's rows accept, drawn at random from a seed, and costs for them.
#pragma once

#include <random>
#include <string>

#include "schedules/catalogue.hpp"

namespace pipemark::testing {

/// Rows that any request is cheap for (zb-auto searches: tests/schedules/synthesis_test.cpp).
inline bool is_cheap(const CatalogueRow& row) { return row.name != "zb-auto"; }

inline int draw(std::mt19937& random, int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(random);
}

/// Draws until the row accepts.
inline ScheduleRequest draw_request(const CatalogueRow& row, std::mt19937& random, int most_ranks,
                                    int most_micro_batches) {
  ScheduleRequest request;
  do {
    request.ranks = draw(random, 1, most_ranks);
    request.micro_batches = draw(random, 1, most_micro_batches);
    request.chunks = draw(random, 0, 4);
  } while (!row.refuse(request).empty());
  return request;
}

/// Uneven times, the same in scripts/golden/simulate_reference.py's input.
inline CostModel uneven_cost(int ranks, int stages) {
  CostModel cost;
  cost.ranks = ranks;
  cost.stages = stages;
  cost.overlap = 0.9;
  for (int r = 0; r < ranks; ++r) {
    for (int s = 0; s < stages; ++s) {
      cost.stage.push_back({1 + 0.1 * ((r * 7 + s * 3) % 5), 1.1 + 0.05 * ((r * 3 + s) % 7),
                            0.8 + 0.07 * ((r + s * 5) % 4)});
    }
    for (int to = 0; to < ranks; ++to) {
      cost.message.push_back(to == r ? 0 : 0.1 + 0.03 * ((r * 5 + to) % 3));
    }
  }
  return cost;
}

inline CostModel random_cost(std::mt19937& random, int ranks, int stages) {
  std::uniform_real_distribution<double> time(0.2, 2.0);
  CostModel cost;
  cost.ranks = ranks;
  cost.stages = stages;
  cost.overlap = std::uniform_real_distribution<double>(0.7, 1.0)(random);
  for (int i = 0; i < ranks * stages; ++i) {
    cost.stage.push_back({time(random), time(random), time(random)});
  }
  for (int i = 0; i < ranks * ranks; ++i) {
    cost.message.push_back(i % (ranks + 1) == 0 ? 0 : 0.2 * time(random));
  }
  return cost;
}

}  // namespace pipemark::testing
