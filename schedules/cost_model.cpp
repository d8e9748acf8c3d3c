// CostModel::uniform: every stage takes P/S of the times of 1/P of the model.
#include "schedules/cost_model.hpp"

#include "kernels/check.hpp"

namespace pipemark {

CostModel CostModel::uniform(int ranks, int stages, StageCost whole, double message) {
  check(ranks > 0 && stages > 0, "CostModel::uniform({}, {})", ranks, stages);
  const double share = static_cast<double>(ranks) / stages;
  const StageCost each{whole.forward * share, whole.input_grad * share, whole.weight_grad * share};
  CostModel cost;
  cost.ranks = ranks;
  cost.stages = stages;
  const auto count = static_cast<std::size_t>(ranks);
  cost.stage.assign(count * stages, each);
  cost.message.assign(count * count, message);
  for (std::size_t r = 0; r < count; ++r) cost.message[r * count + r] = 0;
  return cost;
}

}  // namespace pipemark
