// Timeline: when each action of each rank ran, simulated or measured, in one form, so that the
// bubble analysis, the renderers and the record are the same code for both. Also the two bubble
// figures.
#pragma once

#include <vector>

#include "schedules/schedule.hpp"

namespace pipemark {

struct TimedAction {
  Action action;
  double start_s = 0;  ///< from the step's common zero
  double end_s = 0;
  double wait_s = 0;  ///< idle just before start_s because an input was not there (measured) or
                      ///< idle at all (simulated)
};

struct Timeline {
  std::vector<std::vector<TimedAction>> ranks;

  /// Over all ranks; infinity where nothing ran.
  double first_start_s() const;
  /// Last end minus first start over all ranks.
  double makespan_s() const;
  /// Sum of (end - start) of a rank.
  double busy_s(int rank) const;
  /// 1 - (sum over ranks of busy) / (P makespan).
  double bubble_ratio() const;
  /// (L - work) / L, L the longest span (last end - first start) of one rank and work the busy time
  /// of that rank: the zero-bubble papers' definition (Qi et al. 2023, section 4), with M (F+I+W)
  /// as work.
  double span_bubble_rate() const;
};

}  // namespace pipemark
