// CostModel: what an action takes on a rank and what a message takes on a link. Times are in any
// one unit (seconds where they are measured). Stage times are of the whole stage as placed.
#pragma once

#include <cstddef>
#include <vector>

namespace pipemark {

struct StageCost {
  double forward = 1, input_grad = 1, weight_grad = 1;
  double backward() const { return input_grad + weight_grad; }
};

struct CostModel {
  int ranks = 0, stages = 0;
  /// [rank * stages + stage]: the time of that stage when it runs on that rank.
  std::vector<StageCost> stage;
  /// A message from rank a to rank b takes latency + bytes / bandwidth; [a * ranks + b], 0 on the
  /// diagonal. Transfers overlap compute and each other.
  std::vector<double> message;
  /// FB takes overlap * (forward + backward); 1: no gain.
  double overlap = 1;

  const StageCost& of(int rank, int stage_index) const {
    return stage[static_cast<std::size_t>(rank) * stages + stage_index];
  }
  double message_time(int from, int to) const {
    return from == to ? 0 : message[static_cast<std::size_t>(from) * ranks + to];
  }

  /// Every stage costs the same: `whole` holds the times of 1/P of the model, a stage takes P/S of
  /// them.
  static CostModel uniform(int ranks, int stages, StageCost whole, double message);
};

}  // namespace pipemark
