// What the parts of `optimal` share: sums over runs of layers in O(1), and one search a placement.
#pragma once

#include <optional>
#include <vector>

#include "balancers/optimal.hpp"

namespace pipemark::chain {

/// Prefix sums of the costs. A run of layers is [from, to).
class Sums {
 public:
  explicit Sums(const ChainCosts& costs);

  int devices() const { return devices_; }
  int layers() const { return layers_; }
  double seconds(int device, int from, int to) const {
    const double* row = seconds_.data() + static_cast<std::size_t>(device) * width_;
    return row[to] - row[from];
  }
  double bytes(int live, int from, int to) const {
    return state_[static_cast<std::size_t>(to)] - state_[static_cast<std::size_t>(from)] +
           live * (activation_[static_cast<std::size_t>(to)] -
                   activation_[static_cast<std::size_t>(from)]);
  }
  double capacity(int device) const { return capacity_[static_cast<std::size_t>(device)]; }

 private:
  int devices_, layers_;
  std::size_t width_;
  std::vector<double> seconds_, state_, activation_, capacity_;
};

/// A cut with its largest rank's seconds (infinite: nothing fits).
struct Cut {
  Partition partition;
  double bottleneck_s;
};

/// Linear: stage k on device order[k].
Cut ordered(const Sums& sums, const std::vector<int>& order, const std::vector<int>& live);
/// V or bidirectional: S even, and each rank holds stages r and S-1-r for some r.
bool is_folded(const Placement& placement);
Cut folded(const Sums& sums, const Placement& placement, const std::vector<int>& live,
           double lower_bound_s);
/// Any placement, no proof.
Cut descend(const Sums& sums, const Placement& placement, const std::vector<int>& live);

/// From the work alone: all of it shared by all devices, each as fast as it ever is.
double work_bound(const ChainCosts& costs, int replicas);

/// Seconds of the slowest rank, infinite where a rank's memory is too small.
double bottleneck(const Sums& sums, const Placement& placement, const std::vector<int>& live,
                  const Partition& partition);

}  // namespace pipemark::chain
