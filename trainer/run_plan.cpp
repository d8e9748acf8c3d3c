#include "trainer/run_plan.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <optional>

#include "balancers/balancer.hpp"
#include "kernels/check.hpp"
#include "schedules/catalogue.hpp"
#include "schedules/validate.hpp"
#include "trainer/nearest_name.hpp"
#include "trainer/parameters.hpp"

namespace pipemark {

namespace {
void at_least(const char* key, std::int64_t value, std::int64_t least) {
  if (value < least) {
    throw UserError(fmt::format("{} = {} is too small", key, value),
                    fmt::format("{} must be at least {}", key, least));
  }
}
}  // namespace

void check_config(const RunConfig& config, int ranks) {
  const auto& parallel = config.parallel;
  const auto& train = config.train;
  at_least("parallel.pipeline", parallel.pipeline, 1);
  at_least("parallel.data", parallel.data, 1);
  at_least("parallel.expert", parallel.expert, 1);
  at_least("train.steps", train.steps, 1);
  at_least("train.batch", train.batch, 1);
  at_least("train.micro_batches", train.micro_batches, 1);
  at_least("train.warmup_steps", train.warmup_steps, 0);
  at_least("train.validation_batches", train.validation_batches, 0);
  check_experts(config);
  at_least("balancer.rl_model_update_freq", config.balancer.rl_model_update_freq, 0);
  const std::string& mode = config.balancer.gradient_synchronization;
  if (mode != "step" && mode != "bucket" && mode != "off") {
    throw UserError(fmt::format("balancer.gradient_synchronization = \"{}\" is not known", mode),
                    fmt::format("did you mean \"{}\"? known: step, bucket, off",
                                nearest_name(mode, {"step", "bucket", "off"})));
  }
  const bool elastic = config.balancer.name == "elastic" || mode == "bucket";
  if (elastic && config.model.has_experts()) {
    throw UserError(fmt::format("model.experts = {} with balancer.name = \"{}\" and "
                                "balancer.gradient_synchronization = \"{}\"",
                                config.model.experts, config.balancer.name, mode),
                    "models with experts are balanced by balancer.experts; use another "
                    "balancer.name and gradient_synchronization = \"step\"");
  }
  if (parallel.ranks() != ranks) {
    throw UserError(
        fmt::format("parallel.pipeline {} x data {} x expert {} = {} ranks, but the job has {}",
                    parallel.pipeline, parallel.data, parallel.expert, parallel.ranks(), ranks),
        fmt::format("launch it with mpirun -n {}, or change [parallel]", parallel.ranks()));
  }
  const int parts = train.micro_batches * parallel.data * parallel.expert;
  if (train.batch % parts != 0) {
    throw UserError(
        fmt::format("train.batch = {} does not divide among {} micro-batches of {} data x {} "
                    "expert ranks",
                    train.batch, train.micro_batches, parallel.data, parallel.expert),
        fmt::format("train.batch must be a multiple of train.micro_batches x parallel.data x "
                    "parallel.expert = {}",
                    parts));
  }
}

std::vector<bool> checkpointed_stages(const std::string& checkpointing, int stages) {
  std::vector<bool> flags(static_cast<std::size_t>(stages), checkpointing == "full");
  if (checkpointing == "none" || checkpointing == "full") return flags;
  const char* at = checkpointing.data();
  const char* const end = at + checkpointing.size();
  while (true) {
    int stage = -1;
    const auto [next, error] = std::from_chars(at, end, stage);
    if (error != std::errc{} || stage < 0 || stage >= stages || (next != end && *next != ',')) {
      throw UserError(
          fmt::format("train.checkpointing = \"{}\" is not known", checkpointing),
          fmt::format("use \"none\", \"full\" or stages below {} such as \"0,2\"", stages));
    }
    flags[static_cast<std::size_t>(stage)] = true;
    if (next == end) return flags;
    at = next + 1;
  }
}

std::vector<LayerCost> layer_parameter_costs(const ModelConfig& model) {
  std::vector<LayerCost> layers;
  for (int layer = 0; layer < model.layers + 2; ++layer) {
    LayerCost cost;
    cost.name = layer == 0                  ? "embedding"
                : layer == model.layers + 1 ? "head"
                                            : fmt::format("block/{}", layer - 1);
    // A tied table is held by the head's stage too, so it counts there as well.
    for (const auto& spec : layer_parameters(model, layer)) cost.parameters += spec.logical_size;
    layers.push_back(std::move(cost));
  }
  return layers;
}

MicroBatchShape micro_batch_shape(const RunConfig& config) {
  const auto& train = config.train;
  const int parts = config.parallel.data * config.parallel.expert * train.micro_batches;
  return {train.batch / parts, train.micro_batches,
          static_cast<std::int64_t>(train.batch) * config.model.context};
}

namespace {
Partition given_partition(const RunConfig& config, int stages) {
  Partition partition{config.balancer.partition};
  const bool rising = std::adjacent_find(partition.first.begin(), partition.first.end(),
                                         std::greater_equal<>()) == partition.first.end();
  if (partition.stages() != stages || partition.first.front() != 0 ||
      partition.layers() != config.model.layers + 2 || !rising) {
    throw UserError(
        fmt::format("balancer.partition = [{}] does not fit", fmt::join(partition.first, ", ")),
        fmt::format("give {} rising numbers from 0 to {} (layers)", stages + 1,
                    config.model.layers + 2));
  }
  return partition;
}

Partition partition_of(const RunConfig& config, const std::vector<LayerCost>& layers,
                       const Placement& placement, const RankView& ranks) {
  return config.balancer.partition.empty()
             ? make_partition(config.balancer.name, layers, placement, ranks)
             : given_partition(config, placement.stages);
}

/// The times of each stage on each rank as far as they are known; messages count as free.
std::optional<CostModel> run_cost(const RunConfig& config, const std::vector<LayerCost>& layers,
                                  const RankView& ranks, const PaceProfile* pace) {
  const Placement placement = synthesised_placement(config);
  if (pace != nullptr && pace->layers) {
    return pace->cost_model(placement.ranks, partition_of(config, layers, placement, ranks),
                            micro_batch_shape(config).sequences, 0);
  }
  if (pace != nullptr) return pace->cost_model(placement.ranks, placement.stages);
  const bool timed = std::all_of(layers.begin(), layers.end(),
                                 [](const LayerCost& layer) { return layer.total_s() > 0; });
  if (!timed) return std::nullopt;
  const Partition partition = partition_of(config, layers, placement, ranks);
  CostModel cost;
  cost.ranks = placement.ranks;
  cost.stages = placement.stages;
  cost.message.assign(static_cast<std::size_t>(cost.ranks) * cost.ranks, 0.0);
  for (int rank = 0; rank < cost.ranks; ++rank) {
    const double speed = ranks.speeds.empty() ? 1 : ranks.speeds[static_cast<std::size_t>(rank)];
    for (int stage = 0; stage < cost.stages; ++stage) {
      StageCost sum{0, 0, 0};
      for (int l = partition.first[static_cast<std::size_t>(stage)];
           l < partition.first[static_cast<std::size_t>(stage) + 1]; ++l) {
        const LayerCost& layer = layers[static_cast<std::size_t>(l)];
        sum.forward += layer.forward_s / speed;
        sum.input_grad += layer.input_grad_s / speed;
        sum.weight_grad += layer.weight_grad_s / speed;
      }
      cost.stage.push_back(sum);
    }
  }
  return cost;
}
}  // namespace

bool is_synthesised(const RunConfig& config) { return config.schedule.name == "zb-auto"; }

Placement synthesised_placement(const RunConfig& config) {
  const int ranks = config.parallel.pipeline;
  return config.schedule.chunks == 2 ? Placement::v_shape(ranks, 2) : Placement::linear(ranks);
}

RunPlan make_run_plan(const RunConfig& config, const std::vector<LayerCost>& layers,
                      const RankView& ranks, const PaceProfile* pace) {
  ScheduleRequest request;
  request.ranks = config.parallel.pipeline;
  request.micro_batches = config.train.micro_batches;
  request.chunks = config.schedule.chunks;
  request.memory_limit = config.schedule.memory_limit * config.parallel.pipeline;

  if (is_synthesised(config)) {
    request.cost = run_cost(config, layers, ranks, pace);
    request.rendezvous = true;  // so that it needs no more buffers than its activations
  }

  RunPlan plan;
  plan.schedule = make_schedule(config.schedule.name, request);
  if (plan.schedule.rank_count() != request.ranks ||
      plan.schedule.micro_batches != request.micro_batches) {
    throw UserError(
        fmt::format("schedule \"{}\" is for {} ranks and {} micro-batches", config.schedule.name,
                    plan.schedule.rank_count(), plan.schedule.micro_batches),
        fmt::format("the run has parallel.pipeline = {} and train.micro_batches = {}",
                    request.ranks, request.micro_batches));
  }
  ValidateOptions sound;
  // A file's sends may rely on buffers; the executor has them.
  sound.rendezvous = !is_schedule_file(config.schedule.name);
  const auto faults = validate(plan.schedule, sound);
  if (!faults.empty()) {
    throw UserError(fmt::format("schedule \"{}\" is not sound: {} ({} faults)",
                                config.schedule.name, faults.front().what, faults.size()),
                    "pipemark schedule NAME --check shows each fault with its place");
  }
  const int stages = plan.schedule.placement.stages;
  plan.partition = partition_of(config, layers, plan.schedule.placement, ranks);
  plan.checkpointed = checkpointed_stages(config.train.checkpointing, stages);
  plan.shape = micro_batch_shape(config);
  for (int r = 0; r < request.ranks; ++r) plan.ranks.push_back(r);
  return plan;
}

RunPlan change_run_plan(const RunConfig& config, const PipelinePlan& to) {
  if (config.model.has_experts() || is_synthesised(config)) {
    throw UserError("a model with experts or a schedule made for its first plan is not moved",
                    "use another schedule, and balancer.experts for experts");
  }
  RunConfig changed = config;
  changed.train.micro_batches = to.micro_batches;
  changed.parallel.pipeline = static_cast<int>(to.ranks.size());
  changed.balancer.partition = to.partition.first;
  at_least("train.micro_batches", to.micro_batches, 1);
  if (config.train.batch % (to.micro_batches * config.parallel.data) != 0) {
    throw UserError(fmt::format("{} micro-batches of {} data ranks don't divide train.batch = {}",
                                to.micro_batches, config.parallel.data, config.train.batch),
                    "choose a divisor");
  }
  RunPlan plan = make_run_plan(changed, {});
  plan.schedule = spread(plan.schedule, to.ranks, config.parallel.pipeline);
  plan.ranks = to.ranks;
  return plan;
}

}  // namespace pipemark
