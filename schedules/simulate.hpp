// simulate: a discrete-event run of a schedule under a CostModel. O(actions), no allocation per
// action.
//
// An action starts when its rank is free and its inputs have arrived; a message leaves at the end
// of the action that makes it, and its transfer overlaps everything. FB starts when both its inputs
// are there, takes overlap x (F + B), and both its outputs leave at its end. Activations are live
// from the start of F to the end of B, or of W where the backward is split.
#pragma once

#include <vector>

#include "schedules/cost_model.hpp"
#include "schedules/program.hpp"
#include "schedules/schedule.hpp"
#include "schedules/stage_cost.hpp"
#include "schedules/timeline.hpp"

namespace pipemark {

struct Simulation {
  double makespan = 0;
  double bubble_ratio = 0;      ///< 1 - busy / (P makespan)
  double span_bubble_rate = 0;  ///< (L - M(F+I+W)) / L, L the longest single-rank span
  std::vector<double> busy;     ///< by rank
  /// By rank, in micro-batches of a whole stage of S = P (a stage of S = 2P counts a half):
  /// activations are live from the start of F to the end of B, or of W when the backward is split.
  std::vector<double> peak_activations;
  /// The same in whole activations of a stage: live[rank] counts (stage, micro-batch) pairs.
  std::vector<int> peak_live;
  Timeline timeline;  ///< empty unless asked for
};

/// Throws LogicError naming rank and action where the schedule cannot proceed (validate() first).
Simulation simulate(const Schedule& schedule, const CostModel& cost, bool keep_timeline = false);

/// The same run of a program as it stands, one loop after the other: memory O(ranks + messages
/// under way) instead of O(actions), so that 10^9 actions fit. Every message of a stage is taken in
/// order. Throws LogicError naming rank and loop where the program cannot proceed.
Simulation simulate(const Program& program, const PlacedCost& cost);

/// Live activations by (rank, replica, stage) that an executor must have room for, and deferred
/// W's.
struct SlotNeeds {
  int activations = 0;       ///< most (F started, W or B not finished) at once
  int deferred_weights = 0;  ///< most (I started, W not finished) at once
};
/// [rank][k] for the k-th entry of placement.held_by(rank). Depends on each rank's order only.
std::vector<std::vector<SlotNeeds>> slot_needs(const Schedule& schedule);

}  // namespace pipemark
