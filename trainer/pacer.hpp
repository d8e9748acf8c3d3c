// Pacer: a paced device. Each action takes the time that the CostModel gives it, whatever the real
// compute took, as long as that was less:
//
//   start = max(end of the predecessor, arrival of the inputs)    end = start + time
//
// in nominal time: a predecessor's due time counts, not when the process woke up, and an input's
// arrival is the sender's due time, carried behind the message as a stamp, plus the link's time.
// The real message must have arrived and the real compute must be over by `end`; else the action
// has overrun: it is counted, and its end is the real one. A run of no overruns is thus exact, and
// one that a busy machine delayed says so. Without stamps the arrival is when the message was seen.
#pragma once

#include <cstdint>
#include <functional>

#include "schedules/cost_model.hpp"
#include "schedules/schedule.hpp"

namespace pipemark {

class Group;
class Transport;

struct PaceCounts {
  std::int64_t actions = 0;
  std::int64_t overruns = 0;
  std::int64_t stamped = 0;  ///< starts that took an input's arrival from its stamp
  double worst_overrun_s = 0;
  double worst_wake_s = 0;  ///< how late after an action's end its rank woke up
  double busiest = 0;       ///< largest real compute / paced time of an action
};

class Pacer {
 public:
  /// An action may end late by this part of its time (at least kMinToleranceS) without overrunning.
  static constexpr double kTolerance = 0.01;
  static constexpr double kMinToleranceS = 20e-6;

  /// `rank`: pipeline rank. `clock_offset_s`: Cluster::clock_offset() of this rank; stamps are in
  /// rank 0's clock. Sets the process's timer slack to 1 us.
  Pacer(CostModel cost, int rank, double clock_offset_s = 0);

  /// Other times from the next step on: a device that slowed down, another plan.
  void set_cost(CostModel cost);

  /// Collective over the pipeline's group, before run_step(): the step starts on all ranks at the
  /// same nominal time.
  void begin_step(Group& pipeline);
  /// The same without a group. `start_s` in this rank's now_s().
  void begin_step(double start_s);
  double step_start_s() const { return step_start_s_; }

  /// Seconds of an action on this rank.
  double time_of(const Action& action) const;
  /// When a message with this stamp is there, in this rank's now_s().
  double arrival_s(double stamp_s, int from_rank) const;
  double stamp_s(double end_s) const { return end_s + clock_offset_s_; }

  struct Times {
    double start_s = 0, end_s = 0, wait_s = 0;
  };
  /// Opens an action whose inputs arrived at `arrival_s` (0: none), by stamp or as seen.
  void begin_action(const Action& action, double arrival_s, bool stamped);
  /// Within an open action whose compute comes in parts, not before `ready_s`: the part's end after
  /// `seconds` of the device's time. Holds the rank until then,
  /// polling.
  double hold_part(double ready_s, double seconds, const std::function<void()>& poll);
  /// After parts: the action ends when the last of them does.
  void end_with_parts() { parts_ = true; }

  /// The real compute is over: holds the rank until the action's end while `transport` (may be
  /// null) makes progress, and gives the action's nominal times.
  Times end_action(Transport* transport);

  const PaceCounts& counts() const { return counts_; }
  void clear_counts() { counts_ = {}; }

 private:
  CostModel cost_;
  int rank_;
  double clock_offset_s_;
  double step_start_s_ = 0, free_s_ = 0;  ///< when the device is free, nominal
  double real_start_s_ = 0, time_s_ = 0;
  double part_end_s_ = 0;  ///< of the parts so far; the action's start before the first
  bool parts_ = false;
  Times now_;
  PaceCounts counts_;
};

}  // namespace pipemark
