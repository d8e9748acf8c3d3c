// Monitor: when each action of this rank started and ended and how long it waited for its input,
// into arrays made before the first step; and the ways from there to a Timeline of all ranks and to
// a CostModel of measured means.
//
// A host device's times are clock readings. A GPU's are events from a pool, recorded around each
// action and read at the step's end, so that the device is never waited for in mid-step.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/device.hpp"
#include "schedules/cost_model.hpp"
#include "schedules/timeline.hpp"
#include "trainer/clock.hpp"
#include "trainer/executor_plan.hpp"

namespace pipemark {

class Group;

/// One step of one rank.
struct ActionTimes {
  std::int64_t step = -1;
  double zero_s = 0;                 ///< now_s() that start_s and end_s count from
  std::vector<TimedAction> actions;  ///< in executed order
  double host_s = 0;                 ///< wall time of the executor in this step, sends drained
  double wait_s = 0;                 ///< of it waiting for messages or held by pacing
  double kernel_s = 0;               ///< of it inside the stages' calls, on the host
  int peak_live = 0;                 ///< counted while running
  int overruns = 0;                  ///< paced actions that took longer than their time
  /// Time neither in a kernel nor in a wait, an action.
  double overhead_per_action_s() const {
    return actions.empty() ? 0 : (host_s - wait_s - kernel_s) / static_cast<double>(actions.size());
  }
};

/// Records one step; used by the Executor.
class Monitor {
 public:
  Monitor(Device& device, Stream stream, const ExecutorPlan& plan);
  Monitor(const Monitor&) = delete;
  Monitor& operator=(const Monitor&) = delete;
  ~Monitor();

  /// As the wait of an action whose stream waits for its inputs: all the device's idle time before
  /// it is wait.
  static constexpr double kIdleIsWait = 1e30;

  void begin_step(std::int64_t step, double zero_s);
  /// The inputs of action `index` are there at `now_s`, after `wait_s` of waiting on the host, or
  /// the waits for them are enqueued (kIdleIsWait).
  void begin_action(std::size_t index, double now_s, double wait_s);
  void end_action(std::size_t index, double now_s);
  /// Of a device that is not the host.
  Event end_of(std::size_t index) const { return events_[2 * index + 1]; }
  /// A paced action's times, in now_s().
  void set_action(std::size_t index, double start_s, double end_s, double wait_s);
  void add_wait(double wait_s) { times_.wait_s += wait_s; }
  void add_kernel(double kernel_s) { times_.kernel_s += kernel_s; }
  /// Reads the device's events where there are some (the stream must be idle by now).
  void end_step(double end_s, int peak_live, int overruns, ActionTimes& out);

 private:
  Device& device_;
  Stream stream_;
  bool host_;
  ActionTimes times_;
  std::vector<Event> events_;  ///< 2 an action; empty on a host device
  Event base_{};
  std::vector<bool> paced_;
};

/// Mean times of each (kind, stage) over the steps added; FB by both its stages.
class ActionMeans {
 public:
  void add(const ActionTimes& times);
  void clear() { rows_.clear(); }
  struct Row {
    Kind kind = Kind::F;
    int replica = 0, stage = 0, stage_b = 0;  ///< stage_b: of FB's backward half
    std::int64_t count = 0;
    double total_s = 0;
    double mean_s() const { return count == 0 ? 0 : total_s / static_cast<double>(count); }
  };
  const std::vector<Row>& rows() const { return rows_; }

 private:
  std::vector<Row> rows_;
};

/// Collective over a pipeline's group: all ranks' rows of one step on a common zero (the earliest
/// rank's), on its rank 0; empty elsewhere. `clock_offset_s`: Cluster::clock_offset() of this rank.
Timeline gather_timeline(Group& pipeline, const ActionTimes& times, double clock_offset_s);
/// Collective over a pipeline's group: what simulate() needs to predict the measured step, the same
/// on every rank. Without an I/W split a backward counts as halves of equal time. Messages cost 0.
CostModel gather_cost_model(Group& pipeline, const Placement& placement, const ActionMeans& means);

}  // namespace pipemark
