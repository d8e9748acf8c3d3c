// The CUDA backend of Ops: bf16 activations and weights, fp32 accumulation, statistics, gradients
// of weights and master weights. After the first step of a shape (which times matrix algorithms and
// builds attention graphs) no call allocates, waits or reads device memory from the host, so any of
// them can be captured in a CUDA graph. All calls of one Ops go to one stream at a time: they share
// the workspace.
#pragma once

#include <memory>

#include "kernels/ops.hpp"

namespace pipemark {

/// `device_index` counts the GPUs that CUDA_VISIBLE_DEVICES leaves. Throws EnvironmentError when
/// there is no driver, no such GPU, or no code for it in this build.
std::unique_ptr<Ops> make_cuda_ops(int device_index);

}  // namespace pipemark
