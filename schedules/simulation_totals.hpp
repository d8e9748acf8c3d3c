// What both simulators know of a rank at the end, and the figures that follow from it.
#pragma once

#include <vector>

#include "schedules/simulate.hpp"

namespace pipemark {

struct RankTotals {
  double end = 0, busy = 0;
  double first_start = -1;  ///< -1: the row is empty
  int peak_live = 0;
};

/// Fills all of `result` but its timeline.
void summarize(const std::vector<RankTotals>& ranks, const Placement& placement,
               Simulation& result);

}  // namespace pipemark
