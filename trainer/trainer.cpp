#include "trainer/trainer.hpp"

#include <algorithm>

#include "trainer/device_slices.hpp"
#include "trainer/layer_times.hpp"
#include "trainer/message_time.hpp"
#include "trainer/together.hpp"
#include "trainer/trainer_impl.hpp"

namespace pipemark {

namespace {

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

Trainer::Impl::Impl(Cluster& cluster, const RunConfig& config, const PaceProfile* pace,
                    RunningBalancer* balancer)
    : cluster_(cluster),
      balancer_(balancer),
      config_(checked(config, cluster.size())),
      ops_(make_rank_ops(cluster, config)),
      grid_(cluster.make_grid(config.parallel.pipeline, config.parallel.data,
                              config.parallel.expert)),
      data_(std::move(*together(cluster,
                                [&] {
                                  return std::make_unique<Dataset>(config.data, config.model,
                                                                   config.train.seed);
                                }))),
      layer_costs_(find_layer_costs(config, pace)),
      plan_(make_run_plan(config, layer_costs_, ranks_of(pace, rank_speeds_), pace)),
      step_plan_(plan_step(plan_.schedule, grid_.pipeline_rank)),
      forward_plan_(
          plan_forward(plan_.schedule.placement, plan_.shape.micro_batches, grid_.pipeline_rank)),
      links_(std::make_unique<DeviceLinks>(cluster, config.device, *ops_, pace != nullptr)),
      sync_(std::make_unique<GradientSync>(cluster, grid_, plan_.schedule.placement,
                                           config.model.tied, links_.get())),
      stream_(ops_->device().stream(StreamRole::compute)) {
  cluster_.set_timeout(config_.train.wait_timeout_s);
  model_tensors_ = static_cast<int>(model_parameters(config_.model).size());
  clock_offset_s_ = cluster_.clock_offset().offset_s;

  make_exchange(pace);
  device_label_ = label_device();
  pieces_ = make_pieces();
  predicted_peak_live_ = step_plan_.peak_live;
  for (auto& stage : pieces_->stages) stage->parameters().initialise(config_.train.seed);
  make_host_rooms();
  make_pipeline(pace);
  make_balancer(pace);
  alone_ = cluster_.size() == 1 && pieces_->stages.size() == 1 && !has_experts() && !balancing_;
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

std::unique_ptr<Trainer::Impl::Pieces> Trainer::Impl::make_pieces() {
  Arena planning;
  {
    Pieces planned;
    build({plan_, step_plan_, forward_plan_}, planning, planned);
  }
  auto pieces = together(cluster_, [&] {
    check_fits(planning);
    auto real = std::make_unique<Pieces>();
    real->arena = Arena(ops_->device(), MemoryKind::device, planning.used_bytes());
    return real;
  });
  build({plan_, step_plan_, forward_plan_}, pieces->arena, *pieces);
  pieces->arena.seal();
  return pieces;
}

/// The ranks of a paced run share cores whatever the machine has.
TransportMpi::Options Trainer::Impl::transport_options(bool paced) const {
  return {config_.train.wait_timeout_s, paced ? WaitPolicy::shared_core : cluster_.wait_policy()};
}

void Trainer::Impl::make_exchange(const PaceProfile* pace) {
  if (!has_experts()) return;
  const ParallelConfig& parallel = config_.parallel;
  expert_group_ = {parallel.expert, grid_.expert_rank,
                   config_.model.experts + parallel.redundant_experts, nullptr};
  if (parallel.expert == 1) return;
  ExpertLink link;
  if (pace != nullptr) link = {pace->expert_latency_s, pace->expert_bytes_per_s};
  exchange_ = std::make_unique<ExpertExchange>(grid_.expert, ops_->device(),
                                               transport_options(pace != nullptr), link);
  expert_group_.exchange = exchange_.get();
}

void Trainer::Impl::make_pipeline(const PaceProfile* pace) {
  const Placement& placement = plan_.schedule.placement;
  if (placement.ranks > 1) {
    transport_ = links_->make_transport(grid_.pipeline, transport_options(pace != nullptr));
    const std::int64_t boundary = LayerShape(config_.model, plan_.shape.sequences).elements();
    message_s_ = measure_message_time(grid_.pipeline, *transport_, ops_->device(),
                                      pieces_->buffers.front().slice(0, boundary),
                                      pieces_->buffers.back().slice(0, boundary));
  }
  if (pace != nullptr) {
    paced_ = true;
    pace_ = *pace;
    pace_cost_ = pace->cost_model(placement.ranks, plan_.partition, plan_.shape.sequences, 0);
    pacer_ = std::make_unique<Pacer>(pace_cost_, grid_.pipeline_rank, clock_offset_s_);
  }
  make_executor();
}

void Trainer::Impl::make_executor() {
  stage_done_.assign(pieces_->stages.size(), false);
  std::vector<Stage*> stages;
  for (auto& stage : pieces_->stages) stages.push_back(stage.get());
  executor_ = std::make_unique<Executor>(step_plan_, std::move(stages), pieces_->buffers,
                                         ops_->device(), transport_.get(), pacer_.get());
  executor_->set_exchange(exchange_.get(), config_.schedule.overlap);
  // Sums by bucket start as soon as a stage's gradients are whole; on a device that is not the host
  // they would have to wait for it, so there they are made at the step's end.
  if (config_.balancer.gradient_synchronization != "bucket" || !ops_->device().is_host()) return;
  executor_->on_stage_done([this](int held) {
    GptStage& stage = *pieces_->stages[static_cast<std::size_t>(held)];
    stage.finish_gradients(stream_);
    stage_done_[static_cast<std::size_t>(held)] = true;
    sync_->begin(held, stage.parameters().gradients);
  });
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

Trainer::Trainer(Cluster& cluster, const RunConfig& config, const PaceProfile* pace,
                 RunningBalancer* balancer)
    : impl_(std::make_unique<Impl>(cluster, config, pace, balancer)) {}
Trainer::~Trainer() = default;

TrainReport Trainer::fit(const StepCallback& after_step) { return impl_->fit(after_step); }

std::vector<NamedTensor> Trainer::gradients_of_step(std::int64_t step) {
  return impl_->gradients_of_step(step);
}

}  // namespace pipemark
