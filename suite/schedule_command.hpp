// `pipemark schedule`: draws, writes and checks a schedule, its closed forms beside the simulation.
#pragma once

#include <string>

#include "suite/schedule_options.hpp"

namespace pipemark {

/// Title, paper, and closed forms beside what is simulated; each line says which it is.
std::string schedule_summary(const ScheduleOptions& options, const Schedule& schedule);

}  // namespace pipemark
