// Initial weights, GPT-2's: matrices and tables normal with deviation 0.02, the projections that
// end on the residual stream divided by sqrt(2 L), biases 0, LayerNorm weights 1. A value depends
// on (seed, tensor's place in the model, element) alone, so it is the same for every partition.
#pragma once

#include <cstdint>
#include <span>

#include "trainer/parameters.hpp"

namespace pipemark {

/// Fills the spec's tensor: `values` has spec.size elements; padding beyond logical_size gets 0.
void initialise(const ParameterSpec& spec, std::uint64_t seed, std::span<float> values);

}  // namespace pipemark
