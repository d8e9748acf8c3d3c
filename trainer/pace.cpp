// PaceProfile to CostModel. A stage of a schedule with S stages on P ranks takes P/S of the times
// of 1/P of the model, or the sum of its layers' times, divided by its rank's speed.
#include "trainer/pace.hpp"

#include <algorithm>

#include "kernels/check.hpp"

namespace pipemark {

namespace {
void check_ranks(const PaceProfile& profile, int ranks) {
  if (!profile.speed.empty() && profile.speed.size() != static_cast<std::size_t>(ranks)) {
    throw UserError(fmt::format("{}: speed has {} entries, but the pipeline has {} ranks",
                                profile.source, profile.speed.size(), ranks),
                    "give one entry a rank, or leave speed out");
  }
  if (!profile.memory_bytes.empty() &&
      profile.memory_bytes.size() != static_cast<std::size_t>(ranks)) {
    throw UserError(fmt::format("{}: memory_mib has {} entries, but the pipeline has {} ranks",
                                profile.source, profile.memory_bytes.size(), ranks),
                    "give one entry a rank, or leave memory_mib out");
  }
  for (const auto& change : profile.changes) {
    if (change.rank >= 0 && change.rank < ranks) continue;
    throw UserError(fmt::format("{}: a change of rank {}, but the pipeline has {} ranks",
                                profile.source, change.rank, ranks),
                    fmt::format("give a rank from 0 to {}", ranks - 1));
  }
}

double change_factor(const PaceProfile& profile, int rank, std::int64_t step) {
  double factor = 1;
  for (const auto& change : profile.changes) {
    const bool now = step >= change.step && (change.until < 0 || step < change.until);
    if (change.rank == rank && now) factor *= change.factor;
  }
  return factor;
}

StageCost scaled(const StageCost& cost, double factor) {
  return {factor * cost.forward, factor * cost.input_grad, factor * cost.weight_grad};
}
}  // namespace

double PaceProfile::factor_of(int rank, std::int64_t step) const {
  return change_factor(*this, rank, step) /
         (speed.empty() ? 1 : speed[static_cast<std::size_t>(rank)]);
}

bool PaceProfile::changes_at(std::int64_t step) const {
  return std::any_of(changes.begin(), changes.end(), [&](const Change& change) {
    return change.step == step || change.until == step;
  });
}

std::vector<LayerCost> PaceProfile::layer_costs(int layer_count, int sequences) const {
  std::vector<LayerCost> costs;
  for (int layer = 0; layers && layer < layer_count; ++layer) {
    const StageCost& cost = layer == 0                 ? layers->embedding
                            : layer + 1 == layer_count ? layers->head
                                                       : layers->block;
    const StageCost now = scaled(cost, static_cast<double>(sequences) / layers->sequences);
    costs.push_back({"", 0, now.forward, now.input_grad, now.weight_grad});
  }
  return costs;
}

CostModel PaceProfile::cost_model(int ranks, const Partition& partition, int sequences,
                                  std::int64_t step) const {
  if (!layers) {
    CostModel cost = cost_model(ranks, partition.stages());
    for (std::size_t i = 0; i < cost.stage.size(); ++i) {
      const int rank = static_cast<int>(i) / cost.stages;
      cost.stage[i] = scaled(cost.stage[i], change_factor(*this, rank, step));
    }
    return cost;
  }
  check_ranks(*this, ranks);
  CostModel cost;
  cost.ranks = ranks;
  cost.stages = partition.stages();
  cost.message.assign(static_cast<std::size_t>(ranks) * static_cast<std::size_t>(ranks), 0.0);
  const std::vector<LayerCost> costs = layer_costs(partition.layers(), sequences);
  for (int rank = 0; rank < ranks; ++rank) {
    for (int s = 0; s < partition.stages(); ++s) {
      const double o = layers->overhead_s;
      const int* cut = partition.first.data() + s;
      const StageCost sum = stage_time(costs, cut[0], cut[1], {o, o, o});
      cost.stage.push_back(scaled(sum, factor_of(rank, step)));
    }
  }
  return cost;
}

CostModel PaceProfile::cost_model(int ranks, int stage_count) const {
  if (layers) {
    throw UserError(fmt::format("{}: times by layer need a model and its partition", source),
                    "give times of 1/P of the model or by stage in [times]");
  }
  if (!stages.empty() && stages.size() != static_cast<std::size_t>(stage_count)) {
    throw UserError(fmt::format("{}: stages has {} entries, but the schedule has {} stages", source,
                                stages.size(), stage_count),
                    "give one entry a stage, or the times of 1/P of the model");
  }
  check_ranks(*this, ranks);
  const auto positive = [&](const char* what, double value, bool zero_allowed) {
    if (value > 0 || (zero_allowed && value == 0)) return;
    throw UserError(fmt::format("{}: {} = {} is not a positive number", source, what, value),
                    "times are seconds, speeds are 1 for a device as fast as the times say");
  };
  for (double factor : speed) positive("speed", factor, false);

  CostModel cost;
  cost.ranks = ranks;
  cost.stages = stage_count;
  cost.message.assign(static_cast<std::size_t>(ranks) * static_cast<std::size_t>(ranks), 0.0);
  for (int rank = 0; rank < ranks; ++rank) {
    const double faster = speed.empty() ? 1 : speed[static_cast<std::size_t>(rank)];
    for (int stage = 0; stage < stage_count; ++stage) {
      const double share = stages.empty() ? static_cast<double>(ranks) / stage_count : 1;
      const StageCost& time = stages.empty() ? whole : stages[static_cast<std::size_t>(stage)];
      positive("forward", time.forward, false);
      positive("input_grad", time.input_grad, false);
      positive("weight_grad", time.weight_grad, true);
      const double factor = share / faster;
      cost.stage.push_back(
          {factor * time.forward, factor * time.input_grad, factor * time.weight_grad});
    }
  }
  return cost;
}

}  // namespace pipemark
