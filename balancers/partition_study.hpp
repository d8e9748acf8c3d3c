// Cuts of one model side by side: each is simulated under the schedule, because a cut is praised
// for the time of a step and not for how even it is.
#pragma once

#include <string>
#include <vector>

#include "balancers/partition.hpp"
#include "schedules/cost_model.hpp"
#include "schedules/schedule.hpp"

namespace pipemark {

struct PartitionStudy {
  std::vector<LayerCost> layers;  ///< seconds of a micro-batch on a device of speed 1
  std::vector<double> activation_bytes, output_bytes;  ///< by layer, of a micro-batch
  std::vector<double> speeds;                          ///< by rank; empty: all 1
  double memory_bytes = 0;                             ///< of each device; 0: no limit
  double link_latency_s = 0, link_bytes_per_s = 0;     ///< 0 bytes a second: messages take no time
};

struct StudiedPartition {
  std::string name;
  Partition partition;
  double imbalance = 1;                 ///< max / mean over ranks of the seconds a rank works
  double step_s = 0, bubble_ratio = 0;  ///< simulated
  double peak_bytes = 0;                ///< the fullest rank: states and live activations
  bool fits = true;
};

/// The stages' times under a cut; a message takes the largest output that crosses the pair of
/// ranks.
CostModel cost_model(const PartitionStudy& study, const Partition& partition,
                     const Placement& placement);

StudiedPartition study_partition(const PartitionStudy& study, const Schedule& schedule,
                                 std::string name, const Partition& partition);

/// static-even, static-parameters, static-cost, optimal (the least slowest rank, within memory),
/// and "step": from the fastest of these, boundaries moved while the simulated step gets shorter. A
/// balancer that finds nothing (optimal under a limit) has no row. The simulator is the judge.
std::vector<StudiedPartition> study_partitions(const PartitionStudy& study,
                                               const Schedule& schedule);

}  // namespace pipemark
