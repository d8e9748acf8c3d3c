// Executor: interprets one rank's row of a schedule: posts receives ahead, waits for an action's
// inputs, calls its stage, sends what it made. What is drawn and simulated is what runs here.
//
// All decisions are in the ExecutorPlan; an action costs a few clock readings and its messages. With
// a stream-ordered transport the host is a few actions ahead of the device; else it waits for each
// message's arrival. On a GPU an action's times are events that are read when the step is over.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "kernels/device.hpp"
#include "trainer/executor_plan.hpp"
#include "trainer/expert_exchange.hpp"
#include "trainer/monitor.hpp"
#include "trainer/pacer.hpp"
#include "trainer/stage.hpp"
#include "trainer/transport.hpp"

namespace pipemark {

class Executor {
 public:
  /// `stages[k]` is the k-th of placement.held_by(rank); `buffers` from take_boundary_buffers().
  /// `transport` may be null when the plan has no messages, `pacer` when the run is measured. All
  /// must outlive the executor. Collective over the pipeline where there is a transport.
  Executor(ExecutorPlan plan, std::vector<Stage*> stages, std::vector<Tensor> buffers,
           Device& device, Transport* transport, Pacer* pacer = nullptr);
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;
  ~Executor();

  /// On a GPU: `work` runs in every step when all of its actions are enqueued, before the host
  /// waits for them: what the device shall do next, and what the host can do meanwhile.
  void set_overlapped(std::function<void()> work) { overlapped_ = std::move(work); }
  /// One step's actions; returns when all of them are done and all messages are gone. A paced step
  /// starts at the pacer's begin_step(). Throws TransportError when a peer does not come.
  void run_step(std::int64_t step, ActionTimes& out);
  /// The forward plan's actions (validation), never paced. `plan` must not need more buffers, and
  /// be the same one in each call. Collective over the pipeline in the first.
  void run_forward(std::int64_t step, const ExecutorPlan& plan);

  /// Called in run_step() once the last action that adds to the k-th held stage's gradients has
  /// been enqueued.
  void on_stage_done(std::function<void(int k)> hook);

  const ExecutorPlan& plan() const { return plan_; }
  /// The exchange that stages pause for: its waits count as exposed. `overlap` false: an FB pair
  /// runs F, then B. Null (the default): stages don't pause.
  void set_exchange(ExpertExchange* exchange, bool overlap) {
    exchange_ = exchange;
    overlap_ = overlap;
  }

 private:
  /// A call under way.
  struct Running {
    const PlanCall* call;
    StageTask task;
    double s_per_flop = 0;  ///< paced
    bool sent = false;
  };

  void run_row(const ExecutorPlan& plan);
  void hold_back(std::size_t index);
  void await(Event event);
  int announce(const ExecutorPlan& plan);
  std::vector<PlannedTransfer> transfers_of(const std::vector<PlanMessage>& messages) const;
  void finish_send(const ExecutorPlan& plan, std::size_t send);
  void post_receives(const ExecutorPlan& plan, const PlanAction& action);
  double wait_inputs(const ExecutorPlan& plan, const PlanAction& action, double& wait_s);
  void run_measured(const ExecutorPlan& plan, const PlanAction& action, std::size_t index,
                    double wait_s);
  void run_paced(const ExecutorPlan& plan, const PlanAction& action, std::size_t index,
                 double arrival_s);
  // executor_tasks.cpp: actions of stages that pause.
  bool pauses(std::span<const PlanCall> calls) const;
  bool may_overlap(std::span<const PlanCall> calls) const;
  std::vector<Running> start_tasks(std::span<const PlanCall> calls, const Action& action);
  StageTask task_of(const PlanCall& call);
  void run_tasks_measured(const ExecutorPlan& plan, std::span<const PlanCall> calls);
  void run_tasks_paced(std::span<const PlanCall> calls, const Action& action);
  /// Resumes those that are ready, in turn; when none is, waits, and counts that as exposed.
  template <class Step>
  void drive(std::vector<Running>& running, Step&& step);
  void count_live(const PlanCall& call);
  void call_stage(const PlanCall& call);
  void send_output(const ExecutorPlan& plan, const PlanCall& call);
  WaitContext context_of(const PlanMessage& message) const;
  bool stamped() const;               ///< messages carry the sender's time
  Tensor boundary(int buffer) const;  ///< what a stage sees; empty for -1
  Tensor message(int buffer) const;   ///< what is sent: with the stamp when paced

  ExecutorPlan plan_;
  std::vector<Stage*> stages_;
  std::vector<Tensor> buffers_;
  std::int64_t boundary_size_ = 0;
  Device& device_;
  Transport* transport_;
  Pacer* pacer_;
  Stream compute_;
  Monitor monitor_;
  std::function<void()> overlapped_;
  Event drained_{};
  std::vector<MessageId> receive_ids_, send_ids_;  ///< -1: not outstanding
  int step_transfers_ = 0, forward_transfers_ = -1;  ///< Transport::use()
  std::function<void(int)> stage_done_;
  std::vector<std::int32_t> last_call_;  ///< by held stage: its last B or W
  std::int64_t step_ = 0;
  ExpertExchange* exchange_ = nullptr;
  bool overlap_ = true;
  bool pacing_ = false, recording_ = false;
  int live_ = 0, peak_live_ = 0;
};

}  // namespace pipemark
