// The cost model: a device's fingerprint and a model give the times of F, I and W of each layer,
// and so of each stage. A layer's time is the sum of its operations', each at the device's own
// rate.
#pragma once

#include <vector>

#include "balancers/fingerprint.hpp"
#include "balancers/partition.hpp"
#include "trainer/config.hpp"

namespace pipemark {

/// Times of a micro-batch of `sequences`; act_bytes an activation element (4 fp32, 2 bf16).
std::vector<LayerCost> predict_layer_times(const Fingerprint& device, const std::string& precision,
                                           double act_bytes, const ModelConfig& model,
                                           int sequences);

}  // namespace pipemark
