// The reference backend: every operation as the plain loops of its contract, fp32 tensors, fp64
// accumulation, exact libm. The judge of the other backends; never fast, never clever.
#pragma once

#include <memory>

#include "kernels/ops.hpp"

namespace pipemark {

std::unique_ptr<Ops> make_reference_ops();

}  // namespace pipemark
