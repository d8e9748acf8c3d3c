// Paced devices: real compute and real messages, but each action is held until the time that a
// device profile gives it, so that slow or many devices can be studied on a small machine. An
// action that overruns its time is counted; beyond kMaxOverrunFraction of the actions the run is
// invalid.
#pragma once

#include <string>
#include <vector>

#include "schedules/cost_model.hpp"

namespace pipemark {

inline constexpr double kMaxOverrunFraction = 0.01;

struct PaceProfile {
  std::string source;  ///< the file's path, for messages and the record
  /// Seconds of 1/P of the model, or by stage when `stages` has one entry a stage.
  StageCost whole{0, 0, 0};
  std::vector<StageCost> stages;
  /// The link of an expert group: an all-to-all takes latency + bytes received / bandwidth (0: as
  /// fast as messages come).
  double expert_latency_s = 0, expert_bytes_per_s = 0;
  std::vector<double> speed;  ///< by rank, 1 = as the times say, 0.5 = half as fast; empty: all 1

  /// Seconds of each (rank, stage). Throws UserError when sizes don't fit.
  CostModel cost_model(int ranks, int stage_count) const;
};

}  // namespace pipemark
