// `pipemark simulate`: predicts one schedule and prints its figures as text or JSON.
#pragma once

#include <string>

#include "suite/schedule_options.hpp"

namespace pipemark {

/// The document of `--format json`; throws UserError where the schedule is faulty or over its
/// memory limit.
std::string simulate_json(const ScheduleOptions& options);
std::string simulate_text(const ScheduleOptions& options);

}  // namespace pipemark
