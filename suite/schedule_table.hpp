// The papers' closed forms beside what is simulated, for every schedule of the catalogue at one
// size: bubble, parameters and activations, each cell exact (equal), bound (the form is an upper
// bound and holds) or differs, with the reason.
#pragma once

#include <string>

#include "suite/schedule_options.hpp"

namespace pipemark {

/// Sizes default to 8 ranks and 20 micro-batches. Times must be of 1/P of the model.
std::string schedule_table(const ScheduleOptions& options);

}  // namespace pipemark
