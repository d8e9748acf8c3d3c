// Whether a complete schedule can run to its end: a run without times, as validate.hpp defines it.
#pragma once

#include <vector>

#include "schedules/schedule.hpp"
#include "schedules/validate.hpp"

namespace pipemark {

/// The ranks of one cycle of waits, each with the action it cannot leave; empty where all finish.
/// The schedule must be complete (every input has one producer).
std::vector<Fault> find_deadlock(const Schedule& schedule, bool rendezvous);

}  // namespace pipemark
