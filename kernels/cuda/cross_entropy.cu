// Softmax cross-entropy in place: a block takes a row of Vp logits. While the row fits in shared
// memory (113 KB leaves room for two blocks a multiprocessor) it is brought there once by
// asynchronous copies, so that logits cross device memory once each way; a longer row is read three
// times. The output rounds to bf16; sums and losses are fp32.
#include <cuda_pipeline.h>

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/vec.cuh"

namespace pipemark::cuda {
namespace {

constexpr int kThreads = 512;
constexpr float kLog2e = 1.4426950408889634f;

__device__ __forceinline__ float block_max(float x, float* shared) {
  x = warp_max(x);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  float most = shared[0];
  for (int w = 1; w < kThreads / kWarp; ++w) most = fmaxf(most, shared[w]);
  return most;
}

/// kShared: the row (a multiple of 8 long) is held in shared memory.
template <bool kShared, bool kGradient>
__global__ void __launch_bounds__(kThreads)
    kernel(bf16* logits, const std::int32_t* __restrict__ targets, float* __restrict__ losses,
           int V, int Vp, float scale) {
  extern __shared__ __align__(16) unsigned char raw[];
  __shared__ float reduce[kWarp];
  bf16* row = logits + static_cast<std::int64_t>(blockIdx.x) * Vp;
  const bf16* source = row;
  const int vectors = V / kVec;  // whole vectors of real logits; the tail of V mod 8 apart
  const int tail = vectors * kVec + threadIdx.x;
  if constexpr (kShared) {
    bf16* held = reinterpret_cast<bf16*>(raw);
    for (int i = threadIdx.x; i < ceil_div(V, kVec); i += kThreads) {
      __pipeline_memcpy_async(held + i * kVec, row + i * kVec, 16);
    }
    __pipeline_commit();
    __pipeline_wait_prior(0);
    __syncthreads();
    source = held;
  }
  const int target = targets[blockIdx.x];
  const float target_logit = __bfloat162float(source[target]);
  const bool vector_access = kShared || Vp % kVec == 0;
  const int whole = vector_access ? vectors : 0;
  const int rest = vector_access ? tail : static_cast<int>(threadIdx.x);

  float most = -INFINITY;
  for (int i = threadIdx.x; i < whole; i += kThreads) {
    float f[kVec];
    unpack(load8(source + i * kVec), f);
#pragma unroll
    for (int k = 0; k < kVec; ++k) most = fmaxf(most, f[k]);
  }
  for (int c = rest; c < V; c += kThreads) most = fmaxf(most, __bfloat162float(source[c]));
  most = block_max(most, reduce);

  const float shift = most * kLog2e;
  float sum = 0;
  for (int i = threadIdx.x; i < whole; i += kThreads) {
    float f[kVec];
    unpack(load8(source + i * kVec), f);
#pragma unroll
    for (int k = 0; k < kVec; ++k) sum += exp2f(fmaf(f[k], kLog2e, -shift));
  }
  for (int c = rest; c < V; c += kThreads) {
    sum += exp2f(fmaf(__bfloat162float(source[c]), kLog2e, -shift));
  }
  sum = block_sum(sum, reduce);
  if (threadIdx.x == 0) losses[blockIdx.x] = logf(sum) + most - target_logit;
  if constexpr (!kGradient) return;

  const float factor = scale / sum;
  for (int i = threadIdx.x; i < whole; i += kThreads) {
    float f[kVec];
    unpack(load8(source + i * kVec), f);
#pragma unroll
    for (int k = 0; k < kVec; ++k) {
      f[k] = exp2f(fmaf(f[k], kLog2e, -shift)) * factor;
      if (i * kVec + k == target) f[k] -= scale;
    }
    store8(row + i * kVec, pack(f));
  }
  for (int c = rest; c < Vp; c += kThreads) {
    float f = 0;
    if (c < V) f = exp2f(fmaf(__bfloat162float(source[c]), kLog2e, -shift)) * factor;
    if (c == target) f -= scale;
    row[c] = __float2bfloat16_rn(f);
  }
}

template <bool kShared>
void launch(cudaStream_t stream, bf16* logits, const std::int32_t* targets, float* losses,
            std::int64_t rows, int V, int Vp, float scale, bool with_gradient, int shared_bytes) {
  const auto run = [&](auto* function) {
    if (shared_bytes > 0) {
      PIPEMARK_CUDA(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         shared_bytes));
    }
    function<<<static_cast<unsigned>(rows), kThreads, static_cast<std::size_t>(shared_bytes),
               stream>>>(logits, targets, losses, V, Vp, scale);
    PIPEMARK_LAUNCH_CHECK();
  };
  if (with_gradient) {
    run(kernel<kShared, true>);
  } else {
    run(kernel<kShared, false>);
  }
}

}  // namespace

void softmax_cross_entropy(cudaStream_t stream, bf16* logits, const std::int32_t* targets,
                           float* losses, std::int64_t rows, int V, int Vp, float scale,
                           bool with_gradient) {
  if (rows == 0) return;
  int device = 0;
  int most_shared = 0;
  PIPEMARK_CUDA(cudaGetDevice(&device));
  PIPEMARK_CUDA(
      cudaDeviceGetAttribute(&most_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  const int needed = ceil_div(V, kVec) * 16;
  if (Vp % kVec == 0 && needed + 1024 <= most_shared) {
    launch<true>(stream, logits, targets, losses, rows, V, Vp, scale, with_gradient, needed);
  } else {
    launch<false>(stream, logits, targets, losses, rows, V, Vp, scale, with_gradient, 0);
  }
}

}  // namespace pipemark::cuda
