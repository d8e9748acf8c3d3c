// CudnnAttention: cuDNN's fused attention through cudnn-frontend, straight on the packed
// qkv[B, T, 3, H, D] (no transposes). Graphs are built once a shape.
// PIPEMARK_DETERMINISTIC=0 lets backward add dq by atomics: some 2 to 9 % of its time less, a
// smaller workspace (97 for 770 MiB at GPT-2 124M, 32 sequences), and sums that differ from run to
// run. Without cuDNN in the build, or where it refuses a shape, make() gives null or supports()
// false, and CudaOps uses its own kernels.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>

#include "kernels/ops.hpp"

namespace pipemark::cuda {

class CudnnAttention {
 public:
  CudnnAttention() = default;
  CudnnAttention(const CudnnAttention&) = delete;
  CudnnAttention& operator=(const CudnnAttention&) = delete;
  virtual ~CudnnAttention() = default;

  /// Null when cuDNN is not in the build, or its library can't be used here.
  static std::unique_ptr<CudnnAttention> make();
  /// For the record, e.g. "cuDNN 9.19.0".
  virtual std::string description() const = 0;
  virtual bool supports(const AttentionShape& shape) = 0;
  /// Of the larger of both directions.
  virtual std::size_t workspace_bytes(const AttentionShape& shape) = 0;
  virtual void forward(cudaStream_t stream, const AttentionShape& shape, const void* qkv, void* out,
                       float* lse, void* workspace) = 0;
  virtual void backward(cudaStream_t stream, const AttentionShape& shape, const void* dout,
                        const void* qkv, const void* out, const float* lse, void* dqkv,
                        void* workspace) = 0;
};

}  // namespace pipemark::cuda
