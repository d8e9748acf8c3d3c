// The experts' part of a step: sums of gradients and loads, and the placement of experts.
#include <algorithm>

#include "balancers/expert_eplb.hpp"
#include "trainer/expert_replicas.hpp"
#include "trainer/trainer_impl.hpp"

namespace pipemark {

void Trainer::Impl::sum_gradients() {
  std::vector<GradientSync::HeldGradients> held;
  for (std::size_t k = 0; k < pieces_->stages.size(); ++k) {
    GptStage& stage = *pieces_->stages[k];
    if (!stage_done_[k]) stage.finish_gradients(stream_);
    stage_done_[k] = false;
    if (has_experts()) {
      sum_replicas(grid_.expert, *ops_, stream_, stage);
      held.push_back({stage.dense_gradients(), stage.tied_gradient(), stage.expert_gradients()});
    } else {
      held.push_back({stage.parameters().gradients, stage.tied_gradient()});
    }
  }
  if (config_.balancer.gradient_synchronization != "off") sync_->run(ops_->device(), stream_, held);
  for (auto& stage : pieces_->stages) stage->finish_routers(stream_);
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

/// EPLB's plan for these loads. The order of places within a rank is free: an expert that stays on
/// its rank keeps its place.
ExpertMap plan_experts(const std::vector<double>& loads, const ExpertMap& now) {
  Matrix<float> measured(1, now.experts());
  std::copy(loads.begin(), loads.end(), measured.values.begin());
  const ExpertPlacement plan = rebalance_experts(measured, {now.places(), 1, 1, now.ranks()});
  std::vector<int> expert_of(static_cast<std::size_t>(now.places()), -1);
  for (int rank = 0; rank < now.ranks(); ++rank) {
    const int begin = rank * now.slots(), end = begin + now.slots();
    std::vector<int> coming(plan.phy2log.row(0) + begin, plan.phy2log.row(0) + end);
    for (int place = begin; place < end; ++place) {
      const auto stays = std::find(coming.begin(), coming.end(), now.expert_of(place));
      if (stays == coming.end()) continue;
      expert_of[static_cast<std::size_t>(place)] = *stays;
      coming.erase(stays);
    }
    for (int place = begin; place < end; ++place) {
      int& expert = expert_of[static_cast<std::size_t>(place)];
      if (expert >= 0) continue;
      expert = coming.back();
      coming.pop_back();
    }
  }
  return {now.experts(), now.ranks(), std::move(expert_of)};
}
}  // namespace

void Trainer::Impl::balance_experts(StepReport& report) {
  const bool due = config_.balancer.experts != "none" &&
                   (report.step + 1) % config_.balancer.expert_interval == 0;
  const double start_s = now_s();
  double imbalance = 0, blocks = 0, moved_bytes = 0;
  interval_loads_.resize(pieces_->stages.size());
  for (std::size_t k = 0; k < pieces_->stages.size(); ++k) {
    GptStage& stage = *pieces_->stages[k];
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
      if (!due) continue;
      // A pure function of the summed loads: every holder of the layer plans the same.
      const ExpertMap map = plan_experts(sum, stage.expert_map(block));
      moved_bytes +=
          static_cast<double>(move_experts(grid_.expert, *ops_, stream_, stage, block, map));
      std::fill(sum.begin(), sum.end(), 0.0);
    }
  }
  double sums[] = {imbalance, blocks, moved_bytes};
  cluster_.world().allreduce_sum(std::span<double>(sums), "experts' figures");
  report.expert_imbalance = sums[1] > 0 ? sums[0] / sums[1] : 0;
  report.expert_moved_bytes = static_cast<std::int64_t>(sums[2]);
  if (due) report.expert_move_s = cluster_.world().allreduce_max(now_s() - start_s);
}

}  // namespace pipemark
