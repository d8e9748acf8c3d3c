// A schedule as an SVG that a paper can print: one row a rank, actions coloured by kind and
// numbered by micro-batch, a time axis, the idle time of each rank by cause at the right, a legend
// below.
//
//   1f1b, 4 ranks, 8 micro-batches
//   rank 0 |0|1|2|3|      | 0 |4| 1 |...      |####::  |   idle time by cause
//   rank 1   |0|1|2|    | 0 |3| 1 |4|...      |####:   |
//          0    5    10   15   time (ms)       0   40 %
//
// Plain SVG 1.1, shapes and text only (no script, no style sheet), so that every converter and
// browser takes it; each action has a tooltip.
#pragma once

#include <string>

#include "schedules/drawing.hpp"

namespace pipemark {

struct SvgOptions {
  double width = 0;  ///< pixels of the whole picture; 0: as the shortest action's number needs
};

std::string render_svg(const Drawing& drawing, const SvgOptions& options = {});

}  // namespace pipemark
