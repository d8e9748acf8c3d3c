// Static balancers: even, by parameters, by measured cost. Pure functions of the layers.
#pragma once

#include <vector>

#include "balancers/partition.hpp"

namespace pipemark {

/// Blocks in equal numbers a stage (earlier stages get the remainder); the embedding goes with the
/// first stage and the head with the last unless there are fewer blocks than stages: then all
/// layers are dealt in equal numbers. Throws UserError when there are fewer layers than stages.
Partition partition_even(int layers, int stages);

/// The contiguous partition that minimises the largest stage's weight (exact, by dynamic
/// programming; ties to the earlier cut). weights: one a layer, >= 0.
Partition partition_by_weight(const std::vector<double>& weights, int stages);

/// The same where stage s runs at speeds[s] (> 0): minimises the largest weight / speed.
Partition partition_by_weight(const std::vector<double>& weights,
                              const std::vector<double>& speeds);

}  // namespace pipemark
