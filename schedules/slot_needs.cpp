// slot_needs: how many activations and deferred weight gradients a rank's own order keeps at once.
#include <algorithm>

#include "kernels/check.hpp"
#include "schedules/simulate.hpp"

namespace pipemark {

namespace {

struct Open {
  int activations = 0, deferred = 0;
};

/// Walks one row; `index_of[replica * S + stage]` is the entry of held_by(rank), -1 for others.
std::vector<SlotNeeds> needs_of_row(const std::vector<Action>& row, const Placement& placement,
                                    const std::vector<int>& index_of, std::size_t held) {
  std::vector<SlotNeeds> needs(held);
  std::vector<Open> open(held);
  const auto entry = [&](int replica, int stage) {
    const int k = index_of[static_cast<std::size_t>(replica) * placement.stages + stage];
    check(k >= 0, "slot_needs: stage {} of replica {} is not on this rank", stage, replica);
    return static_cast<std::size_t>(k);
  };
  for (const Action& a : row) {
    const std::size_t k = entry(a.replica, a.stage);
    if (a.kind == Kind::F || a.kind == Kind::FB) {
      needs[k].activations = std::max(needs[k].activations, ++open[k].activations);
    }
    if (a.kind == Kind::I) {
      needs[k].deferred_weights = std::max(needs[k].deferred_weights, ++open[k].deferred);
    }
    if (a.kind == Kind::B || a.kind == Kind::W) --open[k].activations;
    if (a.kind == Kind::W) --open[k].deferred;
    if (a.kind == Kind::FB) --open[entry(a.replica_b, a.stage_b)].activations;
  }
  return needs;
}

}  // namespace

std::vector<std::vector<SlotNeeds>> slot_needs(const Schedule& schedule) {
  const Placement& placement = schedule.placement;
  std::vector<std::vector<SlotNeeds>> all;
  for (int rank = 0; rank < schedule.rank_count(); ++rank) {
    const auto held = placement.held_by(rank);
    std::vector<int> index_of(placement.rank.size(), -1);
    for (std::size_t k = 0; k < held.size(); ++k) {
      index_of[static_cast<std::size_t>(held[k].first) * placement.stages + held[k].second] =
          static_cast<int>(k);
    }
    all.push_back(needs_of_row(schedule.ranks[static_cast<std::size_t>(rank)], placement, index_of,
                               held.size()));
  }
  return all;
}

}  // namespace pipemark
