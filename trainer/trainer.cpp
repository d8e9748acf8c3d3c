#include "trainer/trainer.hpp"

#include <algorithm>

#include "trainer/device_slices.hpp"
#include "trainer/layer_times.hpp"
#include "trainer/message_time.hpp"
#include "trainer/trainer_impl.hpp"

namespace pipemark {

namespace {

/// Runs `make` on every rank; when it fails on any, every rank throws the first one's error, so
/// that none is left waiting in a collective call.
template <class Make>
auto together(Cluster& cluster, Make make) -> decltype(make()) {
  std::string failure;
  decltype(make()) made{};
  try {
    made = make();
  } catch (const EnvironmentError& error) {
    failure = fmt::format("3{}\n{}", error.what(), error.hint());
  } catch (const UserError& error) {
    failure = fmt::format("2{}\n{}", error.what(), error.hint());
  }
  for (const std::string& text : cluster.world().all_gather(failure)) {
    if (text.empty()) continue;
    const auto cut = text.find('\n');
    const std::string what = text.substr(1, cut - 1), hint = text.substr(cut + 1);
    if (text[0] == '3') throw EnvironmentError(what, hint);
    throw UserError(what, hint);
  }
  return made;
}

std::unique_ptr<Ops> make_rank_ops(Cluster& cluster, const RunConfig& config) {
  const RankDevice chosen = choose_device(cluster, config);
  return together(cluster, [&] { return make_ops(chosen.backend, chosen.gpu); });
}

/// Speeds that a profile gives, else those measured with the layers' times.
RankView ranks_of(const PaceProfile* pace, const std::vector<double>& measured) {
  return {pace != nullptr ? pace->speed : measured};
}

RunConfig checked(const RunConfig& config, int ranks) {
  check_config(config, ranks);
  return config;
}

}  // namespace

Trainer::Impl::Impl(Cluster& cluster, const RunConfig& config, const PaceProfile* pace)
    : cluster_(cluster),
      config_(checked(config, cluster.size())),
      ops_(make_rank_ops(cluster, config)),
      grid_(cluster.make_grid(config.parallel.pipeline, config.parallel.data,
                              config.parallel.expert)),
      data_(std::move(*together(cluster,
                                [&] {
                                  return std::make_unique<Dataset>(config.data, config.model,
                                                                   config.train.seed);
                                }))),
      layer_costs_(
          balancer_needs_times(config.balancer.name) || (is_synthesised(config) && pace == nullptr)
              ? measure_layer_times(*ops_, config.model, micro_batch_shape(config), cluster.world(),
                                    grid_, rank_speeds_)
              : layer_parameter_costs(config.model)),
      plan_(make_run_plan(config, layer_costs_, ranks_of(pace, rank_speeds_), pace)),
      step_plan_(plan_step(plan_.schedule, grid_.pipeline_rank)),
      forward_plan_(
          plan_forward(plan_.schedule.placement, plan_.shape.micro_batches, grid_.pipeline_rank)),
      links_(std::make_unique<DeviceLinks>(cluster, config.device, *ops_, pace != nullptr)),
      sync_(cluster, grid_, plan_.schedule.placement, config.model.tied, links_.get()),
      stream_(ops_->device().stream(StreamRole::compute)) {
  cluster_.set_timeout(config_.train.wait_timeout_s);
  model_tensors_ = static_cast<int>(model_parameters(config_.model).size());
  clock_offset_s_ = cluster_.clock_offset().offset_s;

  make_exchange(pace);
  device_label_ = label_device();
  Arena planning;
  {
    Pieces planned;
    build({plan_, step_plan_, forward_plan_}, planning, planned);
  }
  arena_ = std::move(*together(cluster_, [&] {
    check_fits(planning);
    return std::make_unique<Arena>(ops_->device(), MemoryKind::device, planning.used_bytes());
  }));
  build({plan_, step_plan_, forward_plan_}, arena_, pieces_);
  arena_.seal();
  for (auto& stage : pieces_.stages) stage->parameters().initialise(config_.train.seed);
  make_host_rooms();
  make_pipeline(pace);
  alone_ = cluster_.size() == 1 && pieces_.stages.size() == 1 && !has_experts();
  if (alone_) executor_->set_overlapped([this] { enqueue_update_alone(); });
}

Trainer::Impl::~Impl() {
  ops_->device().destroy(update_begin_);
  ops_->device().destroy(update_end_);
}

void Trainer::Impl::make_host_rooms() {
  Device& device = ops_->device();
  const std::int64_t tokens =
      std::int64_t{plan_.shape.sequences} * plan_.shape.micro_batches * config_.model.context;
  const auto take = [&](Arena& arena) {
    for (BatchRoom& room : batch_rooms_) {
      room.tokens = arena.take(tokens, DType::i32, "host/tokens");
      room.targets = arena.take(tokens, DType::i32, "host/targets");
    }
    host_losses_ = arena.take(plan_.shape.micro_batches, DType::f32, "host/losses");
    host_norm_ = arena.take(1, DType::f32, "host/norm");
  };
  Arena planning;
  take(planning);
  host_arena_ = Arena(device, MemoryKind::host, planning.used_bytes());
  take(host_arena_);
  update_begin_ = device.make_event();
  update_end_ = device.make_event();
}

void Trainer::Impl::make_exchange(const PaceProfile* pace) {
  if (!has_experts()) return;
  const ParallelConfig& parallel = config_.parallel;
  expert_group_ = {parallel.expert, grid_.expert_rank,
                   config_.model.experts + parallel.redundant_experts, nullptr};
  if (parallel.expert == 1) return;
  const WaitPolicy policy = pace != nullptr ? WaitPolicy::shared_core : cluster_.wait_policy();
  ExpertLink link;
  if (pace != nullptr) link = {pace->expert_latency_s, pace->expert_bytes_per_s};
  exchange_ = std::make_unique<ExpertExchange>(
      grid_.expert, ops_->device(), TransportMpi::Options{config_.train.wait_timeout_s, policy},
      link);
  expert_group_.exchange = exchange_.get();
}

void Trainer::Impl::make_pipeline(const PaceProfile* pace) {
  const Placement& placement = plan_.schedule.placement;
  if (placement.ranks > 1) {
    const WaitPolicy policy = pace != nullptr ? WaitPolicy::shared_core : cluster_.wait_policy();
    transport_ = links_->make_transport(
        grid_.pipeline, TransportMpi::Options{config_.train.wait_timeout_s, policy});
    const std::int64_t boundary = LayerShape(config_.model, plan_.shape.sequences).elements();
    message_s_ = measure_message_time(grid_.pipeline, *transport_, ops_->device(),
                                      pieces_.buffers.front().slice(0, boundary),
                                      pieces_.buffers.back().slice(0, boundary));
  }
  if (pace != nullptr) {
    paced_ = true;
    pace_cost_ = pace->cost_model(placement.ranks, placement.stages);
    pacer_ = std::make_unique<Pacer>(pace_cost_, grid_.pipeline_rank, clock_offset_s_);
  }
  std::vector<Stage*> stages;
  for (auto& stage : pieces_.stages) stages.push_back(stage.get());
  executor_ = std::make_unique<Executor>(step_plan_, std::move(stages), pieces_.buffers,
                                         ops_->device(), transport_.get(), pacer_.get());
  executor_->set_exchange(exchange_.get(), config_.schedule.overlap);
}

std::string Trainer::Impl::label_device() {
  const std::string name = ops_->device().description();
  const std::vector<double> slices = parse_slices(config_.device.devices);
  if (slices.empty()) return name;
  const double flops = measure_speed_under_load(*ops_, cluster_.world());
  return fmt::format("{}, MPS slice of {:g} %, {:.1f} TFLOP/s under load", name,
                     slices[static_cast<std::size_t>(cluster_.rank())], 1e-12 * flops);
}

bool Trainer::Impl::owns(std::size_t held) const {
  return grid_.data_rank == 0 && step_plan_.held[held].replica == 0;
}

Trainer::Trainer(Cluster& cluster, const RunConfig& config, const PaceProfile* pace)
    : impl_(std::make_unique<Impl>(cluster, config, pace)) {}
Trainer::~Trainer() = default;

TrainReport Trainer::fit(const StepCallback& after_step) { return impl_->fit(after_step); }

std::vector<NamedTensor> Trainer::gradients_of_step(std::int64_t step) {
  return impl_->gradients_of_step(step);
}

}  // namespace pipemark
