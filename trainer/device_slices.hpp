// Slices of one GPU: several ranks share it by CUDA MPS (Multi-Process Service), each with a share of
// its multiprocessors, so that one GPU is a small cluster, of equal or unequal devices.
#pragma once

#include <string>
#include <vector>

#include "kernels/ops.hpp"
#include "trainer/cluster.hpp"

namespace pipemark {

/// "mps:8": eight slices of 12.5 %; "mps:40,30,20,10": these percentages by rank. Empty: none. Throws
/// UserError naming what is wrong.
std::vector<double> parse_slices(const std::string& devices);

/// Sets what CUDA reads when it starts: this rank's share and the daemon's folder. Call before any
/// CUDA call.
void enter_slice(double percent, const std::string& mps_folder);

/// Collective: matrix products of this rank's device, all ranks at once for a tenth of a second, in
/// FLOP/s; a slice alone would be faster.
double measure_speed_under_load(Ops& ops, Group& world);

}  // namespace pipemark
