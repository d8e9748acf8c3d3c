// Paced devices: real compute and real messages, but each action is held until the time that a
// device profile gives it, so that slow or many devices can be studied on a small machine. An
// action that overruns its time is counted; beyond kMaxOverrunFraction of the actions the run is
// invalid.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "balancers/partition.hpp"
#include "schedules/cost_model.hpp"

namespace pipemark {

inline constexpr double kMaxOverrunFraction = 0.01;

struct PaceProfile {
  /// Seconds by the kind of layer, of a micro-batch of `sequences` sequences; they grow with the
  /// sequences, `overhead_s` of each F, I and W does not.
  struct LayerTimes {
    StageCost embedding{0, 0, 0}, block{0, 0, 0}, head{0, 0, 0};
    double overhead_s = 0;
    int sequences = 1;
  };
  /// From `step` on (below `until`, where that is not -1) a rank takes `factor` times as long.
  struct Change {
    std::int64_t step = 0, until = -1;
    int rank = 0;
    double factor = 1;
  };

  std::string source;  ///< the file's path, for messages and the record
  /// Seconds of 1/P of the model, or by stage when `stages` has one entry a stage.
  StageCost whole{0, 0, 0};
  std::vector<StageCost> stages;
  /// The link of an expert group: an all-to-all takes latency + bytes received / bandwidth (0: as
  /// fast as messages come).
  double expert_latency_s = 0, expert_bytes_per_s = 0;
  std::vector<double> speed;  ///< by rank, 1 = as the times say, 0.5 = half as fast; empty: all 1

  /// By rank: what the elastic balancer may plan for; empty: what the machine has.
  std::vector<double> memory_bytes;
  std::optional<LayerTimes> layers;  ///< instead of `whole` and `stages`
  std::vector<Change> changes;

  /// Seconds of each (rank, stage) at the start. Throws UserError when sizes don't fit.
  CostModel cost_model(int ranks, int stage_count) const;
  /// The same in `step` of stages cut by `partition`, for micro-batches of `sequences`. Without
  /// `layers` a stage's time does not depend on its layers.
  CostModel cost_model(int ranks, const Partition& partition, int sequences,
                       std::int64_t step) const;
  /// Times of each layer, F, I and W without the overhead; empty without `layers`.
  std::vector<LayerCost> layer_costs(int layer_count, int sequences) const;
  /// What `rank` takes in `step`, as a multiple of the times: 1 / speed and the changes' factors.
  double factor_of(int rank, std::int64_t step) const;
  /// True where some rank's factor in `step` is not that of the step before.
  bool changes_at(std::int64_t step) const;
};

}  // namespace pipemark
