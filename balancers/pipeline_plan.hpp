// PipelinePlan: what a running pipeline may be changed to at a step's end, and what it sees after
// each step when it decides. A RunningBalancer is asked on one rank; the trainer tells the others.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "balancers/partition.hpp"

namespace pipemark {

struct PipelinePlan {
  Partition partition;
  int micro_batches = 0;   ///< of a step; the batch stays as it is
  std::vector<int> ranks;  ///< pipeline ranks that take part, in the schedule's order
  bool operator==(const PipelinePlan&) const = default;
};

/// Busy seconds of one step on one rank by the stage and the kind of action.
struct StageTimes {
  int rank = 0, replica = 0, stage = 0;
  double forward_s = 0, input_grad_s = 0, weight_grad_s = 0;  ///< a full backward: halves
  double wait_s = 0;                                          ///< for inputs, before its actions
  int micro_batches = 0;                                      ///< forwards that ran
  double total_s() const { return forward_s + input_grad_s + weight_grad_s; }
};

/// One step, as all ranks saw it.
struct StepObservation {
  std::int64_t step = 0;
  double step_s = 0, pipeline_s = 0;
  std::vector<StageTimes> stages;    ///< of every rank that takes part
  std::vector<double> memory_bytes;  ///< in use, by pipeline rank
};

struct Decision {
  PipelinePlan plan;
  std::string kind;                                ///< "boundaries", "micro-batches", "evict"
  std::string reason;                              ///< one sentence
  double expected_step_s = 0, present_step_s = 0;  /// simulated, of the new and the present plan
  double expected_cost_s = 0;                      ///< of the migration
};

class RunningBalancer {
 public:
  virtual ~RunningBalancer() = default;
  /// After each step but the last; empty: nothing changes.
  virtual std::optional<Decision> after_step(const StepObservation& seen) = 0;
  /// What became of a decision: `migration_s` it took, or why the trainer refused it.
  virtual void applied(const Decision& decision, double migration_s) = 0;
  virtual void refused(const Decision& decision, const std::string& why) = 0;
};

}  // namespace pipemark
