// Timelines as a trace for Perfetto (ui.perfetto.dev, chrome://tracing): Chrome's JSON trace
// events, a process a timeline (measured, predicted), a thread a rank, a slice an action with its
// stage, micro-batch and wait, and a counter of each rank's live activations.
#pragma once

#include <string>

#include "schedules/drawing.hpp"

namespace pipemark {

/// `unit_s`: seconds of one unit of the timelines' times.
std::string to_trace(const Drawing& drawing, double unit_s);

}  // namespace pipemark
