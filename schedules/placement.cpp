// Placements: linear, looped, V, bidirectional; and a schedule moved to other ranks.
#include "schedules/schedule.hpp"

#include "kernels/check.hpp"

namespace pipemark {

std::vector<std::pair<int, int>> Placement::held_by(int of_rank) const {
  std::vector<std::pair<int, int>> held;
  for (int replica = 0; replica < replicas; ++replica) {
    for (int stage = 0; stage < stages; ++stage) {
      if (rank_of(replica, stage) == of_rank) held.emplace_back(replica, stage);
    }
  }
  return held;
}

Placement Placement::linear(int ranks) { return looped(ranks, 1); }

Placement Placement::looped(int ranks, int chunks) {
  check(ranks > 0 && chunks > 0, "Placement::looped({}, {})", ranks, chunks);
  Placement placement{ranks, ranks * chunks, 1, {}};
  for (int s = 0; s < placement.stages; ++s) placement.rank.push_back(s % ranks);
  return placement;
}

Placement Placement::v_shape(int ranks, int chunks) {
  check(ranks > 0 && chunks > 0, "Placement::v_shape({}, {})", ranks, chunks);
  Placement placement{ranks, ranks * chunks, 1, {}};
  for (int s = 0; s < placement.stages; ++s) {
    const int offset = s % ranks;
    placement.rank.push_back((s / ranks) % 2 == 0 ? offset : ranks - 1 - offset);
  }
  return placement;
}

Placement Placement::bidirectional(int ranks, int chunks) {
  Placement placement = looped(ranks, chunks);
  placement.replicas = 2;
  for (int s = 0; s < placement.stages; ++s) {
    placement.rank.push_back(ranks - 1 - placement.rank[static_cast<std::size_t>(s)]);
  }
  return placement;
}

Schedule spread(const Schedule& schedule, const std::vector<int>& ranks, int total) {
  check(ranks.size() == static_cast<std::size_t>(schedule.rank_count()),
        "spread: {} ranks for a schedule of {}", ranks.size(), schedule.rank_count());
  Schedule moved = schedule;
  moved.placement.ranks = total;
  for (int& rank : moved.placement.rank) rank = ranks[static_cast<std::size_t>(rank)];
  moved.ranks.assign(static_cast<std::size_t>(total), {});
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    check(ranks[r] >= 0 && ranks[r] < total &&
              moved.ranks[static_cast<std::size_t>(ranks[r])].empty(),
          "spread: rank {} of {}, or given twice", ranks[r], total);
    moved.ranks[static_cast<std::size_t>(ranks[r])] = schedule.ranks[r];
  }
  return moved;
}

}  // namespace pipemark
