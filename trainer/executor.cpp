// Executor: the loop over a plan's actions, measured and paced. Everything that could be decided
// before has been (executor_plan.cpp); times go to the Monitor, waits to the Transport.
#include "trainer/executor.hpp"

#include <algorithm>
#include <cstring>
#include <span>

#include "trainer/clock.hpp"

namespace pipemark {

namespace {
/// The host enqueues this many actions ahead of the device: it never keeps the device waiting, and a
/// device that waits in vain is noticed here and not in a call that blocks on a full queue.
constexpr std::size_t kRunAhead = 3;
}  // namespace

Executor::Executor(ExecutorPlan plan, std::vector<Stage*> stages, std::vector<Tensor> buffers,
                   Device& device, Transport* transport, Pacer* pacer)
    : plan_(std::move(plan)),
      stages_(std::move(stages)),
      buffers_(std::move(buffers)),
      device_(device),
      transport_(transport),
      pacer_(pacer),
      compute_(device.stream(StreamRole::compute)),
      monitor_(device, compute_, plan_),
      receive_ids_(plan_.receives.size(), -1),
      send_ids_(plan_.sends.size(), -1) {
  check(stages_.size() == plan_.held.size(), "Executor: {} stages given, rank {} holds {}",
        stages_.size(), plan_.rank, plan_.held.size());
  check(buffers_.size() >= static_cast<std::size_t>(plan_.buffers), "Executor: {} buffers of {}",
        buffers_.size(), plan_.buffers);
  check(transport_ != nullptr || (plan_.receives.empty() && plan_.sends.empty()),
        "Executor: rank {} of '{}' has messages but no transport", plan_.rank, plan_.schedule);
  for (Stage* stage : stages_) {
    check(stage != nullptr, "Executor: a stage of rank {} is missing", plan_.rank);
    boundary_size_ = stage->boundary_size();
    for (const Tensor& buffer : buffers_) {
      const auto stamp = static_cast<std::int64_t>(sizeof(double) / size_of(buffer.dtype));
      check(buffer.dtype == stage->boundary_dtype() && buffer.size == boundary_size_ + stamp,
            "Executor: a boundary buffer has {} elements, the stage's boundary {}", buffer.size,
            boundary_size_);
    }
  }
  if (!device_.is_host()) drained_ = device_.make_event();
  step_transfers_ = announce(plan_);
}

Executor::~Executor() {
  if (!device_.is_host()) device_.destroy(drained_);
}

/// A lane a stage and direction of a peer: its messages come in the order of the micro-batches on
/// both sides, whatever the schedule.
std::vector<PlannedTransfer> Executor::transfers_of(
    const std::vector<PlanMessage>& messages) const {
  std::vector<PlannedTransfer> transfers;
  for (const PlanMessage& planned : messages) {
    transfers.push_back({message(planned.buffer), planned.peer, planned.tag,
                         2 * planned.stage + (planned.gradient ? 1 : 0)});
  }
  return transfers;
}

int Executor::announce(const ExecutorPlan& plan) {
  if (transport_ == nullptr) return 0;
  return transport_->prepare(transfers_of(plan.receives), transfers_of(plan.sends));
}

Tensor Executor::boundary(int buffer) const {
  if (buffer < 0) return {};
  const Tensor& whole = buffers_[static_cast<std::size_t>(buffer)];
  return {whole.data, boundary_size_, whole.dtype};
}

bool Executor::stamped() const { return pacing_ && device_.is_host(); }

Tensor Executor::message(int buffer) const {
  return stamped() ? buffers_[static_cast<std::size_t>(buffer)] : boundary(buffer);
}

/// Where a sender's time lies behind a boundary tensor; unaligned when its size is odd.
static std::byte* stamp_of(const Tensor& boundary) {
  return static_cast<std::byte*>(boundary.data) + boundary.bytes();
}

WaitContext Executor::context_of(const PlanMessage& message) const {
  return {step_, message.gradient ? "gradient" : "activation", message.stage, message.micro_batch};
}

void Executor::finish_send(const ExecutorPlan& plan, std::size_t send) {
  const WaitContext context = context_of(plan.sends[send]);
  if (transport_->stream_ordered() || transport_->sent(send_ids_[send])) {
    transport_->wait_sent(send_ids_[send], compute_, context);
  } else {
    const double begin_s = now_s();
    transport_->wait_sent(send_ids_[send], compute_, context);
    monitor_.add_wait(now_s() - begin_s);
  }
  send_ids_[send] = -1;
}

void Executor::post_receives(const ExecutorPlan& plan, const PlanAction& action) {
  for (std::int32_t i = 0; i < action.reclaims; ++i) {
    finish_send(plan, static_cast<std::size_t>(
                          plan.reclaims[static_cast<std::size_t>(action.first_reclaim + i)]));
  }
  for (std::int32_t i = 0; i < action.posts; ++i) {
    const auto receive = static_cast<std::size_t>(action.first_post + i);
    const PlanMessage& planned = plan.receives[receive];
    receive_ids_[receive] =
        transport_->post_receive(message(planned.buffer), planned.peer, planned.tag);
  }
}

/// Gives the time at which the last input was there (0: none came by message); `wait_s` is what the
/// host waited.
double Executor::wait_inputs(const ExecutorPlan& plan, const PlanAction& action, double& wait_s) {
  double arrival_s = 0;
  for (std::int32_t c = 0; c < action.calls; ++c) {
    const PlanCall& call = plan.calls[static_cast<std::size_t>(action.first_call + c)];
    if (call.receive < 0) continue;
    const auto receive = static_cast<std::size_t>(call.receive);
    const PlanMessage& planned = plan.receives[receive];
    const double begin_s = transport_->stream_ordered() ? 0 : now_s();
    transport_->wait_received(receive_ids_[receive], compute_, context_of(planned));
    receive_ids_[receive] = -1;
    if (transport_->stream_ordered()) {
      wait_s = Monitor::kIdleIsWait;
      continue;
    }
    const double seen_s = now_s();
    wait_s += seen_s - begin_s;
    double there_s = seen_s;
    if (stamped()) {
      double stamp_s = 0;
      std::memcpy(&stamp_s, stamp_of(boundary(planned.buffer)), sizeof stamp_s);
      there_s = pacer_->arrival_s(stamp_s, planned.peer);
    }
    arrival_s = std::max(arrival_s, there_s);
  }
  if (wait_s < Monitor::kIdleIsWait) monitor_.add_wait(wait_s);
  return arrival_s;
}

void Executor::count_live(const PlanCall& call) {
  if (!recording_) return;
  if (call.kind == Kind::F) peak_live_ = std::max(peak_live_, ++live_);
  if (call.kind == Kind::W || call.kind == Kind::B) --live_;
}

void Executor::call_stage(const PlanCall& call) {
  Stage& stage = *stages_[static_cast<std::size_t>(call.held)];
  const Tensor input = boundary(call.input), output = boundary(call.output);
  count_live(call);
  switch (call.kind) {
    case Kind::F:
      return stage.forward(compute_, call.slot, call.micro_batch, input, output);
    case Kind::I:
      return stage.backward_input(compute_, call.slot, call.weight_slot, call.micro_batch, input,
                                  output);
    case Kind::W:
      return stage.backward_weight(compute_, call.slot, call.weight_slot, call.micro_batch);
    default:
      return stage.backward(compute_, call.slot, call.weight_slot, call.micro_batch, input, output);
  }
}

void Executor::send_output(const ExecutorPlan& plan, const PlanCall& call) {
  if (call.send < 0) return;
  const auto send = static_cast<std::size_t>(call.send);
  const PlanMessage& planned = plan.sends[send];
  send_ids_[send] =
      transport_->post_send(message(planned.buffer), planned.peer, planned.tag, compute_);
}

/// F, send, B, send: a pair's first message is on its way while its second half computes.
void Executor::run_measured(const ExecutorPlan& plan, const PlanAction& action, std::size_t index,
                            double wait_s) {
  const auto calls = std::span(plan.calls)
                         .subspan(static_cast<std::size_t>(action.first_call),
                                  static_cast<std::size_t>(action.calls));
  double begin_s = now_s(), kernel_s = 0;
  if (recording_) monitor_.begin_action(index, begin_s, wait_s);
  if (pauses(calls)) {
    run_tasks_measured(plan, calls);
    const double end_s = now_s();
    if (recording_) monitor_.end_action(index, end_s);
    monitor_.add_kernel(end_s - begin_s);
    return;
  }
  for (const PlanCall& call : calls) {
    call_stage(call);
    const double end_s = now_s();
    kernel_s += end_s - begin_s;
    if (&call == &calls.back()) {
      if (recording_) monitor_.end_action(index, end_s);
      send_output(plan, call);
    } else {
      send_output(plan, call);
      begin_s = now_s();
    }
  }
  monitor_.add_kernel(kernel_s);
}

/// Messages leave at the action's nominal end, and carry it.
void Executor::run_paced(const ExecutorPlan& plan, const PlanAction& action, std::size_t index,
                         double arrival_s) {
  const auto calls = std::span(plan.calls)
                         .subspan(static_cast<std::size_t>(action.first_call),
                                  static_cast<std::size_t>(action.calls));
  pacer_->begin_action(action.action, arrival_s, arrival_s > 0 && stamped());
  const double begin_s = now_s();
  if (pauses(calls)) {
    run_tasks_paced(calls, action.action);
  } else {
    for (const PlanCall& call : calls) call_stage(call);
  }
  if (!device_.is_host()) device_.synchronize(compute_);
  const double end_s = now_s();
  const Pacer::Times times = pacer_->end_action(transport_);
  monitor_.add_kernel(end_s - begin_s);
  monitor_.add_wait(now_s() - end_s);
  monitor_.set_action(index, times.start_s, times.end_s, times.wait_s);
  const double stamp_s = pacer_->stamp_s(times.end_s);
  for (const PlanCall& call : calls) {
    if (call.send < 0) continue;
    if (stamped()) std::memcpy(stamp_of(boundary(call.output)), &stamp_s, sizeof stamp_s);
    send_output(plan, call);
  }
}

void Executor::hold_back(std::size_t index) {
  const bool ahead = transport_ != nullptr && transport_->stream_ordered() && index >= kRunAhead;
  if (ahead) await(monitor_.end_of(index - kRunAhead));
}

void Executor::await(Event event) {
  const double begin_s = now_s();
  if (transport_ != nullptr && transport_->stream_ordered()) {
    transport_->await(event);
  } else {
    device_.host_wait(event);
  }
  monitor_.add_wait(now_s() - begin_s);
}

void Executor::run_row(const ExecutorPlan& plan) {
  for (std::size_t index = 0; index < plan.actions.size(); ++index) {
    const PlanAction& action = plan.actions[index];
    if (recording_ && !pacing_) hold_back(index);
    post_receives(plan, action);
    double wait_s = 0;
    const double arrival_s = wait_inputs(plan, action, wait_s);
    if (pacing_) {
      run_paced(plan, action, index, arrival_s);
    } else {
      run_measured(plan, action, index, wait_s);
    }
    for (std::int32_t c = 0; recording_ && stage_done_ && c < action.calls; ++c) {
      const auto held = plan.calls[static_cast<std::size_t>(action.first_call + c)].held;
      if (last_call_[static_cast<std::size_t>(held)] == action.first_call + c) stage_done_(held);
    }
  }
  for (std::size_t send = 0; send < plan.sends.size(); ++send) {
    if (send_ids_[send] >= 0) finish_send(plan, send);
  }
  if (!device_.is_host()) {
    if (recording_ && overlapped_) overlapped_();
    device_.record(drained_, compute_);
    await(drained_);
  }
  if (transport_ != nullptr) transport_->use(Transport::kNoPlan);
}

void Executor::on_stage_done(std::function<void(int)> hook) {
  stage_done_ = std::move(hook);
  last_call_.assign(plan_.held.size(), -1);
  for (std::size_t c = 0; c < plan_.calls.size(); ++c) {
    const PlanCall& call = plan_.calls[c];
    if (call.kind != Kind::B && call.kind != Kind::W) continue;
    last_call_[static_cast<std::size_t>(call.held)] = static_cast<std::int32_t>(c);
  }
}

void Executor::run_step(std::int64_t step, ActionTimes& out) {
  step_ = step;
  pacing_ = pacer_ != nullptr;
  recording_ = true;
  live_ = peak_live_ = 0;
  const std::int64_t overruns = pacing_ ? pacer_->counts().overruns : 0;
  monitor_.begin_step(step, pacing_ ? pacer_->step_start_s() : now_s());
  if (transport_ != nullptr) transport_->use(step_transfers_);
  run_row(plan_);
  check(live_ == 0, "Executor: {} activations are left at the end of step {}", live_, step);
  const std::int64_t more = pacing_ ? pacer_->counts().overruns - overruns : 0;
  monitor_.end_step(now_s(), peak_live_, static_cast<int>(more), out);
}

void Executor::run_forward(std::int64_t step, const ExecutorPlan& plan) {
  check(static_cast<std::size_t>(plan.buffers) <= buffers_.size() &&
            plan.held.size() == stages_.size(),
        "Executor::run_forward: a plan of {} buffers and {} stages, there are {} and {}",
        plan.buffers, plan.held.size(), buffers_.size(), stages_.size());
  step_ = step;
  pacing_ = recording_ = false;
  receive_ids_.resize(std::max(receive_ids_.size(), plan.receives.size()), -1);
  send_ids_.resize(std::max(send_ids_.size(), plan.sends.size()), -1);
  if (forward_transfers_ < 0) forward_transfers_ = announce(plan);
  if (transport_ != nullptr) transport_->use(forward_transfers_);
  run_row(plan);
}

}  // namespace pipemark
