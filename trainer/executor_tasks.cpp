// Executor: actions whose stages pause for rows of their experts. One task, or the two of an FB
// pair: whichever is ready has the device, so that the rows of one travel while the other computes.
//
// Paced, each part of a task is held for its share of the action's time: its FLOPs, with the rows
// that really came, over the stage's at an even load. So a rank with more rows is slower, as a real
// one would be.
#include <algorithm>

#include "trainer/executor.hpp"

namespace pipemark {

bool Executor::pauses(std::span<const PlanCall> calls) const {
  return exchange_ != nullptr && std::any_of(calls.begin(), calls.end(), [&](const PlanCall& call) {
           return stages_[static_cast<std::size_t>(call.held)]->pauses();
         });
}

bool Executor::may_overlap(std::span<const PlanCall> calls) const {
  return overlap_ && std::all_of(calls.begin(), calls.end(), [&](const PlanCall& call) {
           return stages_[static_cast<std::size_t>(call.held)]->can_overlap();
         });
}

StageTask Executor::task_of(const PlanCall& call) {
  Stage& stage = *stages_[static_cast<std::size_t>(call.held)];
  const Tensor input = boundary(call.input), output = boundary(call.output);
  count_live(call);
  switch (call.kind) {
    case Kind::F:
      return stage.forward_task(compute_, call.slot, call.micro_batch, input, output);
    case Kind::I:
      return stage.backward_input_task(compute_, call.slot, call.weight_slot, call.micro_batch,
                                       input, output);
    case Kind::W:
      return stage.backward_weight_task(compute_, call.slot, call.weight_slot, call.micro_batch);
    default:
      return stage.backward_task(compute_, call.slot, call.weight_slot, call.micro_batch, input,
                                 output);
  }
}

template <class Step>
void Executor::drive(std::vector<Running>& running, Step&& step) {
  const auto over = [&] {
    return std::all_of(running.begin(), running.end(),
                       [](const Running& one) { return one.task.done(); });
  };
  Backoff backoff(WaitPolicy::shared_core);
  double idle_since_s = -1;
  while (!over()) {
    bool ran = false;
    for (Running& one : running) {
      if (one.task.done() || !one.task.ready()) continue;
      if (idle_since_s >= 0) exchange_->add_exposed(now_s() - idle_since_s);
      idle_since_s = -1;
      step(one);
      ran = true;
    }
    if (ran) continue;
    if (running.size() == 1) {
      running.front().task.pending()->wait();
      continue;
    }
    if (idle_since_s < 0) {
      idle_since_s = now_s();
      backoff = Backoff(exchange_->wait_policy());
    }
    backoff.pause();
    if (backoff.look_at_clock() && now_s() - idle_since_s > exchange_->timeout_s()) {
      for (Running& one : running) {  // one of them says who did not come
        if (!one.task.done()) one.task.pending()->wait();
      }
    }
  }
}

void Executor::run_tasks_measured(const ExecutorPlan& plan, std::span<const PlanCall> calls) {
  const std::size_t at_once = may_overlap(calls) ? calls.size() : 1;
  for (std::size_t first = 0; first < calls.size(); first += at_once) {
    std::vector<Running> running;
    for (const PlanCall& call : calls.subspan(first, at_once)) {
      running.push_back({&call, task_of(call)});
    }
    const auto leave = [&](Running& one) {
      if (!one.task.done() || std::exchange(one.sent, true)) return;
      send_output(plan, *one.call);
    };
    for (Running& one : running) leave(one);  // a stage may have nothing to pause for
    drive(running, [&](Running& one) {
      one.task.resume();
      leave(one);
    });
  }
}

void Executor::run_tasks_paced(std::span<const PlanCall> calls, const Action& action) {
  const std::size_t at_once = may_overlap(calls) ? calls.size() : 1;
  double work = 0;  // of the whole action, even load
  for (const PlanCall& call : calls) {
    const double flops = stages_[static_cast<std::size_t>(call.held)]->forward_flops();
    work += call.kind == Kind::B ? 2 * flops : flops;
  }
  const double s_per_flop = work > 0 ? pacer_->time_of(action) / work : 0;
  const auto poll = [&] {
    if (transport_ != nullptr) transport_->progress();
    exchange_->poll();
  };
  if (work == 0) pacer_->hold_part(0, pacer_->time_of(action), poll);
  for (std::size_t first = 0; first < calls.size(); first += at_once) {
    std::vector<Running> running;
    for (const PlanCall& call : calls.subspan(first, at_once)) {
      running.push_back({&call, task_of(call)});
      running.back().task.stop_at_work();
    }
    drive(running, [&](Running& one) {
      const Pending* awaited = one.task.pending();
      const double ready_s = awaited != nullptr ? awaited->ready_s() : 0;
      one.task.resume();
      // Without work the device was at least idle until then.
      pacer_->hold_part(ready_s, one.task.take_flops() * s_per_flop, poll);
    });
  }
  pacer_->end_with_parts();
}

}  // namespace pipemark
