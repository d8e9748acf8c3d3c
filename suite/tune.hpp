// The search of `pipemark tune`: schedule, chunks, cut, micro-batches and checkpointing, by
// simulation, from layer times that two short runs measured. Pure; tune_command.cpp measures.
#pragma once

#include <string>
#include <vector>

#include "balancers/partition.hpp"
#include "suite/config.hpp"

namespace pipemark {

/// Layer times as a line in the sequences of a micro-batch (times of kernels that fill a device
/// grow so; what is left at 0 sequences is the calls' own), and what no layer explains.
struct TuneProfile {
  std::vector<LayerCost> at_zero, per_sequence;
  double action_s = 0;  ///< of every action beside its layers: messages, waits, the executor
  double rest_s = 0;    ///< of a step beside the schedule: gradient sums, the optimizer

  std::vector<LayerCost> layers(int sequences) const;
};

/// From layer times at two sizes; slopes and intercepts below 0 are 0. One size twice: through 0.
TuneProfile fit_profile(const std::vector<LayerCost>& small, int small_sequences,
                        const std::vector<LayerCost>& large, int large_sequences);

struct TuneSpace {
  std::vector<std::string> schedules;  ///< empty: the catalogue's, but zb-auto
  double memory_bytes = 0;             ///< of a device; 0: no limit
  int activation_bytes = 4;            ///< of an element
};

struct Candidate {
  std::string label;                    ///< "as given", "recipe", "found 1"
  RunConfig config;                     ///< its partition written out
  double step_s = 0, bubble_ratio = 0;  ///< simulated
  double peak_bytes = 0;                ///< predicted, the fullest rank
};

/// Step and memory of one configuration. UserError where it can't run.
Candidate predict_candidate(const RunConfig& config, const TuneProfile& profile,
                            const TuneSpace& space);

/// Bytes of the fullest rank: parameters with gradients and optimizer state, activations and
/// deferred gradients in the numbers that the schedule needs (trainer/gpt_stage.hpp).
double predict_memory(const RunConfig& config, const TuneSpace& space);

/// The published recipe: an even split, and micro-batches raised while memory holds and
/// pipeline_bubble_ratio falls. It watches the ratio, not the clock.
Candidate recipe(const RunConfig& config, const TuneProfile& profile, const TuneSpace& space);

/// All candidates that fit, the shortest predicted step first, without twins.
std::vector<Candidate> search(const RunConfig& config, const TuneProfile& profile,
                              const TuneSpace& space);

}  // namespace pipemark
