// What a published architecture says of each layer, a sample at a time: enough to cut it without a
// run. balancers/profiles/ holds ResNet-152, BERT-large, GPT-3 and a DeepSeek-V3-like mixture.
#pragma once

#include <string>
#include <vector>

#include "balancers/partition.hpp"

namespace pipemark {

struct ProfileLayer {
  std::string name;
  double parameters = 0;
  double forward_flops = 0, input_grad_flops = 0, weight_grad_flops = 0;
  double activation_bytes = 0;  ///< kept from F for the backward
  double output_bytes = 0;      ///< sent to the next stage
};

struct ModelProfile {
  std::string name, sample, source;
  std::vector<ProfileLayer> layers;
};

/// Times of a micro-batch of `samples` on a device that does flops_per_s on every layer.
std::vector<LayerCost> layer_costs(const ModelProfile& profile, double samples, double flops_per_s);

/// Bytes a parameter in mixed precision with Adam: weight and gradient in 16 bits, master weight
/// and two moments in 32 (Rajbhandari et al. 2020, section 3.1).
inline constexpr double kStateBytesPerParameter = 16;

}  // namespace pipemark
