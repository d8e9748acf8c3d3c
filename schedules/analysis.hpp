// Bubble analysis: where the idle time of a timeline comes from. One code for simulated and
// measured timelines.
//
// Method: the same schedule is simulated under costs that lack one cause after the other,
//   (a) every stage at the mean cost, no communication   -> what the schedule itself leaves idle
//   (b) each stage's own cost, no communication          -> + imbalance
//   (c) each stage's own cost, message times             -> + exposed communication
//   (d) the timeline as given                            -> + overhead (all the rest)
// and the idle time of a rank in (a), (b), (c), (d) makes its cumulative levels A, B, C, D. D is
// the truth; a level may not explain more idle time than the next one has, so
//   C' = min(C, D), B' = min(B, C'), A' = min(A, B')
//   fill_drain = A', imbalance = B' - A', exposed_communication = C' - B', overhead = D - C'
// are never negative and add up to the rank's idle time whatever the costs are. (A slow rank is
// idle less than it would be in a balanced pipeline: all its idle time is fill/drain, and the
// imbalance shows on the others.)
#pragma once

#include <vector>

#include "schedules/cost_model.hpp"
#include "schedules/program.hpp"
#include "schedules/schedule.hpp"
#include "schedules/simulate.hpp"
#include "schedules/timeline.hpp"

namespace pipemark {

/// Idle time split into causes, as shares of P x makespan (total) or of the makespan (one rank).
/// They add up to bubble_ratio, or to 1 - busy / makespan of the rank.
struct IdleCauses {
  double fill_drain = 0, imbalance = 0, exposed_communication = 0, overhead = 0;
  double total() const { return fill_drain + imbalance + exposed_communication + overhead; }
};

struct IdleAnalysis {
  IdleCauses total;               ///< the mean of `ranks`
  std::vector<IdleCauses> ranks;  ///< by rank
};

/// Mean times of each (rank, stage) as the timeline has them; `message` is the time of a message
/// between any two ranks, in the timeline's unit. The busy time of each rank under the result is
/// that of the timeline exactly:
/// - I and W keep the ratio of their own means, and are scaled so that B, where the stage also has
///   full backwards, is I + W on average (halves where nothing is split);
/// - `overlap` is the time of all FB over the F + B of their halves; what is left of a rank's
///   difference scales all the costs of that rank.
/// A pair that never ran gets the mean of all. Throws LogicError where the timeline's actions are
/// not the schedule's.
CostModel cost_from_timeline(const Schedule& schedule, const Timeline& timeline, double message);
/// `message[a * P + b]`, as CostModel::message.
CostModel cost_from_timeline(const Schedule& schedule, const Timeline& timeline,
                             std::vector<double> message);

/// The costs of (a): every (rank, stage) at the mean, weighted by what the schedule runs, so that
/// the work of all ranks together is unchanged; no communication.
CostModel balanced_cost(const Schedule& schedule, const CostModel& cost);

IdleAnalysis analyze_ranks(const Schedule& schedule, const Timeline& timeline,
                           const CostModel& cost);
/// analyze_ranks().total
IdleCauses analyze(const Schedule& schedule, const Timeline& timeline, const CostModel& cost);

/// A program's run under equal stages, and its idle time by cause; as simulate() of a program, in
/// memory that does not grow with M. `whole` is of 1/P of the model.
struct ProgramAnalysis {
  Simulation simulation;
  IdleAnalysis idle;
};
ProgramAnalysis simulate_and_analyze(const Program& program, StageCost whole, double message,
                                     double overlap);

/// What `cost` predicts for a schedule beside what a timeline of it shows.
struct PredictedBeside {
  double predicted_makespan = 0, makespan = 0;
  double predicted_bubble_ratio = 0, bubble_ratio = 0;
  double predicted_span_bubble_rate = 0, span_bubble_rate = 0;
  /// (predicted - measured) / measured.
  double makespan_error() const { return predicted_makespan / makespan - 1; }
  /// predicted - measured; both are ratios already.
  double bubble_ratio_error() const { return predicted_bubble_ratio - bubble_ratio; }
};
PredictedBeside predict_beside(const Schedule& schedule, const Timeline& timeline,
                               const CostModel& cost);

}  // namespace pipemark
