// A recorded run as the renderers draw it: its timeline and, below it, the predicted one.
#pragma once

#include <string>

#include "schedules/drawing.hpp"
#include "suite/results.hpp"

namespace pipemark {

/// Whether `name` is the path of a record: it ends in ".h5".
bool is_record_file(const std::string& name);

/// UserError where the run has no timeline (it was cut short).
Drawing drawing_of(const RunRecord& run);

/// Run `run` of a record; -1: the only one. UserError where there is none or no choice was made.
Drawing read_drawing(const std::string& path, int run);

}  // namespace pipemark
