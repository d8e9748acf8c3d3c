// PaceProfile to CostModel. A stage of a schedule with S stages on P ranks takes P/S of the times
// of 1/P of the model, divided by its rank's speed.
#include "trainer/pace.hpp"

#include "kernels/check.hpp"

namespace pipemark {

CostModel PaceProfile::cost_model(int ranks, int stage_count) const {
  if (!stages.empty() && stages.size() != static_cast<std::size_t>(stage_count)) {
    throw UserError(fmt::format("{}: stages has {} entries, but the schedule has {} stages", source,
                                stages.size(), stage_count),
                    "give one entry a stage, or the times of 1/P of the model");
  }
  if (!speed.empty() && speed.size() != static_cast<std::size_t>(ranks)) {
    throw UserError(fmt::format("{}: speed has {} entries, but the pipeline has {} ranks", source,
                                speed.size(), ranks),
                    "give one entry a rank, or leave speed out");
  }
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
