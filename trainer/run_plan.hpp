// RunPlan: everything about a run that follows from its configuration before memory is taken: the
// checks, the schedule, the partition, the shapes. The same on every rank.
#pragma once

#include <vector>

#include "balancers/balancer.hpp"
#include "balancers/pipeline_plan.hpp"
#include "schedules/schedule.hpp"
#include "trainer/config.hpp"
#include "trainer/gpt_stage.hpp"
#include "trainer/pace.hpp"

namespace pipemark {

/// Throws UserError naming key, value and what would be right: the grid against `ranks`, the batch
/// against micro-batches and data ranks, values below their least. What the schedule asks for is
/// checked by its catalogue row, the model by GptStage and the data by Dataset.
void check_config(const RunConfig& config, int ranks);

/// "none", "full", or stages "0,2": one flag a stage.
std::vector<bool> checkpointed_stages(const std::string& checkpointing, int stages);

/// One pipeline's micro-batch of a checked configuration.
MicroBatchShape micro_batch_shape(const RunConfig& config);

struct RunPlan {
  Schedule schedule;
  Partition partition;
  MicroBatchShape shape;
  std::vector<bool> checkpointed;  ///< by stage
  std::vector<int> ranks;          ///< pipeline ranks that take part, in the schedule's order

  PipelinePlan pipeline() const { return {partition, shape.micro_batches, ranks}; }

  LayerRange layers_of(int stage) const {
    return {partition.first[static_cast<std::size_t>(stage)],
            partition.first[static_cast<std::size_t>(stage) + 1]};
  }
};

/// Parameters of each layer in layer order, times 0.
std::vector<LayerCost> layer_parameter_costs(const ModelConfig& model);

/// Makes the schedule, proves it by validate() and cuts the model. `layers` has times where the
/// balancer needs them; `ranks` says how fast each pipeline rank is where that is known. A
/// synthesised schedule is made for the times of `pace`, else for those of the layers where they
/// have any, as the balancer cuts them.
RunPlan make_run_plan(const RunConfig& config, const std::vector<LayerCost>& layers,
                      const RankView& ranks = {}, const PaceProfile* pace = nullptr);

/// Whether the schedule is made for the run's own times (zb-auto).
bool is_synthesised(const RunConfig& config);
/// How zb-auto lays its stages, without making the schedule.
Placement synthesised_placement(const RunConfig& config);

/// The run's plan once its pipeline is changed to `to`. UserError where the schedule, the batch or
/// the layers don't allow it.
RunPlan change_run_plan(const RunConfig& config, const PipelinePlan& to);

}  // namespace pipemark
