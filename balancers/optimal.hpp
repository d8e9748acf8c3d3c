// The exact heterogeneous chain partition: which contiguous layers each rank should hold so that
// the slowest rank is as fast as can be, under a memory limit. Every other balancer is reported as
// a gap to it.
//
//   minimise  max over ranks r of  sum over stages s held by r of  t(device(r), layers of s) / R
//
// with R the replicas (micro-batches are dealt among them), each stage at least one layer, and each
// rank's bytes within its device's capacity.
//
//   placement                  method                                             result
//   linear, device r on rank r dynamic programming over (stages, layers)          exact
//   linear, any order          the same over sets of equal devices, up to         exact up to 12
//   devices;
//                              2^12 sets; beyond, devices are merged into classes beyond, with a
//                              proven as fast as their fastest for the lower bound       lower
//                              bound
//   V or bidirectional         rank holds stages r and S-1-r: pairs taken from    exact
//                              the outside in, all (front, back) ends reached
//                              under a time, which is bisected
//   others (several chunks)    descent from the chain's cut                       lower bound
#pragma once

#include <optional>
#include <vector>

#include "balancers/partition.hpp"
#include "schedules/schedule.hpp"

namespace pipemark {

struct ChainCosts {
  /// [device][layer]: seconds of F + I + W of one micro-batch, >= 0.
  std::vector<std::vector<double>> seconds;
  // Bytes by layer: weights, gradients and optimizer state; activations of one micro-batch. Empty:
  // 0.
  std::vector<double> state_bytes, activation_bytes;
  std::vector<double> capacity_bytes;  ///< by device; empty: no limit

  int devices() const { return static_cast<int>(seconds.size()); }
  int layers() const { return seconds.empty() ? 0 : static_cast<int>(seconds.front().size()); }
  /// Devices that take total_s / speed for every layer.
  static ChainCosts of(const std::vector<LayerCost>& layers, const std::vector<double>& speeds);
};

/// Micro-batches whose activations a rank holds at once, [replica * S + stage] (as a schedule's
/// slot_needs gives them). Empty: one each.
using LiveActivations = std::vector<int>;

struct ChainPlan {
  Partition partition;
  std::vector<int> device;   ///< by rank: which of the costs' devices it is
  double bottleneck_s = 0;   ///< the slowest rank's seconds a micro-batch
  double lower_bound_s = 0;  ///< no plan is faster; equals bottleneck_s where the plan is exact
  bool exact() const { return lower_bound_s >= bottleneck_s; }
  double gap() const { return bottleneck_s / lower_bound_s - 1; }
};

/// Rank r is device r. Throws UserError where there are fewer layers than stages or nothing fits
/// the memory.
ChainPlan optimal_partition(const ChainCosts& costs, const Placement& placement,
                            const LiveActivations& live = {});

/// A linear pipeline whose devices may stand in any order. `live` is by stage.
ChainPlan optimal_order(const ChainCosts& costs, const LiveActivations& live = {});

/// Seconds a micro-batch of each rank under a plan's cut and order (the objective's terms).
std::vector<double> rank_seconds(const ChainCosts& costs, const Placement& placement,
                                 const Partition& partition, const std::vector<int>& device);

}  // namespace pipemark
