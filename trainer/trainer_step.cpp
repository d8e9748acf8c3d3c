// A step: batch -> schedule's actions -> sums of gradients -> norm -> AdamW -> figures.
#include <algorithm>
#include <cstring>
#include <tuple>

#include "trainer/trainer_impl.hpp"

namespace pipemark {

namespace {
/// Steps whose action times are kept, so that the median step's timeline can be shown.
constexpr std::size_t kKeptActions = 1u << 20;
/// Per-rank figures of a step, in rank 0's clock.
enum Figure {
  kStart,
  kEnd,
  kBusy,
  kStepS,
  kOptimizerS,
  kOverruns,
  kActions,
  kOverhead,
  kExposed,
  kFlight,
  kFigures
};

std::span<std::int32_t> values_of(const Tensor& host) {
  return {host.i32(), static_cast<std::size_t>(host.size)};
}
}  // namespace

Trainer::Impl::BatchRoom& Trainer::Impl::fetch_batch(std::int64_t step, bool validation) {
  BatchRoom& room = batch_rooms_[step % 2];
  if (!validation && room.step == step) return room;
  const int sequences = plan_.shape.sequences * plan_.shape.micro_batches;
  const int first = feeder() * sequences;
  const auto fetch = validation ? &Dataset::validation_batch : &Dataset::batch;
  (data_.*fetch)(step, config_.train.batch, first, sequences, values_of(room.tokens),
                 values_of(room.targets));
  room.step = validation ? -1 : step;
  return room;
}

void Trainer::Impl::load_batch(std::int64_t step, bool validation) {
  const BatchRoom& room = fetch_batch(step, validation);
  for (auto& stage : pieces_->stages) {
    stage->set_batch(stream_, values_of(room.tokens), values_of(room.targets));
  }
}

void Trainer::Impl::run_gradients(std::int64_t step) {
  step_ = step;
  load_batch(step, false);
  for (auto& stage : pieces_->stages) stage->zero_gradients(stream_);
  if (pacer_) pacer_->begin_step(grid_.pipeline);
  executor_->run_step(step, times_);
}

std::pair<double, double> Trainer::Impl::reduce_loss_and_norm() {
  const auto tensors = static_cast<std::size_t>(model_tensors_);
  const auto micro_batches = static_cast<std::size_t>(plan_.shape.micro_batches);
  const std::size_t losses = micro_batches * static_cast<std::size_t>(feeders());
  // One contributor an entry: every partition gives the same bits.
  std::vector<double> sums(tensors + losses, 0.0);
  for (std::size_t k = 0; k < pieces_->stages.size(); ++k) {
    const auto squared = pieces_->optimizers[k]->squared_norms(stream_, model_tensors_);
    for (std::size_t i = 0; owns(k) && i < tensors; ++i) sums[i] += squared[i];
    const auto local = pieces_->stages[k]->read_losses(stream_);
    const std::size_t first = tensors + static_cast<std::size_t>(feeder()) * micro_batches;
    for (std::size_t m = 0; m < local.size(); ++m) sums[first + m] += local[m];
  }
  cluster_.world().allreduce_sum(std::span<double>(sums), "losses and squared norms");
  double loss = 0;
  for (std::size_t i = tensors; i < sums.size(); ++i) loss += sums[i];
  return {loss / static_cast<double>(losses),
          total_norm(std::span<const double>(sums).first(tensors))};
}

void Trainer::Impl::enqueue_update_alone() {
  if (!updating_) return;
  Device& device = ops_->device();
  GptStage& stage = *pieces_->stages.front();
  Optimizer& optimizer = *pieces_->optimizers.front();
  device.record(update_begin_, stream_);
  stage.finish_gradients(stream_);
  optimizer.clip_alone(stream_);
  device.copy(stream_, host_losses_.data, stage.losses().data, host_losses_.bytes());
  device.copy(stream_, host_norm_.data, optimizer.norm().data, host_norm_.bytes());
  optimizer.apply_clipped(stream_, step_ + 1);
  device.record(update_end_, stream_);
  if (step_ + 1 < config_.train.steps) fetch_batch(step_ + 1, false);
}

void Trainer::Impl::report_alone(StepReport& report) {
  double loss = 0;
  for (std::int64_t m = 0; m < host_losses_.size; ++m) loss += host_losses_.f32()[m];
  report.loss = loss / static_cast<double>(host_losses_.size);
  report.gradient_norm = host_norm_.f32()[0];
}

StepReport Trainer::Impl::train_step(std::int64_t step) {
  Device& device = ops_->device();
  StepReport report;
  report.step = step;
  const double start = now_s();
  updating_ = alone_;
  run_gradients(step);
  double update_s = 0;
  if (alone_) {
    if (device.is_host()) enqueue_update_alone();  // on a GPU the executor has called it
    updating_ = false;
    report_alone(report);
    update_s = device.elapsed_s(update_begin_, update_end_);
  } else {
    const double pipeline_end = now_s();
    sum_gradients();
    std::tie(report.loss, report.gradient_norm) = reduce_loss_and_norm();
    for (auto& optimizer : pieces_->optimizers) {
      optimizer->apply(stream_, report.gradient_norm, step + 1);
    }
    device.synchronize(stream_);
    update_s = now_s() - pipeline_end;
  }
  const double end = now_s();
  if (has_experts()) balance_experts(report);
  report.learning_rate = learning_rate(config_.train, step + 1);
  peak_live_ = std::max(peak_live_, times_.peak_live);
  measure_step(report, end - start, update_s);
  keep_step(report);
  return report;
}

void Trainer::Impl::measure_step(StepReport& report, double step_s, double optimizer_s) {
  const auto ranks = static_cast<std::size_t>(cluster_.size());
  std::vector<double> all(ranks * kFigures, 0.0);
  double* mine = all.data() + static_cast<std::size_t>(cluster_.rank()) * kFigures;
  for (const TimedAction& timed : times_.actions) mine[kBusy] += timed.end_s - timed.start_s;
  if (!times_.actions.empty()) {
    const double zero = times_.zero_s + clock_offset_s_;
    mine[kStart] = zero + times_.actions.front().start_s;
    mine[kEnd] = zero + times_.actions.back().end_s;
  }
  mine[kStepS] = step_s;
  mine[kOptimizerS] = optimizer_s;
  mine[kOverruns] = times_.overruns;
  mine[kActions] = static_cast<double>(times_.actions.size());
  if (exchange_ != nullptr) {
    const ExpertExchange::Times times = exchange_->take_times();
    mine[kExposed] = times.exposed_s;
    mine[kFlight] = times.flight_s;
  }
  mine[kOverhead] = times_.overhead_per_action_s();
  cluster_.world().allreduce_sum(std::span<double>(all), "step figures");

  // World rank = (data rank * P + pipeline rank) * E + expert rank; the ratio's idle and room are
  // summed over pipelines, one for each data and expert rank.
  const int P = config_.parallel.pipeline, E = config_.parallel.expert;
  double busy = 0, room = 0, longest_span = 0, longest_busy = 0;
  for (int feeder = 0; feeder < feeders(); ++feeder) {
    double first = 1e300, last = -1e300;
    for (int p = 0; p < P; ++p) {
      const int rank = (feeder / E * P + p) * E + feeder % E;
      const double* of = all.data() + static_cast<std::size_t>(rank) * kFigures;
      report.step_s = std::max(report.step_s, of[kStepS]);
      report.optimizer_s = std::max(report.optimizer_s, of[kOptimizerS]);
      report.host_overhead_s = std::max(report.host_overhead_s, of[kOverhead]);
      if (of[kActions] == 0) continue;  // takes no part; its idle time counts
      first = std::min(first, of[kStart]);
      last = std::max(last, of[kEnd]);
      busy += of[kBusy];
      if (of[kEnd] - of[kStart] > longest_span) {
        longest_span = of[kEnd] - of[kStart];
        longest_busy = of[kBusy];
      }
      report.overruns += static_cast<int>(of[kOverruns]);
      report.exchange_exposed_s += of[kExposed] / static_cast<double>(ranks);
      report.exchange_flight_s += of[kFlight] / static_cast<double>(ranks);
      actions_ += static_cast<std::int64_t>(of[kActions]);
    }
    report.pipeline_s = std::max(report.pipeline_s, last - first);
    room += P * (last - first);
  }
  overruns_ += report.overruns;
  report.bubble_ratio = 1 - busy / room;
  report.span_bubble_rate = 1 - longest_busy / longest_span;
}

void Trainer::Impl::keep_step(const StepReport& report) {
  const std::size_t room = std::max<std::size_t>(1, kKeptActions / (times_.actions.size() + 1));
  if (kept_.size() < room) kept_.push_back({report.step, report.step_s, times_});
}

double Trainer::Impl::validate_model() {
  const int batches = config_.train.validation_batches;
  if (batches == 0 || data_.validation_tokens() == 0) return -1;
  for (auto& stage : pieces_->stages) stage->set_evaluation(true);
  double sum = 0;
  for (int i = 0; i < batches; ++i) {
    load_batch(i, true);
    executor_->run_forward(i, forward_plan_);
    for (std::size_t k = 0; k < pieces_->stages.size(); ++k) {
      const auto losses = pieces_->stages[k]->read_losses(stream_);
      for (const float loss : losses) sum += loss;
    }
  }
  for (auto& stage : pieces_->stages) stage->set_evaluation(false);
  const double count = static_cast<double>(batches) * plan_.shape.micro_batches * feeders();
  return cluster_.world().allreduce_sum(sum, "validation loss") / count;
}

std::vector<NamedTensor> Trainer::Impl::gradients_of_step(std::int64_t step) {
  run_gradients(step);
  sum_gradients();
  // Each owner sends "name\n" + raw values; rank 0 orders them as the model does.
  std::string mine;
  for (std::size_t k = 0; k < pieces_->stages.size(); ++k) {
    if (!owns(k)) continue;  // a rank of the expert dimension speaks for its experts
    const Parameters& parameters = pieces_->stages[k]->parameters();
    for (const NamedTensor& tensor : parameters.read(stream_, parameters.gradients)) {
      const std::uint64_t bytes = tensor.values.size() * sizeof(float);
      mine += tensor.name;
      mine += '\n';
      mine.append(reinterpret_cast<const char*>(&bytes), sizeof bytes);
      mine.append(reinterpret_cast<const char*>(tensor.values.data()), bytes);
    }
  }
  std::vector<NamedTensor> ordered;
  const auto texts = cluster_.world().gather(mine);
  if (texts.empty()) return ordered;
  for (const auto& spec : model_parameters(config_.model)) ordered.push_back({spec.name, {}});
  for (const std::string& text : texts) {
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t cut = text.find('\n', at);
      const std::string name = text.substr(at, cut - at);
      std::uint64_t bytes = 0;
      std::memcpy(&bytes, text.data() + cut + 1, sizeof bytes);
      const char* values = text.data() + cut + 1 + sizeof bytes;
      const auto to = std::find_if(ordered.begin(), ordered.end(),
                                   [&](const NamedTensor& t) { return t.name == name; });
      check(to != ordered.end(), "gradients_of_step: no tensor \"{}\" in the model", name);
      to->values.resize(bytes / sizeof(float));
      std::memcpy(to->values.data(), values, bytes);
      at = cut + 1 + sizeof bytes + bytes;
    }
  }
  return ordered;
}

}  // namespace pipemark
