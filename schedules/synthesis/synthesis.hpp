// zb-auto: makes a schedule for unequal times of F, I and W by rank and stage, message times and a
// memory limit of each rank, on a linear, V or bidirectional placement (after Qi et al. 2023, "Zero
// Bubble Pipeline Parallelism", section 3, and Qi et al. 2024, controllable memory).
//
// List scheduling under some hundred sets of rules, then local search on the best of them, until a
// lower bound is met or a budget, counted in evaluations, is spent: the same request gives the same
// schedule. What is minimised is the larger of two excesses, that of the longest single-rank span
// and that of the makespan, each over its lower bound; a tie goes to the smaller makespan.
//
// Schedules that pass the rendezvous model of validate.hpp are preferred, and the only ones where
// the request says so; else one that doesn't (it sends further ahead, which the executor allows) is
// taken where it is better by more than 10^-4 of the span.
//
// Memory is counted as the zero-bubble papers do: F takes 1, I frees 1 - deferred_share, W the
// rest. With deferred_share = 1 (whole until W, as simulate() reports peaks) their ZB-2p can't be
// had: deferring (P-1)(F+I+2c)/W weight gradients on the last rank, which a zero bubble needs,
// would hold more than 2P activations there. Bounds: see bound.hpp.
#pragma once

#include <vector>

#include "schedules/catalogue.hpp"

namespace pipemark {

struct SynthesisOptions {
  /// Full evaluations of the local search; 0: by size (some seconds for 32 ranks x 128).
  int evaluations = 0;
};

struct Synthesis {
  Schedule schedule;
  double makespan = 0;              ///< as simulate() gives it under the request's cost
  double lower_bound = 0;           ///< no schedule has a smaller makespan
  double span = 0;                  ///< the longest single-rank span
  double span_lower_bound = 0;      ///< no schedule has a smaller longest span
  std::vector<double> peak_memory;  ///< by rank, in the unit of memory_limit and by deferred_share
  bool rendezvous = true;           ///< whether it passes validate()'s rendezvous model
  int evaluations = 0;

  /// How far the makespan may be above the best possible, as a part of the bound.
  double gap() const { return lower_bound > 0 ? makespan / lower_bound - 1 : 0; }
  double span_gap() const { return span_lower_bound > 0 ? span / span_lower_bound - 1 : 0; }
};

/// Throws UserError where the request can't be met (it names key, value and what would be right).
/// Without request.cost: F = I = W = 1, free messages, and a memory limit of P unless one is given.
Synthesis synthesize(const ScheduleRequest& request, const SynthesisOptions& options = {});

}  // namespace pipemark
