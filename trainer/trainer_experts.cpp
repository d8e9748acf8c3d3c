// The experts' part of a step: sums of gradients and loads, and the placement of experts.
#include <algorithm>

#include "trainer/expert_replicas.hpp"
#include "trainer/trainer_impl.hpp"

namespace pipemark {

void Trainer::Impl::sum_gradients() {
  std::vector<GradientSync::HeldGradients> held;
  for (auto& stage : pieces_.stages) {
    stage->finish_gradients(stream_);
    if (has_experts()) {
      sum_replicas(grid_.expert, *ops_, stream_, *stage);
      held.push_back({stage->dense_gradients(), stage->tied_gradient(), stage->expert_gradients()});
    } else {
      held.push_back({stage->parameters().gradients, stage->tied_gradient()});
    }
  }
  sync_.run(ops_->device(), stream_, held);
  for (auto& stage : pieces_.stages) stage->finish_routers(stream_);
}

namespace {
/// Rows of the busiest rank over the mean, when an expert's replicas share its load evenly.
double imbalance_of(const ExpertMap& map, const std::vector<float>& loads) {
  std::vector<double> ranks(static_cast<std::size_t>(map.ranks()), 0.0);
  double total = 0;
  for (int place = 0; place < map.places(); ++place) {
    const int expert = map.expert_of(place);
    const double load =
        loads[static_cast<std::size_t>(expert)] / static_cast<double>(map.places_of(expert).size());
    ranks[static_cast<std::size_t>(place / map.slots())] += load;
    total += load;
  }
  if (total == 0) return 1;
  return *std::max_element(ranks.begin(), ranks.end()) * map.ranks() / total;
}
}  // namespace

void Trainer::Impl::balance_experts(StepReport& report) {
  double imbalance = 0, blocks = 0, moved_bytes = 0;
  interval_loads_.resize(pieces_.stages.size());
  for (std::size_t k = 0; k < pieces_.stages.size(); ++k) {
    GptStage& stage = *pieces_.stages[k];
    auto& sums = interval_loads_[k];
    sums.resize(static_cast<std::size_t>(stage.moe_blocks()));
    for (int block = 0; block < stage.moe_blocks(); ++block) {
      const std::vector<float>& loads = stage.expert_loads()[static_cast<std::size_t>(block)];
      std::vector<double>& sum = sums[static_cast<std::size_t>(block)];
      sum.resize(loads.size(), 0.0);
      for (std::size_t e = 0; e < loads.size(); ++e) sum[e] += loads[e];
      if (owns(k) && grid_.expert_rank == 0) {
        imbalance += imbalance_of(stage.expert_map(block), loads);
        ++blocks;
      }
    }
  }
  double sums[] = {imbalance, blocks, moved_bytes};
  cluster_.world().allreduce_sum(std::span<double>(sums), "experts' figures");
  report.expert_imbalance = sums[1] > 0 ? sums[0] / sums[1] : 0;
  report.expert_moved_bytes = static_cast<std::int64_t>(sums[2]);
}

}  // namespace pipemark
