// Builds orders by list scheduling: time moves forward, and each rank that is free takes what its
// rules prefer among the tasks that are there (or are known to arrive soon).
#pragma once

#include <vector>

#include "schedules/synthesis/problem.hpp"

namespace pipemark::synthesis {

/// One parameterisation. Defaults are a greedy zero-bubble schedule: I first, F when memory has
/// room, W in the gaps.
struct Rules {
  /// A gap before the next known arrival is filled with a W when the W ends no later than `fill` of
  /// its time after the arrival: 0 only what fits, 1 always.
  double fill = 0.5;
  /// Idle time that a rank may spend, once started, on gaps that a W would overrun: it waits while
  /// its idle time stays within span - its work, and else goes by `fill`. 0: no such allowance.
  double span = 0;
  /// F's that a rank with d ranks behind it may have ahead of its I's: flight_base + flight_slope
  /// d, never more than its capacity; flight_slope < 0: no such limit.
  double flight_base = 1, flight_slope = -1;
  /// An F waits for an I that is known to arrive within this part of F's time.
  double patience = 0;
  /// Before its first I a rank does no F that would end later than that I's earliest possible
  /// arrival plus this part of the F's time; < 0: no such rule. It keeps the first I's way free.
  double lateness = -1;
  /// Among F's, and among I's, of several stages: the later stage first.
  bool deep_forward = true, deep_backward = true;
  /// F before I when both are there and the rank's own flight has room.
  bool forward_first = false;
};

/// Always complete and within the capacities: each stage of a rank keeps a place of its own while
/// it has F's to do, so no stage starves another.
Orders construct(const Problem& problem, const Rules& rules);

}  // namespace pipemark::synthesis
