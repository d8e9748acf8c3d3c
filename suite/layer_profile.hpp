// Layer profiles as files: {"name", "layers": [{"name", "parameters", "forward_flops", ...}]}.
#pragma once

#include <string>

#include "balancers/model_profile.hpp"

namespace pipemark {

/// `path`, or the name of a profile that ships ("resnet152"). UserError naming file, layer and key.
ModelProfile read_layer_profile(const std::string& path);

}  // namespace pipemark
