// What the elastic balancer knows of a running pipeline: its layers' times and bytes, its schedule,
// its devices' memory, what a migration costs; and the simulator that turns a plan and the devices'
// slowness into seconds of a step.
//
// A device of factor f takes f times as long as the layers' times say. A stage's F takes
// overhead + B sum of its layers' forward times, B the sequences of a micro-batch; I and W
// likewise.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "balancers/pipeline_plan.hpp"
#include "schedules/cost_model.hpp"
#include "schedules/schedule.hpp"
#include "schedules/simulate.hpp"

namespace pipemark {

struct LayerLoad {
  StageCost sequence{0, 0, 0};  ///< seconds of one sequence on a device of factor 1
  StageCost fixed{0, 0, 0};     ///< and of a micro-batch, however small
  double state_bytes = 0;       ///< weights, gradients, moments
  double activation_bytes = 0;  ///< of one sequence
};

struct PipelineModel {
  std::string schedule = "1f1b";
  int chunks = 0;
  double memory_limit = 0;  ///< of schedule.memory_limit: a multiple of 1F1B's peak; 0: none
  int ranks = 0;
  std::vector<LayerLoad> layers;
  StageCost overhead{0, 0, 0};         ///< of each F, I, W of a stage
  int sequences = 0;                   ///< of a step, over all micro-batches
  double other_s = 0;                  ///< of a step outside the pipeline
  double migration_fixed_s = 0;        ///< building the pipeline anew
  double migration_bytes_per_s = 1e9;  ///< into one rank
  std::vector<double> capacity_bytes;  ///< by rank; empty: no limit
};

class PipelineSimulator {
 public:
  explicit PipelineSimulator(PipelineModel model) : model_(std::move(model)) {}

  const PipelineModel& model() const { return model_; }
  PipelineModel& model() { return model_; }
  /// Seconds of a step; `factors` by pipeline rank.
  double step_s(const PipelinePlan& plan, const std::vector<double>& factors) const;
  /// F + I + W of one micro-batch of a stage at factor 1.
  double stage_s(const PipelinePlan& plan, int stage) const;
  /// Whether every rank's weights and live activations are within its memory.
  bool fits(const PipelinePlan& plan) const;
  double migration_s(const PipelinePlan& from, const PipelinePlan& to) const;
  /// The exact partition for these factors; empty where none fits the memory.
  Partition best_partition(int micro_batches, const std::vector<int>& ranks,
                           const std::vector<double>& factors) const;
  /// Divisors of the step's sequences that the schedule allows, rising.
  std::vector<int> micro_batch_choices(int ranks) const;
  /// Null where the schedule refuses.
  const Schedule* schedule(int ranks, int micro_batches) const;

 private:
  StageCost stage_cost(const PipelinePlan& plan, int stage) const;

  struct Made {
    std::unique_ptr<Schedule> schedule;  ///< null: refused
    std::vector<std::vector<SlotNeeds>> slots;
  };
  const Made& made(int ranks, int micro_batches) const;

  PipelineModel model_;
  /// Shared by copies of the simulator: schedules don't depend on loads.
  std::shared_ptr<std::map<std::pair<int, int>, Made>> made_ =
      std::make_shared<std::map<std::pair<int, int>, Made>>();
};

}  // namespace pipemark
