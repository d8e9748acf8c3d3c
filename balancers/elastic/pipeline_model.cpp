#include "balancers/elastic/pipeline_model.hpp"

#include <algorithm>

#include "balancers/optimal.hpp"
#include "kernels/check.hpp"
#include "schedules/catalogue.hpp"

namespace pipemark {

const PipelineSimulator::Made& PipelineSimulator::made(int ranks, int micro_batches) const {
  const auto found = made_->find({ranks, micro_batches});
  if (found != made_->end()) return found->second;
  Made& entry = (*made_)[{ranks, micro_batches}];
  ScheduleRequest request;
  request.ranks = ranks;
  request.micro_batches = micro_batches;
  request.chunks = model_.chunks;
  request.memory_limit = model_.memory_limit * ranks;
  try {
    entry.schedule = std::make_unique<Schedule>(make_schedule(model_.schedule, request));
  } catch (const UserError&) {
    return entry;
  }
  if (entry.schedule->rank_count() != ranks || entry.schedule->micro_batches != micro_batches) {
    entry.schedule.reset();  // a file's
    return entry;
  }
  entry.slots = slot_needs(*entry.schedule);
  return entry;
}

const Schedule* PipelineSimulator::schedule(int ranks, int micro_batches) const {
  return made(ranks, micro_batches).schedule.get();
}

StageCost PipelineSimulator::stage_cost(const PipelinePlan& plan, int stage) const {
  StageCost cost = model_.overhead;
  const double B = static_cast<double>(model_.sequences) / plan.micro_batches;
  for (int layer = plan.partition.first[static_cast<std::size_t>(stage)];
       layer < plan.partition.first[static_cast<std::size_t>(stage) + 1]; ++layer) {
    const LayerLoad& load = model_.layers[static_cast<std::size_t>(layer)];
    cost.forward += load.fixed.forward + B * load.sequence.forward;
    cost.input_grad += load.fixed.input_grad + B * load.sequence.input_grad;
    cost.weight_grad += load.fixed.weight_grad + B * load.sequence.weight_grad;
  }
  return cost;
}

double PipelineSimulator::stage_s(const PipelinePlan& plan, int stage) const {
  const StageCost cost = stage_cost(plan, stage);
  return cost.forward + cost.backward();
}

double PipelineSimulator::step_s(const PipelinePlan& plan,
                                 const std::vector<double>& factors) const {
  const Schedule* schedule =
      this->schedule(static_cast<int>(plan.ranks.size()), plan.micro_batches);
  check(schedule != nullptr, "step_s: {} refuses {} ranks and {} micro-batches", model_.schedule,
        plan.ranks.size(), plan.micro_batches);
  const Placement& placement = schedule->placement;
  CostModel cost;
  cost.ranks = placement.ranks;
  cost.stages = placement.stages;
  std::vector<StageCost> times;
  for (int stage = 0; stage < cost.stages; ++stage) times.push_back(stage_cost(plan, stage));
  for (const int rank : plan.ranks) {
    const double factor = factors[static_cast<std::size_t>(rank)];
    for (const StageCost& time : times) {
      cost.stage.push_back(
          {factor * time.forward, factor * time.input_grad, factor * time.weight_grad});
    }
  }
  cost.message.assign(plan.ranks.size() * plan.ranks.size(), 0.0);
  return simulate(*schedule, cost).makespan + model_.other_s;
}

bool PipelineSimulator::fits(const PipelinePlan& plan) const {
  if (model_.capacity_bytes.empty()) return true;
  const Made& entry = made(static_cast<int>(plan.ranks.size()), plan.micro_batches);
  const double B = static_cast<double>(model_.sequences) / plan.micro_batches;
  for (std::size_t r = 0; r < plan.ranks.size(); ++r) {
    double bytes = 0;
    const auto held = entry.schedule->placement.held_by(static_cast<int>(r));
    for (std::size_t k = 0; k < held.size(); ++k) {
      const auto stage = static_cast<std::size_t>(held[k].second);
      for (int l = plan.partition.first[stage]; l < plan.partition.first[stage + 1]; ++l) {
        const LayerLoad& layer = model_.layers[static_cast<std::size_t>(l)];
        bytes += layer.state_bytes + entry.slots[r][k].activations * B * layer.activation_bytes;
      }
    }
    if (bytes > model_.capacity_bytes[static_cast<std::size_t>(plan.ranks[r])]) return false;
  }
  return true;
}

namespace {
/// held[rank][layer] of a plan; `placement` of its schedule.
std::vector<std::vector<bool>> holdings(const PipelinePlan& plan, const Placement& placement,
                                        int ranks) {
  std::vector<std::vector<bool>> held(
      static_cast<std::size_t>(ranks),
      std::vector<bool>(static_cast<std::size_t>(plan.partition.layers()), false));
  for (std::size_t i = 0; i < placement.rank.size(); ++i) {
    const auto rank =
        static_cast<std::size_t>(plan.ranks[static_cast<std::size_t>(placement.rank[i])]);
    const std::size_t stage = i % static_cast<std::size_t>(placement.stages);
    for (int l = plan.partition.first[stage]; l < plan.partition.first[stage + 1]; ++l) {
      held[rank][static_cast<std::size_t>(l)] = true;
    }
  }
  return held;
}
}  // namespace

double PipelineSimulator::migration_s(const PipelinePlan& from, const PipelinePlan& to) const {
  if (from == to) return 0;
  const auto placement = [&](const PipelinePlan& plan) -> const Placement& {
    return schedule(static_cast<int>(plan.ranks.size()), plan.micro_batches)->placement;
  };
  const auto before = holdings(from, placement(from), model_.ranks);
  const auto after = holdings(to, placement(to), model_.ranks);
  double most = 0;
  for (std::size_t r = 0; r < after.size(); ++r) {
    double bytes = 0;
    for (std::size_t l = 0; l < after[r].size(); ++l) {
      if (after[r][l] && !before[r][l]) bytes += model_.layers[l].state_bytes;
    }
    most = std::max(most, bytes);
  }
  return model_.migration_fixed_s + most / model_.migration_bytes_per_s;
}

Partition PipelineSimulator::best_partition(int micro_batches, const std::vector<int>& ranks,
                                            const std::vector<double>& factors) const {
  const Made& entry = made(static_cast<int>(ranks.size()), micro_batches);
  if (entry.schedule == nullptr) return {};
  const double B = static_cast<double>(model_.sequences) / micro_batches;
  ChainCosts costs;
  for (const int rank : ranks) {
    std::vector<double>& row = costs.seconds.emplace_back();
    for (const LayerLoad& layer : model_.layers) {
      row.push_back(factors[static_cast<std::size_t>(rank)] *
                    (layer.fixed.forward + layer.fixed.backward() +
                     B * (layer.sequence.forward + layer.sequence.backward())));
    }
    if (!model_.capacity_bytes.empty()) {
      costs.capacity_bytes.push_back(model_.capacity_bytes[static_cast<std::size_t>(rank)]);
    }
  }
  LiveActivations live;
  if (!model_.capacity_bytes.empty()) {
    for (const LayerLoad& layer : model_.layers) {
      costs.state_bytes.push_back(layer.state_bytes);
      costs.activation_bytes.push_back(B * layer.activation_bytes);
    }
    const Placement& placement = entry.schedule->placement;
    live.resize(placement.rank.size());
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      const auto held = placement.held_by(static_cast<int>(r));
      for (std::size_t k = 0; k < held.size(); ++k) {
        live[static_cast<std::size_t>(held[k].first * placement.stages + held[k].second)] =
            entry.slots[r][k].activations;
      }
    }
  }
  try {
    return optimal_partition(costs, entry.schedule->placement, live).partition;
  } catch (const UserError&) {
    return {};
  }
}

std::vector<int> PipelineSimulator::micro_batch_choices(int ranks) const {
  std::vector<int> choices;
  for (int m = 1; m <= model_.sequences; ++m) {
    if (model_.sequences % m == 0 && schedule(ranks, m) != nullptr) choices.push_back(m);
  }
  return choices;
}

}  // namespace pipemark
