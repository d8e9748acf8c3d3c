// The terminal grid: one line a rank, cells as wide as the actions' times, idle time as dots.
//   time   0         10        20
//   rank 0 F0 F1 F2 F3.......B0  B1  B2
// A cell begins with its action ("F3" where a rank holds one stage, "2F3" where it holds several)
// and is filled with '-' in plain text, or is a bar of its kind's colour.
#pragma once

#include <string>

#include "schedules/schedule.hpp"
#include "schedules/timeline.hpp"

namespace pipemark {

struct GridOptions {
  int width = 0;        ///< columns of the longest line; 0: as wide as it gets
  bool colour = false;  ///< ANSI colours
};

/// The narrowest action of the timeline shows its label whole; where `width` cuts the schedule,
/// each line ends with '>' and a last line says up to what time it is shown. Ends with a legend.
std::string render_grid(const Schedule& schedule, const Timeline& timeline,
                        const GridOptions& options = {});

}  // namespace pipemark
