#include "balancers/partition_study.hpp"

#include <algorithm>
#include <numeric>

#include "balancers/balancer.hpp"
#include "balancers/model_profile.hpp"
#include "balancers/optimal.hpp"
#include "kernels/check.hpp"
#include "schedules/simulate.hpp"

namespace pipemark {

std::vector<LayerCost> layer_costs(const ModelProfile& profile, double samples,
                                   double flops_per_s) {
  check(samples > 0 && flops_per_s > 0, "{} samples at {} FLOP/s", samples, flops_per_s);
  const double seconds = samples / flops_per_s;
  std::vector<LayerCost> layers;
  for (const ProfileLayer& layer : profile.layers) {
    layers.push_back({layer.name, static_cast<std::int64_t>(layer.parameters),
                      seconds * layer.forward_flops, seconds * layer.input_grad_flops,
                      seconds * layer.weight_grad_flops});
  }
  return layers;
}

namespace {
double speed_of(const PartitionStudy& study, int rank) {
  return study.speeds.empty() ? 1 : study.speeds[static_cast<std::size_t>(rank)];
}

std::vector<double> state_bytes(const PartitionStudy& study) {
  std::vector<double> bytes;
  for (const LayerCost& layer : study.layers) {
    bytes.push_back(kStateBytesPerParameter * static_cast<double>(layer.parameters));
  }
  return bytes;
}

/// Live activations by [replica * S + stage].
LiveActivations live_activations(const Schedule& schedule) {
  const Placement& placement = schedule.placement;
  LiveActivations live(placement.rank.size(), 0);
  const auto needs = slot_needs(schedule);
  for (int rank = 0; rank < placement.ranks; ++rank) {
    const auto held = placement.held_by(rank);
    for (std::size_t k = 0; k < held.size(); ++k) {
      live[static_cast<std::size_t>(held[k].first * placement.stages + held[k].second)] =
          needs[static_cast<std::size_t>(rank)][k].activations;
    }
  }
  return live;
}

ChainCosts chain_costs(const PartitionStudy& study, const Placement& placement) {
  std::vector<double> speeds;
  for (int r = 0; r < placement.ranks; ++r) speeds.push_back(speed_of(study, r));
  ChainCosts costs = ChainCosts::of(study.layers, speeds);
  costs.state_bytes = state_bytes(study);
  costs.activation_bytes = study.activation_bytes;
  if (study.memory_bytes > 0) costs.capacity_bytes.assign(speeds.size(), study.memory_bytes);
  return costs;
}

double sum(const std::vector<double>& values, int from, int to) {
  return values.empty() ? 0 : std::accumulate(values.begin() + from, values.begin() + to, 0.0);
}

/// Boundaries one by one, by up to `reach` layers, while the step gets shorter.
StudiedPartition shorten(const PartitionStudy& study, const Schedule& schedule,
                         StudiedPartition best) {
  constexpr int kReach = 2, kMaxRounds = 20;
  for (int round = 0; round < kMaxRounds; ++round) {
    const double before_s = best.step_s;
    for (int s = 1; s < best.partition.stages(); ++s) {
      for (int by = -kReach; by <= kReach; ++by) {
        Partition tried = best.partition;
        const auto at = static_cast<std::size_t>(s);
        tried.first[at] += by;
        if (by == 0 || tried.first[at] <= tried.first[at - 1] ||
            tried.first[at] >= tried.first[at + 1]) {
          continue;
        }
        StudiedPartition other = study_partition(study, schedule, "step", tried);
        if (other.fits && other.step_s < best.step_s) best = std::move(other);
      }
    }
    if (best.step_s >= before_s) break;
  }
  best.name = "step";
  return best;
}
}  // namespace

CostModel cost_model(const PartitionStudy& study, const Partition& partition,
                     const Placement& placement) {
  CostModel cost;
  cost.ranks = placement.ranks;
  cost.stages = placement.stages;
  const auto ranks = static_cast<std::size_t>(placement.ranks);
  cost.message.assign(ranks * ranks, 0);
  std::vector<StageCost> of_stage;
  for (int s = 0; s < placement.stages; ++s) {
    const int* cut = partition.first.data() + s;
    of_stage.push_back(stage_time(study.layers, cut[0], cut[1]));
  }
  for (int rank = 0; rank < placement.ranks; ++rank) {
    const double speed = speed_of(study, rank);
    for (const StageCost& stage : of_stage) {
      cost.stage.push_back(
          {stage.forward / speed, stage.input_grad / speed, stage.weight_grad / speed});
    }
  }
  if (study.link_bytes_per_s <= 0 || study.output_bytes.empty()) return cost;
  for (int replica = 0; replica < placement.replicas; ++replica) {
    for (int s = 0; s + 1 < placement.stages; ++s) {
      const auto a = static_cast<std::size_t>(placement.rank_of(replica, s));
      const auto b = static_cast<std::size_t>(placement.rank_of(replica, s + 1));
      if (a == b) continue;
      const int last = partition.first[static_cast<std::size_t>(s) + 1] - 1;
      const double seconds =
          study.link_latency_s +
          study.output_bytes[static_cast<std::size_t>(last)] / study.link_bytes_per_s;
      for (const std::size_t pair : {a * ranks + b, b * ranks + a}) {
        cost.message[pair] = std::max(cost.message[pair], seconds);
      }
    }
  }
  return cost;
}

StudiedPartition study_partition(const PartitionStudy& study, const Schedule& schedule,
                                 std::string name, const Partition& partition) {
  const Placement& placement = schedule.placement;
  StudiedPartition row;
  row.name = std::move(name);
  row.partition = partition;
  const Simulation made = simulate(schedule, cost_model(study, partition, placement));
  row.step_s = made.makespan;
  row.bubble_ratio = made.bubble_ratio;
  const double mean = std::accumulate(made.busy.begin(), made.busy.end(), 0.0) /
                      static_cast<double>(made.busy.size());
  if (mean > 0) row.imbalance = *std::max_element(made.busy.begin(), made.busy.end()) / mean;
  const auto live = live_activations(schedule);
  const auto states = state_bytes(study);
  for (int rank = 0; rank < placement.ranks; ++rank) {
    double bytes = 0;
    for (const auto& [replica, stage] : placement.held_by(rank)) {
      const int from = partition.first[static_cast<std::size_t>(stage)];
      const int to = partition.first[static_cast<std::size_t>(stage) + 1];
      bytes += sum(states, from, to) +
               live[static_cast<std::size_t>(replica * placement.stages + stage)] *
                   sum(study.activation_bytes, from, to);
    }
    row.peak_bytes = std::max(row.peak_bytes, bytes);
  }
  row.fits = study.memory_bytes <= 0 || row.peak_bytes <= study.memory_bytes;
  return row;
}

std::vector<StudiedPartition> study_partitions(const PartitionStudy& study,
                                               const Schedule& schedule) {
  const Placement& placement = schedule.placement;
  std::vector<StudiedPartition> rows;
  const auto add = [&](const std::string& name, const Partition& partition) {
    rows.push_back(study_partition(study, schedule, name, partition));
  };
  for (const char* name : {"static-even", "static-parameters", "static-cost"}) {
    add(name, make_partition(name, study.layers, placement));
  }
  try {
    add("optimal",
        optimal_partition(chain_costs(study, placement), placement, live_activations(schedule))
            .partition);
  } catch (const UserError&) {
    if (study.memory_bytes <= 0) throw;  // else nothing fits: the others' rows say so
  }
  const StudiedPartition* fastest = nullptr;
  for (const StudiedPartition& row : rows) {
    if (row.fits && (fastest == nullptr || row.step_s < fastest->step_s)) fastest = &row;
  }
  if (fastest != nullptr) rows.push_back(shorten(study, schedule, *fastest));
  return rows;
}

}  // namespace pipemark
