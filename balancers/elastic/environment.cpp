#include "balancers/elastic/environment.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "kernels/check.hpp"

namespace pipemark {

const char* to_string(TraceKind kind) {
  constexpr const char* kNames[] = {"quiet", "step", "drift", "failure", "mixed"};
  return kNames[static_cast<std::size_t>(kind)];
}

namespace {
/// Draws that are the same on every platform (std's distributions are not).
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : random_(seed * 0x9E3779B97F4A7C15ULL + 1) {
    random_.discard(8);
  }
  double uniform(double low, double high) {
    return low + (high - low) * static_cast<double>(random_() >> 11) * 0x1p-53;
  }
  int whole(int low, int high) {  ///< both included
    return low + static_cast<int>(random_() % static_cast<std::uint64_t>(high - low + 1));
  }
  bool chance(double p) { return uniform(0, 1) < p; }
  double normal() {
    const double u = uniform(1e-12, 1), v = uniform(0, 1);
    return std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v);
  }

 private:
  std::mt19937_64 random_;
};

/// Times in units of a block's F of one sequence, bytes in units of a block's weights.
PipelineModel random_model(Draw& draw) {
  PipelineModel model;
  const int kRanks[] = {4, 6, 8};
  model.ranks = kRanks[draw.whole(0, 2)];
  const int blocks = model.ranks * draw.whole(2, 5);
  const double head = draw.uniform(0.5, 2), activation = draw.uniform(0.01, 0.05);
  model.layers.push_back({{0.05, 0, 0.05}, {0, 0, 0}, 0.5, activation});
  for (int b = 0; b < blocks; ++b) model.layers.push_back({{1, 1, 1}, {0, 0, 0}, 1, activation});
  model.layers.push_back({{head, head, head}, {0, 0, 0}, 0.5, activation});
  const int kSequences[] = {32, 48, 64};
  model.sequences = kSequences[draw.whole(0, 2)];
  const double overhead = draw.uniform(0.1, 1);
  model.overhead = {overhead, overhead, overhead};
  const double step = 3.0 * model.sequences * (blocks + head) / model.ranks;  // about
  model.other_s = draw.uniform(0.01, 0.1) * step;
  model.migration_fixed_s = draw.uniform(0.2, 1) * step;
  model.migration_bytes_per_s = 1 / (draw.uniform(0.05, 0.5) * step);
  // Room for half as much again as an even share up to ample.
  const double share =
      static_cast<double>(blocks) / model.ranks * (1 + 4 * activation * model.ranks);
  model.capacity_bytes.assign(static_cast<std::size_t>(model.ranks), draw.uniform(2, 6) * share);
  return model;
}

void add_steps(Draw& draw, Episode& episode, int count) {
  const int steps = static_cast<int>(episode.level.size());
  for (int i = 0; i < count; ++i) {
    const auto rank = static_cast<std::size_t>(draw.whole(0, episode.simulator.model().ranks - 1));
    const int from = draw.whole(steps / 10, steps * 8 / 10);
    const int until = draw.chance(0.3) ? draw.whole(from, steps) : steps;
    const double factor = draw.uniform(1.2, 2.2);
    for (int t = from; t < until; ++t) episode.level[static_cast<std::size_t>(t)][rank] *= factor;
  }
}

void add_drift(Draw& draw, Episode& episode) {
  const int steps = static_cast<int>(episode.level.size());
  const auto rank = static_cast<std::size_t>(draw.whole(0, episode.simulator.model().ranks - 1));
  const int from = draw.whole(0, steps / 2), length = draw.whole(steps / 4, steps / 2);
  const double most = draw.uniform(1.3, 2);
  for (int t = from; t < steps; ++t) {
    const double part = std::min(1.0, static_cast<double>(t - from) / length);
    episode.level[static_cast<std::size_t>(t)][rank] *= 1 + part * (most - 1);
  }
}

void add_failure(Draw& draw, Episode& episode) {
  const int steps = static_cast<int>(episode.level.size());
  const auto rank = static_cast<std::size_t>(draw.whole(0, episode.simulator.model().ranks - 1));
  const int from = draw.whole(steps / 10, steps * 8 / 10);
  const double factor = draw.uniform(4, 8);  // all but dead
  for (int t = from; t < steps; ++t) episode.level[static_cast<std::size_t>(t)][rank] *= factor;
}

void add_noise(Draw& draw, Episode& episode) {
  const double sigma = draw.uniform(0.003, 0.04);
  episode.factor = episode.level;
  for (auto& step : episode.factor) {
    for (double& factor : step) {
      factor *= std::exp(sigma * draw.normal());
      if (draw.chance(0.003)) factor *= 1.5;  // one step of something else on the machine
    }
  }
}

/// The best plan for these factors that can be found.
PipelinePlan best_start(const PipelineSimulator& simulator, const std::vector<double>& factors) {
  PipelinePlan best;
  double least = 0;
  std::vector<int> ranks(static_cast<std::size_t>(simulator.model().ranks));
  std::iota(ranks.begin(), ranks.end(), 0);
  for (const int m : simulator.micro_batch_choices(simulator.model().ranks)) {
    const PipelinePlan plan{simulator.best_partition(m, ranks, factors), m, ranks};
    if (plan.partition.first.empty() || !simulator.fits(plan)) continue;
    const double step = simulator.step_s(plan, factors);
    if (best.ranks.empty() || step < least) {
      best = plan;
      least = step;
    }
  }
  // The partition of least bottleneck need not have the shortest step: go on to what has.
  while (!best.ranks.empty()) {
    const auto options = candidates(simulator, best, factors);
    const auto shortest =
        std::min_element(options.begin(), options.end(),
                         [](const auto& a, const auto& b) { return a.step_s < b.step_s; });
    if (shortest == options.begin()) break;
    best = shortest->plan;
  }
  return best;
}
}  // namespace

Episode random_episode(std::uint64_t seed, TraceKind kind, const EpisodeOptions& options) {
  Draw draw(seed);
  Episode episode;
  episode.kind = kind;
  episode.homogeneous = options.homogeneous;
  do {
    episode.simulator = PipelineSimulator(random_model(draw));
    const auto ranks = static_cast<std::size_t>(episode.simulator.model().ranks);
    episode.nominal.assign(ranks, 1.0);
    for (double& factor : episode.nominal) {
      if (!options.homogeneous && draw.chance(0.3)) factor = draw.uniform(1.2, 2);
    }
    episode.start = best_start(episode.simulator, episode.nominal);
  } while (episode.start.ranks.empty());  // too little memory for any plan
  episode.level.assign(static_cast<std::size_t>(options.steps), episode.nominal);
  if (kind == TraceKind::step) add_steps(draw, episode, draw.whole(1, 3));
  if (kind == TraceKind::drift || kind == TraceKind::mixed) add_drift(draw, episode);
  if (kind == TraceKind::failure) add_failure(draw, episode);
  if (kind == TraceKind::mixed) add_steps(draw, episode, draw.whole(1, 2));
  add_noise(draw, episode);
  return episode;
}

StepObservation observation_of(const Episode& episode, const PipelinePlan& plan, int step) {
  StepObservation seen;
  seen.step = step;
  const auto& factors = episode.factor[static_cast<std::size_t>(step)];
  const Placement& placement =
      episode.simulator.schedule(static_cast<int>(plan.ranks.size()), plan.micro_batches)
          ->placement;
  for (std::size_t i = 0; i < placement.rank.size(); ++i) {
    const int stage = static_cast<int>(i) % placement.stages;
    const int rank = plan.ranks[static_cast<std::size_t>(placement.rank[i])];
    const int count = plan.micro_batches / placement.replicas;
    const double time =
        count * factors[static_cast<std::size_t>(rank)] * episode.simulator.stage_s(plan, stage);
    seen.stages.push_back({rank, static_cast<int>(i) / placement.stages, stage, time / 3, time / 3,
                           time / 3, 0, count});
  }
  return seen;
}

Outcome run_episode(const Episode& episode, const PipelinePlan& start, RunningBalancer* balancer,
                    int first, int last) {
  Outcome outcome;
  PipelinePlan plan = start;
  outcome.visited.push_back(plan);
  for (int step = first; step < last; ++step) {
    outcome.total_s +=
        episode.simulator.step_s(plan, episode.factor[static_cast<std::size_t>(step)]);
    if (balancer == nullptr || step + 1 == episode.steps()) continue;
    const auto decision = balancer->after_step(observation_of(episode, plan, step));
    if (!decision) continue;
    check(episode.simulator.fits(decision->plan), "a decision beyond the memory");
    const double cost = episode.simulator.migration_s(plan, decision->plan);
    outcome.migration_s += cost;
    outcome.total_s += cost;
    outcome.moves += 1;
    plan = decision->plan;
    balancer->applied(*decision, cost);
    if (std::find(outcome.visited.begin(), outcome.visited.end(), plan) == outcome.visited.end()) {
      outcome.visited.push_back(plan);
    }
  }
  return outcome;
}

GreedyBalancer::GreedyBalancer(const Episode& episode)
    : simulator_(episode.simulator), plan_(episode.start), factors_(episode.nominal) {}

std::optional<Decision> GreedyBalancer::after_step(const StepObservation& seen) {
  constexpr double kWeight = 0.3;  // of a step in the smoothed loads
  for (const StageTimes& stage : seen.stages) {
    const double ratio =
        stage.total_s() / (stage.micro_batches * simulator_.stage_s(plan_, stage.stage));
    double& factor = factors_[static_cast<std::size_t>(stage.rank)];
    factor += kWeight * (ratio - factor);
  }
  if (seen.step % ElasticBalancer::kInterval != ElasticBalancer::kInterval - 1) return {};
  const std::vector<Candidate> options = candidates(simulator_, plan_, factors_);
  const auto best =
      std::min_element(options.begin(), options.end(),
                       [](const Candidate& a, const Candidate& b) { return a.step_s < b.step_s; });
  if (best == options.begin()) return {};
  return Decision{best->plan,  best->kind, "faster", best->step_s, options.front().step_s,
                  best->cost_s};
}

ElasticBalancer elastic_for(const Episode& episode, const Policy& policy, int model_update_freq) {
  return ElasticBalancer(episode.simulator, episode.start, episode.nominal,
                         {episode.steps(), model_update_freq}, policy);
}

}  // namespace pipemark
