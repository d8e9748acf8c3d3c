// validate: proves that a schedule is complete and can run, or names each fault and its place.
//
// What the executor guarantees, and so what "can run" means: a rank runs its row in order; an
// action starts when its inputs have arrived; every receive is posted ahead in the order of need,
// and no send ever blocks. FB starts when both its inputs are there, and both its outputs leave at
// its end.
//
// The stricter model, `rendezvous`: a send blocks its rank until its receive is posted, and
// receives are posted where there is room only. A rank has, for each (replica, stage) it holds, as
// many slots as its own row needs (slot_needs().activations) and one more to receive ahead. A slot
// takes the input of F and later the gradient of its output; it is free again after B or W. So the
// k-th input of a stage (k from 0, in the order of the stage's F's) is received once k - slots of
// its micro-batches are through. The two sends of FB go out together; a message between stages of
// one rank needs no send. A schedule that passes needs no buffering beyond its activations.
#pragma once

#include <string>
#include <vector>

#include "schedules/schedule.hpp"

namespace pipemark {

struct Fault {
  int rank = -1;   ///< -1: no single place
  int index = -1;  ///< action of that rank; its row's length: something is missing at the end
  std::string what;
};

struct ValidateOptions {
  bool rendezvous = true;   ///< also check the stricter model
  double memory_limit = 0;  ///< as ScheduleRequest::memory_limit; 0: none
  /// As ScheduleRequest::memory_limits: by rank (0: none); empty: memory_limit for all.
  std::vector<double> memory_limits;
  /// What memory_limit counts of an activation after I until W, as a part of it: F adds 1, I frees
  /// 1 - deferred_share, W the rest, B all. 1: whole until W, as simulate() reports peaks.
  double deferred_share = kDeferredShare;
};

/// Empty when the schedule is sound: every (stage, micro-batch) has one F and one B or one I and
/// one W after it, on the rank that holds the stage, each dependency can be met, nothing deadlocks.
/// Deadlocks are looked for only where everything else is sound.
std::vector<Fault> validate(const Schedule& schedule, const ValidateOptions& options = {});

/// The most that each rank holds at once as memory_limit counts it, in micro-batches of 1/P of the
/// model.
std::vector<double> peak_memory(const Schedule& schedule, double deferred_share = kDeferredShare);

/// The faults on a printed grid, each place marked `<-- HERE`.
std::string format_faults(const Schedule& schedule, const std::vector<Fault>& faults);

}  // namespace pipemark
