// Device helpers of the .cu files: 16-byte vectors of eight bf16, warp and block sums in a fixed
// order (so that results repeat bitwise), and the tanh GELU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/cuda_check.hpp"

namespace pipemark::cuda {

using bf16 = __nv_bfloat16;

constexpr int kWarp = 32;
constexpr int kVec = 8;  // bf16 elements in 16 bytes

struct alignas(16) Vec8 {
  __nv_bfloat162 pair[4];
};

__device__ __forceinline__ Vec8 load8(const bf16* p) { return *reinterpret_cast<const Vec8*>(p); }
/// Streaming: data that is read once and need not stay in the L2.
__device__ __forceinline__ Vec8 load8_streaming(const bf16* p) {
  const uint4 raw = __ldcs(reinterpret_cast<const uint4*>(p));
  return reinterpret_cast<const Vec8&>(raw);
}
__device__ __forceinline__ void store8(bf16* p, const Vec8& v) { *reinterpret_cast<Vec8*>(p) = v; }

__device__ __forceinline__ void unpack(const Vec8& v, float (&f)[kVec]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 two = __bfloat1622float2(v.pair[i]);
    f[2 * i] = two.x;
    f[2 * i + 1] = two.y;
  }
}
__device__ __forceinline__ Vec8 pack(const float (&f)[kVec]) {
  Vec8 v;
#pragma unroll
  for (int i = 0; i < 4; ++i) v.pair[i] = __floats2bfloat162_rn(f[2 * i], f[2 * i + 1]);
  return v;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, offset));
  }
  return x;
}

/// Sum over the block, given to every thread; `shared` holds 32 values and may be used again at
/// once.
template <class T>
__device__ __forceinline__ T block_sum(T x, T* shared) {
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  __syncthreads();
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  T sum = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) sum += shared[w];
  return sum;
}

__device__ __forceinline__ float tanh_fast(float x) {
  float y;  // one MUFU; absolute error 2^-11, below half a bf16 step of the GELU it feeds
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

constexpr float kGeluScale = 0.7978845608028654f;  // sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715f;

__device__ __forceinline__ float gelu(float x) {
  return 0.5f * x * (1.0f + tanh_fast(kGeluScale * (x + kGeluCubic * x * x * x)));
}
__device__ __forceinline__ float gelu_derivative(float x) {
  const float t = tanh_fast(kGeluScale * (x + kGeluCubic * x * x * x));
  const float dt = (1.0f - t * t) * kGeluScale * (1.0f + 3.0f * kGeluCubic * x * x);
  return 0.5f * (1.0f + t) + 0.5f * x * dt;
}

template <class A, class B>
constexpr auto ceil_div(A a, B b) {
  return (a + b - 1) / b;
}

}  // namespace pipemark::cuda
