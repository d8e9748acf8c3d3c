// The ordered sum of gradients that several ranks hold: each rank adds its share of the elements in
// the ranks' order and writes the result to all, so that all hold the same bits. Bound by the link
// or by memory: 16-byte accesses, four in flight a thread and part.
#include <algorithm>

#include "kernels/cuda/peer_sum.hpp"
#include "kernels/cuda/vec.cuh"

namespace pipemark::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kBlocks = 128;  // one a multiprocessor: loads enough in flight for a link
constexpr int kUnroll = 4;

struct Parts {
  float* of[kMaxPeerParts];
};

__device__ __forceinline__ float4 add(float4 a, float4 b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w};
}

/// Elements [first, first + 4 vectors), first a multiple of 4.
__global__ void __launch_bounds__(kThreads)
    peer_sum_kernel(Parts parts, int n, std::int64_t first, std::int64_t vectors) {
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kThreads;
  const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (std::int64_t v = start; v < vectors; v += kUnroll * stride) {
    float4 sum[kUnroll];
    for (int p = 0; p < n; ++p) {
      const float4* part = reinterpret_cast<const float4*>(parts.of[p] + first);
      float4 x[kUnroll];
#pragma unroll
      for (int k = 0; k < kUnroll; ++k) {
        if (v + k * stride < vectors) x[k] = __ldcs(part + v + k * stride);
      }
#pragma unroll
      for (int k = 0; k < kUnroll; ++k) sum[k] = p == 0 ? x[k] : add(sum[k], x[k]);
    }
    for (int p = 0; p < n; ++p) {
      float4* part = reinterpret_cast<float4*>(parts.of[p] + first);
#pragma unroll
      for (int k = 0; k < kUnroll; ++k) {
        if (v + k * stride < vectors) __stcs(part + v + k * stride, sum[k]);
      }
    }
  }
}

__global__ void peer_sum_tail_kernel(Parts parts, int n, std::int64_t first, std::int64_t count) {
  if (threadIdx.x >= count) return;
  const std::int64_t i = first + threadIdx.x;
  float sum = parts.of[0][i];
  for (int p = 1; p < n; ++p) sum += parts.of[p][i];
  for (int p = 0; p < n; ++p) parts.of[p][i] = sum;
}

}  // namespace

void peer_sum(cudaStream_t stream, std::span<float* const> parts, std::int64_t first,
              std::int64_t count) {
  check(parts.size() <= kMaxPeerParts && first % 4 == 0, "peer_sum: {} parts from element {}",
        parts.size(), first);
  if (count <= 0) return;
  Parts all{};
  std::copy(parts.begin(), parts.end(), all.of);
  const int n = static_cast<int>(parts.size());
  const std::int64_t vectors = count / 4;
  if (vectors > 0) {
    const std::int64_t blocks =
        std::min<std::int64_t>(kBlocks, ceil_div(vectors, std::int64_t{kThreads}));
    peer_sum_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(all, n, first, vectors);
    PIPEMARK_LAUNCH_CHECK();
  }
  if (count % 4 != 0) {
    peer_sum_tail_kernel<<<1, 4, 0, stream>>>(all, n, first + 4 * vectors, count % 4);
    PIPEMARK_LAUNCH_CHECK();
  }
}

}  // namespace pipemark::cuda
