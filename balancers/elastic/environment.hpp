// Simulated runs for training and judging balancers: a random cluster, a pipeline on it, and a
// trace of how slow each device is in every step. Everything follows from a seed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "balancers/elastic/elastic_balancer.hpp"

namespace pipemark {

enum class TraceKind : std::uint8_t { quiet, step, drift, failure, mixed };
const char* to_string(TraceKind kind);

struct Episode {
  PipelineSimulator simulator{PipelineModel{}};
  PipelinePlan start;           ///< optimal for `nominal`
  std::vector<double> nominal;  ///< by rank: what is known before the run
  TraceKind kind = TraceKind::quiet;
  bool homogeneous = false;                 ///< all devices alike, now and later
  std::vector<std::vector<double>> level;   ///< [step][rank]: the device's factor
  std::vector<std::vector<double>> factor;  ///< the same with the step's noise: what runs
  int steps() const { return static_cast<int>(factor.size()); }
};

struct EpisodeOptions {
  int steps = 300;
  bool homogeneous = false;
};
Episode random_episode(std::uint64_t seed, TraceKind kind, const EpisodeOptions& options = {});

/// What a balancer sees of a step.
StepObservation observation_of(const Episode& episode, const PipelinePlan& plan, int step);

struct Outcome {
  double total_s = 0, migration_s = 0;
  int moves = 0;
  std::vector<PipelinePlan> visited;  ///< each once
};
/// Steps [first, last) under a balancer (null: the plan stays). Migrations take what the model
/// says.
Outcome run_episode(const Episode& episode, const PipelinePlan& start, RunningBalancer* balancer,
                    int first, int last);
inline Outcome run_episode(const Episode& episode, RunningBalancer* balancer) {
  return run_episode(episode, episode.start, balancer, 0, episode.steps());
}

/// Moves to the optimal partition by the last steps' loads every kInterval steps whenever that is
/// any faster, whatever it costs.
class GreedyBalancer final : public RunningBalancer {
 public:
  explicit GreedyBalancer(const Episode& episode);
  std::optional<Decision> after_step(const StepObservation& seen) override;
  void applied(const Decision& decision, double) override { plan_ = decision.plan; }
  void refused(const Decision&, const std::string&) override {}

 private:
  PipelineSimulator simulator_;
  PipelinePlan plan_;
  std::vector<double> factors_;
};

ElasticBalancer elastic_for(const Episode& episode, const Policy& policy, int model_update_freq);

/// The shortest total time of any sequence of plans that pays for its migrations and knows the
/// whole trace: dynamic programming over (step, plan), the plans being `offered` and the optimal
/// ones of every stretch between two of `cuts` steps, with the numbers of micro-batches and
/// evictions that fit. It is the least over those plans: the more are offered the lower it gets.
double hindsight_s(const Episode& episode, const std::vector<PipelinePlan>& offered);
/// The same over just these plans.
double hindsight_over_s(const Episode& episode, const std::vector<PipelinePlan>& plans);

}  // namespace pipemark
