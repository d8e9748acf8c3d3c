// ElasticBalancer (Elastic Pipeline Load Balancing): after each step it looks at what every stage
// took, and now and then decides whether the pipeline changes:
//
//   LoadMonitor    how slow each device is; a change makes it look at once, else every kInterval
//   candidates()   the exact partition for that, on the way to it, other numbers of micro-batches,
//                  without the slowest device; each with its simulated step and migration
//   Policy         what each will save; the best is taken where that is above 0
//
// Every model_update_freq steps the policy learns from the candidates it looked at: what they would
// have saved by the loads that came.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "balancers/elastic/load_monitor.hpp"
#include "balancers/elastic/pipeline_model.hpp"
#include "balancers/elastic/policy.hpp"

namespace pipemark {

struct Candidate {
  PipelinePlan plan;
  std::string kind;  ///< "boundaries", "micro-batches", "evict"
  double step_s = 0, cost_s = 0;
  int layers_moved = 0;
};

/// What a plan might be changed to; the first is `present` itself. All fit the memory.
std::vector<Candidate> candidates(const PipelineSimulator& simulator, const PipelinePlan& present,
                                  const std::vector<double>& factors);

struct ElasticSettings {
  std::int64_t steps = 0;      ///< of the run
  int model_update_freq = 20;  ///< rl_model_update_freq; 0: the policy stays as it is
};

class ElasticBalancer final : public RunningBalancer {
 public:
  static constexpr int kInterval = 10;  ///< steps between looks without a change
  static constexpr int kLooks = 4;      ///< steps in a row that it looks after one; the first look

  ElasticBalancer(PipelineSimulator simulator, PipelinePlan start, std::vector<double> factors,
                  ElasticSettings settings, Policy policy);

  std::optional<Decision> after_step(const StepObservation& seen) override;
  void applied(const Decision& decision, double migration_s) override;
  void refused(const Decision& decision, const std::string& why) override;

  const PipelinePlan& plan() const { return plan_; }
  const LoadMonitor& monitor() const { return monitor_; }
  const Policy& policy() const { return policy_; }
  const PipelineSimulator& simulator() const { return simulator_; }
  int moves() const { return moves_; }
  int alarms() const { return alarms_; }

  /// What it would choose among after the last step, for training: empty when it did not look.
  struct Look {
    std::vector<Candidate> options;  ///< the first: stay
    std::vector<Features> features;  ///< of each
    int chosen = 0;
  };
  const Look& look() const { return look_; }
  /// Takes option `index` of the last look instead of the policy's choice.
  std::optional<Decision> decide(int index);

 private:
  void watch(const StepObservation& seen);
  bool due() const;
  void look_at_options();
  void update_policy();
  std::string reason(const Candidate& option) const;

  PipelineSimulator simulator_;
  PipelinePlan plan_;
  LoadMonitor monitor_;
  ElasticSettings settings_;
  Policy policy_;
  std::int64_t step_ = -1, last_change_ = -1000, last_move_ = -1000;
  int moves_ = 0, alarms_ = 0;
  LoadChange change_;  ///< the last one seen
  Look look_;
  std::vector<PipelinePlan> refused_;
  /// A look of before, to learn from: staying against the best other option.
  struct Memory {
    std::int64_t step;
    PipelinePlan stay, other;
    Features features;
    double cost_s;
  };
  std::vector<Memory> memory_;
};

}  // namespace pipemark
