#include "suite/tune.hpp"

#include <algorithm>
#include <optional>

#include "balancers/balancer.hpp"
#include "kernels/check.hpp"
#include "schedules/catalogue.hpp"
#include "schedules/simulate.hpp"
#include "trainer/run_plan.hpp"
#include "trainer/time_model.hpp"

namespace pipemark {

std::vector<LayerCost> TuneProfile::layers(int sequences) const {
  std::vector<LayerCost> layers = at_zero;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    layers[l].forward_s += sequences * per_sequence[l].forward_s;
    layers[l].input_grad_s += sequences * per_sequence[l].input_grad_s;
    layers[l].weight_grad_s += sequences * per_sequence[l].weight_grad_s;
  }
  return layers;
}

TuneProfile fit_profile(const std::vector<LayerCost>& small, int small_sequences,
                        const std::vector<LayerCost>& large, int large_sequences) {
  check(small.size() == large.size() && !small.empty(), "profiles of {} and {} layers",
        small.size(), large.size());
  TuneProfile profile{small, small, 0, 0};
  const int span = large_sequences - small_sequences;
  for (std::size_t l = 0; l < small.size(); ++l) {
    for (double LayerCost::*time :
         {&LayerCost::forward_s, &LayerCost::input_grad_s, &LayerCost::weight_grad_s}) {
      const double low = small[l].*time, high = large[l].*time;
      const double slope = span > 0 ? std::max(0.0, (high - low) / span) : low / small_sequences;
      profile.at_zero[l].*time = std::max(0.0, low - slope * small_sequences);
      profile.per_sequence[l].*time = slope;
    }
  }
  return profile;
}

namespace {

CostModel cost_of(const RunPlan& plan, const TuneProfile& profile) {
  const Placement& placement = plan.schedule.placement;
  const auto layers = profile.layers(plan.shape.sequences);
  CostModel cost;
  cost.ranks = placement.ranks;
  cost.stages = placement.stages;
  const auto ranks = static_cast<std::size_t>(placement.ranks);
  cost.message.assign(ranks * ranks, 0.0);
  std::vector<StageCost> stages;
  for (int s = 0; s < placement.stages; ++s) {
    const LayerRange range = plan.layers_of(s);
    StageCost stage = stage_time(layers, range.first, range.last);
    // A checkpointed stage runs its F again before the backward.
    if (plan.checkpointed[static_cast<std::size_t>(s)]) stage.input_grad += stage.forward;
    stage.forward += profile.action_s;
    stage.input_grad += profile.action_s;
    stage.weight_grad += profile.action_s;
    stages.push_back(stage);
  }
  for (int rank = 0; rank < placement.ranks; ++rank) {
    cost.stage.insert(cost.stage.end(), stages.begin(), stages.end());
  }
  return cost;
}

/// What one stage holds; see the header of trainer/gpt_stage.hpp for the terms.
double stage_bytes(const RunConfig& config, const RunPlan& plan, int stage, const SlotNeeds& needs,
                   double a) {
  const auto& model = config.model;
  const double C = model.channels, H = model.heads, Vp = model.vocabulary_padded();
  const double N = static_cast<double>(plan.shape.sequences) * model.context;
  const LayerRange range = plan.layers_of(stage);
  double activations = 0, deferred = 0, parameters = 0;
  const auto costs = layer_parameter_costs(model);
  for (int l = range.first; l < range.last; ++l) {
    parameters += static_cast<double>(costs[static_cast<std::size_t>(l)].parameters);
    const bool block = l > 0 && l <= model.layers;
    if (block) activations += N * (16 * C * a + 16 + 4 * H), deferred += 9 * N * C * a;
    if (l == model.layers + 1) activations += N * (2 * C * a + 8 + Vp * a);
    if (l == range.first && l > 0) activations -= N * C * a;  // its input is a boundary
  }
  const bool checkpointed = plan.checkpointed[static_cast<std::size_t>(stage)];
  const double rooms = checkpointed ? 1 + needs.deferred_weights : needs.activations;
  constexpr double kMasterGradientMoments = 16;
  const double working = a < 4 ? a : 0;  // fp32 computes with the master weights
  // A boundary in and out and their gradients for each live micro-batch.
  return parameters * (kMasterGradientMoments + working) + rooms * activations +
         needs.deferred_weights * deferred + 2 * needs.activations * N * C * a;
}

double memory_of(const RunConfig& config, const RunPlan& plan, double a) {
  const Placement& placement = plan.schedule.placement;
  const auto needs = slot_needs(plan.schedule);
  const double N = static_cast<double>(plan.shape.sequences) * config.model.context;
  const double scratch = 12 * N * config.model.channels * a + 4 * N;
  double largest = 0;
  for (int rank = 0; rank < placement.ranks; ++rank) {
    const auto held = placement.held_by(rank);
    double bytes = scratch;
    for (std::size_t k = 0; k < held.size(); ++k) {
      bytes +=
          stage_bytes(config, plan, held[k].second, needs[static_cast<std::size_t>(rank)][k], a);
    }
    largest = std::max(largest, bytes);
  }
  return largest;
}

int sequences_of(const RunConfig& config) {
  return config.train.batch / config.parallel.data / config.train.micro_batches;
}

/// The numbers of micro-batches that the batch allows.
std::vector<int> micro_batch_counts(const RunConfig& config) {
  const int sequences = config.train.batch / config.parallel.data;
  std::vector<int> counts;
  for (int m = 1; m <= sequences; ++m) {
    if (sequences % m == 0) counts.push_back(m);
  }
  return counts;
}

std::optional<Candidate> try_candidate(const RunConfig& config, const TuneProfile& profile,
                                       const TuneSpace& space) {
  try {
    return predict_candidate(config, profile, space);
  } catch (const UserError&) {
    return std::nullopt;  // a schedule refuses some sizes: no candidate
  }
}

bool fits(const Candidate& candidate, const TuneSpace& space) {
  return space.memory_bytes <= 0 || candidate.peak_bytes <= space.memory_bytes;
}

std::vector<std::string> schedules_of(const TuneSpace& space) {
  if (!space.schedules.empty()) return space.schedules;
  std::vector<std::string> names;
  for (const CatalogueRow& row : catalogue()) {
    if (row.name != "zb-auto") names.push_back(row.name);  // its search is for one cost at a time
  }
  return names;
}

bool same_run(const RunConfig& a, const RunConfig& b) {
  return a.schedule.name == b.schedule.name && a.schedule.chunks == b.schedule.chunks &&
         a.train.micro_batches == b.train.micro_batches &&
         a.train.checkpointing == b.train.checkpointing &&
         a.balancer.partition == b.balancer.partition;
}
}  // namespace

Candidate predict_candidate(const RunConfig& config, const TuneProfile& profile,
                            const TuneSpace& space) {
  check_run(config, 0);
  const RunPlan plan = make_run_plan(config, profile.layers(sequences_of(config)));
  Candidate candidate;
  candidate.config = config;
  candidate.config.balancer.partition = plan.partition.first;
  const Simulation made = simulate(plan.schedule, cost_of(plan, profile));
  candidate.step_s = made.makespan + profile.rest_s;
  candidate.bubble_ratio = made.bubble_ratio;
  candidate.peak_bytes = memory_of(config, plan, space.activation_bytes);
  return candidate;
}

double predict_memory(const RunConfig& config, const TuneSpace& space) {
  return memory_of(config, make_run_plan(config, layer_parameter_costs(config.model)),
                   space.activation_bytes);
}

Candidate recipe(const RunConfig& config, const TuneProfile& profile, const TuneSpace& space) {
  RunConfig tried = config;
  tried.balancer = {"static-even", {}};
  std::optional<Candidate> best;
  for (const int m : micro_batch_counts(config)) {
    if (m < config.train.micro_batches) continue;
    tried.train.micro_batches = m;
    auto candidate = try_candidate(tried, profile, space);
    if (!candidate || (best && !fits(*candidate, space))) continue;
    if (best && candidate->bubble_ratio >= best->bubble_ratio) break;
    best = std::move(candidate);
  }
  if (!best) {
    tried.train.micro_batches = config.train.micro_batches;
    best = predict_candidate(tried, profile, space);  // says what refuses it
  }
  best->label = "recipe";
  return *best;
}

std::vector<Candidate> search(const RunConfig& config, const TuneProfile& profile,
                              const TuneSpace& space) {
  std::vector<Candidate> found;
  RunConfig tried = config;
  for (const std::string& schedule : schedules_of(space)) {
    tried.schedule.name = schedule;
    const CatalogueRow* row = &find_schedule(schedule);
    const std::vector<int> chunks =
        row->default_chunks > 1 ? std::vector<int>{0, 3, 4} : std::vector<int>{0};
    for (const int chunk : chunks) {
      tried.schedule.chunks = chunk;
      for (const int m : micro_batch_counts(config)) {
        tried.train.micro_batches = m;
        for (const char* balancer : {"static-even", "optimal"}) {
          tried.balancer = {balancer, {}};
          for (const char* checkpointing : {"none", "full"}) {
            tried.train.checkpointing = checkpointing;
            auto candidate = try_candidate(tried, profile, space);
            if (candidate && fits(*candidate, space)) found.push_back(std::move(*candidate));
          }
        }
      }
    }
  }
  std::stable_sort(found.begin(), found.end(), [](const Candidate& a, const Candidate& b) {
    return a.step_s < b.step_s || (a.step_s == b.step_s && a.peak_bytes < b.peak_bytes);
  });
  std::vector<Candidate> distinct;
  for (Candidate& candidate : found) {
    const bool twin = std::any_of(distinct.begin(), distinct.end(), [&](const Candidate& other) {
      return same_run(candidate.config, other.config);
    });
    if (!twin) distinct.push_back(std::move(candidate));
  }
  return distinct;
}

}  // namespace pipemark
