// Lays a CostModel out by (replica, stage).
#include "schedules/stage_cost.hpp"

#include "kernels/check.hpp"

namespace pipemark {

namespace {

/// Ranks and neighbours of every (replica, stage); times are left to the caller.
PlacedCost skeleton(const Placement& placement) {
  PlacedCost placed;
  placed.stages.resize(placement.rank.size());
  for (int replica = 0; replica < placement.replicas; ++replica) {
    for (int stage = 0; stage < placement.stages; ++stage) {
      PlacedStage& entry =
          placed.stages[static_cast<std::size_t>(replica) * placement.stages + stage];
      entry.rank = placement.rank_of(replica, stage);
      if (stage + 1 < placement.stages) entry.next_rank = placement.rank_of(replica, stage + 1);
      if (stage > 0) entry.previous_rank = placement.rank_of(replica, stage - 1);
    }
  }
  return placed;
}

}  // namespace

PlacedCost PlacedCost::uniform(const Placement& placement, StageCost whole, double message) {
  PlacedCost placed = skeleton(placement);
  const double share = static_cast<double>(placement.ranks) / placement.stages;
  for (PlacedStage& entry : placed.stages) {
    entry.forward = whole.forward * share;
    entry.input_grad = whole.input_grad * share;
    entry.weight_grad = whole.weight_grad * share;
    if (entry.next_rank >= 0 && entry.next_rank != entry.rank) entry.forward_message = message;
    if (entry.previous_rank >= 0 && entry.previous_rank != entry.rank) {
      entry.backward_message = message;
    }
  }
  return placed;
}

PlacedCost PlacedCost::of(const Placement& placement, const CostModel& cost) {
  check(cost.ranks == placement.ranks && cost.stages == placement.stages,
        "cost model of {} ranks x {} stages for a schedule of {} x {}", cost.ranks, cost.stages,
        placement.ranks, placement.stages);
  PlacedCost placed = skeleton(placement);
  placed.overlap = cost.overlap;
  for (std::size_t i = 0; i < placed.stages.size(); ++i) {
    PlacedStage& entry = placed.stages[i];
    const int stage = static_cast<int>(i) % placement.stages;
    const StageCost& times = cost.of(entry.rank, stage);
    entry.forward = times.forward;
    entry.input_grad = times.input_grad;
    entry.weight_grad = times.weight_grad;
    if (entry.next_rank >= 0)
      entry.forward_message = cost.message_time(entry.rank, entry.next_rank);
    if (entry.previous_rank >= 0) {
      entry.backward_message = cost.message_time(entry.rank, entry.previous_rank);
    }
  }
  return placed;
}

}  // namespace pipemark
