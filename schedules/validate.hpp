// validate: proves that a schedule is complete and can run, or names each fault and its place.
#pragma once

#include <string>
#include <vector>

#include "schedules/schedule.hpp"

namespace pipemark {

struct Fault {
  int rank = -1;   ///< -1: no single place
  int index = -1;  ///< action of that rank
  std::string what;
};

struct ValidateOptions {
  /// Sends block until the receiver has reached the action that needs the message's predecessor: a
  /// schedule that passes can run with no buffering at all beyond posted receives.
  bool rendezvous = true;
  double memory_limit = 0;  ///< as ScheduleRequest::memory_limit; 0: none
  /// What memory_limit counts of an activation after I until W (F counts 1, W and B free the rest).
  double deferred_share = kDeferredShare;
};

/// Empty when the schedule is sound: every (stage, micro-batch) has one F and one B or one I and
/// one W after it, on the rank that holds the stage, each dependency can be met, nothing deadlocks.
std::vector<Fault> validate(const Schedule& schedule, const ValidateOptions& options = {});

/// The faults on a printed grid, each place marked `<-- HERE`.
std::string format_faults(const Schedule& schedule, const std::vector<Fault>& faults);

}  // namespace pipemark
