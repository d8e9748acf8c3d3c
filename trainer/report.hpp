// TrainReport: what one run tells, gathered on rank 0. suite/ writes it to HDF5.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "balancers/partition.hpp"
#include "schedules/analysis.hpp"
#include "schedules/timeline.hpp"

namespace pipemark {

enum class Evidence : std::uint8_t { measured, paced, simulated, invalid_timing };
std::string to_string(Evidence evidence);  ///< "measured", "paced", "simulated", "oversubscribed"

struct StepReport {
  std::int64_t step = 0;
  double loss = 0;           ///< mean over the batch's tokens, nats
  double gradient_norm = 0;  ///< before clipping
  double learning_rate = 0;
  double step_s = 0;       ///< slowest rank, whole step
  double pipeline_s = 0;   ///< makespan of the schedule's actions
  double optimizer_s = 0;  ///< gradient sums, norm, AdamW
  double bubble_ratio = 0;
  double span_bubble_rate = 0;
  int overruns = 0;  ///< paced actions that took longer than their time
  double host_overhead_s = 0;  ///< an action, neither in a stage's call nor in a wait; slowest rank
  bool warmup = false;
  /// All-to-alls of the experts' rows, mean over ranks: how long nothing else could run (inside
  /// actions, so not in bubble_ratio), and how long they were under way (summed over exchanges).
  double exchange_exposed_s = 0, exchange_flight_s = 0;
  double expert_imbalance = 0;  ///< most rows of an expert rank over the mean, mean over blocks
  std::int64_t expert_moved_bytes = 0;  ///< after this step, over all ranks
  double expert_move_s = 0;
};

struct RankReport {
  int rank = 0;
  std::string host, device;
  std::int64_t arena_bytes = 0;                ///< used = predicted
  std::int64_t peak_resident_bytes = 0;        ///< of the process
  int peak_live = 0, predicted_peak_live = 0;  ///< (stage, micro-batch) activations
  std::int64_t parameters = 0;
};

/// A balancer's decision at a step's end, and what became of it.
struct DecisionReport {
  std::int64_t step = 0;  ///< after it
  std::string kind, reason;
  std::vector<int> partition, ranks;  ///< Partition::first; pipeline ranks that take part
  int micro_batches = 0;
  double present_step_s = 0, expected_step_s = 0, expected_cost_s = 0;  ///< simulated
  bool applied = false;
  std::string refusal;     ///< why not
  double migration_s = 0;  ///< that it took, all of it
  std::int64_t moved_bytes = 0;
};

struct TrainReport {
  std::string schedule, balancer, backend, transport;
  int ranks = 0, data = 1, micro_batches = 0, stages = 0;
  Evidence evidence = Evidence::measured;
  bool valid = true;
  std::string invalid_reason;
  bool complete = false;  ///< false: the run ended early (a partial record)
  std::string failure;    ///< what ended it

  Partition partition;  ///< at the start
  std::vector<DecisionReport> decisions;
  std::vector<LayerCost> layer_costs;  ///< when measured
  std::vector<StepReport> steps;
  std::vector<RankReport> rank_reports;
  Timeline timeline;  ///< the median step's, actions of pipeline 0
  IdleAnalysis idle;  ///< of `timeline`
  Timeline predicted_timeline;
  double predicted_bubble_ratio = 0,
         predicted_makespan_s = 0;  ///< simulate() with measured or paced costs
  double median_step_s = 0, tokens_per_s = 0, model_flops_per_s = 0;
  double mfu = -1;  ///< < 0: the device's peak is not known
  double validation_loss = -1;
  double bigram_validation_loss =
      -1;  ///< of a bigram model counted on the training split; < 0: not asked for
  std::int64_t parameters = 0, tokens_per_step = 0;
};

}  // namespace pipemark
