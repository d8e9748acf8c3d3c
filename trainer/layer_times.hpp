// Measured layer times: what static-cost cuts by. Each kind of layer (embedding, block, head) runs
// its F, I and W on this rank's device at the run's shapes, on all ranks at once, so that devices
// that share a machine or a GPU are seen as they are when all work; the medians are averaged over
// the ranks.
#pragma once

#include <vector>

#include "balancers/partition.hpp"
#include "trainer/cluster.hpp"
#include "trainer/gpt_stage.hpp"

namespace pipemark {

/// Collective over `world`; the same on every rank. Takes and gives back memory of its own. Where
/// some rank has a GPU, `speeds` becomes each pipeline rank's: the mean time over its own.
std::vector<LayerCost> measure_layer_times(Ops& ops, const ModelConfig& model,
                                           const MicroBatchShape& shape, Group& world,
                                           const Grid& grid, std::vector<double>& speeds);

}  // namespace pipemark
