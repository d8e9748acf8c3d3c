// Measured layer times: what static-cost cuts by. Each kind of layer (embedding, block, head) runs
// its F, I and W on this rank's device at the run's shapes; the medians are averaged over the
// ranks.
#pragma once

#include <vector>

#include "balancers/partition.hpp"
#include "trainer/cluster.hpp"
#include "trainer/gpt_stage.hpp"

namespace pipemark {

/// Collective over `world`; the same on every rank. Takes and gives back memory of its own.
std::vector<LayerCost> measure_layer_times(Ops& ops, const ModelConfig& model,
                                           const MicroBatchShape& shape, Group& world);

}  // namespace pipemark
