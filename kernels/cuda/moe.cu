// Mixture of experts on the GPU: the router, a warp a row with lanes over experts, and the moves of
// rows to and from experts, a warp a row in 16-byte vectors. All but the router are bound by
// memory.
//
// Legend: E experts, k taken by a row, C channels (a multiple of 8 or handled one by one).
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/vec.cuh"

namespace pipemark::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRowsPerBlock = kThreads / kWarp;

__device__ __forceinline__ std::int64_t row_of_warp() {
  return static_cast<std::int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x / kWarp;
}

unsigned blocks_for(std::int64_t rows) {
  return static_cast<unsigned>(ceil_div(rows, kRowsPerBlock));
}

/// The better of two (score, expert): the higher score, then the lower index.
struct Choice {
  float score;
  int expert;
};
__device__ __forceinline__ Choice better(Choice a, Choice b) {
  if (b.expert < 0) return a;
  if (a.expert < 0 || b.score > a.score || (b.score == a.score && b.expert < a.expert)) return b;
  return a;
}

__global__ void __launch_bounds__(kThreads)
    router_forward_kernel(const bf16* __restrict__ logits, const float* __restrict__ bias,
                          std::int64_t bias_stride, float* __restrict__ probabilities,
                          std::int32_t* __restrict__ chosen, float* __restrict__ gates,
                          std::int64_t rows, int E, int k) {
  const std::int64_t n = row_of_warp();
  const int lane = threadIdx.x % kWarp;
  if (n >= rows) return;
  const bf16* x = logits + n * E;
  float* p = probabilities + n * E;
  float highest = -INFINITY;
  for (int e = lane; e < E; e += kWarp) highest = fmaxf(highest, __bfloat162float(x[e]));
  highest = warp_max(highest);
  float total = 0;
  for (int e = lane; e < E; e += kWarp) {
    p[e] = expf(__bfloat162float(x[e]) - highest);
    total += p[e];
  }
  total = warp_sum(total);
  for (int e = lane; e < E; e += kWarp) p[e] /= total;  // each lane reads only what it wrote
  float taken = 0;
  for (int j = 0; j < k; ++j) {
    Choice best{0, -1};
    for (int e = lane; e < E; e += kWarp) {
      bool free = true;
      for (int i = 0; i < j; ++i) free = free && chosen[n * k + i] != e;
      if (free) best = better(best, {p[e] + bias[n * bias_stride + e], e});
    }
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      const Choice other{__shfl_xor_sync(~0u, best.score, offset),
                         __shfl_xor_sync(~0u, best.expert, offset)};
      best = better(best, other);
    }
    const float mine = best.expert % kWarp == lane ? p[best.expert] : 0;
    const float probability = __shfl_sync(~0u, mine, best.expert % kWarp);
    taken += probability;
    if (lane == 0) {
      chosen[n * k + j] = best.expert;
      gates[n * k + j] = probability;
    }
    __syncwarp();
  }
  if (lane == 0 && k > 1) {
    for (int j = 0; j < k; ++j) gates[n * k + j] /= taken;
  }
}

__global__ void __launch_bounds__(kThreads)
    router_backward_kernel(const float* __restrict__ probabilities,
                           const std::int32_t* __restrict__ chosen, const float* __restrict__ gates,
                           const float* __restrict__ dgates, const float* __restrict__ balance,
                           bf16* __restrict__ dlogits, std::int64_t rows, int T, int E, int k) {
  const std::int64_t n = row_of_warp();
  const int lane = threadIdx.x % kWarp;
  if (n >= rows) return;
  const float* p = probabilities + n * E;
  float taken = 0, along = 0;
  for (int j = 0; j < k; ++j) {
    taken += p[chosen[n * k + j]];
    along += dgates[n * k + j] * gates[n * k + j];
  }
  const auto gradient = [&](int e) {
    float dp = balance == nullptr ? 0 : balance[n / T * E + e];
    for (int j = 0; j < k; ++j) {
      if (chosen[n * k + j] != e) continue;
      dp += k > 1 ? (dgates[n * k + j] - along) / taken : dgates[n * k + j];
    }
    return dp;
  };
  float mean = 0;
  for (int e = lane; e < E; e += kWarp) mean += p[e] * gradient(e);
  mean = warp_sum(mean);
  for (int e = lane; e < E; e += kWarp) {
    dlogits[n * E + e] = __float2bfloat16_rn(p[e] * (gradient(e) - mean));
  }
}

/// f(first channel, whole vector or one element) over a row's C channels by a warp.
template <class Vector, class Element>
__device__ __forceinline__ void for_channels(int C, Vector&& vector, Element&& element) {
  const int lane = threadIdx.x % kWarp;
  if (C % kVec == 0) {
    for (int c = lane * kVec; c < C; c += kWarp * kVec) vector(c);
  } else {
    for (int c = lane; c < C; c += kWarp) element(c);
  }
}

__global__ void __launch_bounds__(kThreads)
    gather_kernel(const bf16* __restrict__ x, const std::int32_t* __restrict__ index,
                  bf16* __restrict__ out, std::int64_t rows, int C) {
  const std::int64_t m = row_of_warp();
  if (m >= rows) return;
  const std::int64_t from = index[m];
  for_channels(
      C,
      [&](int c) {
        Vec8 zero{};
        store8(out + m * C + c, from < 0 ? zero : load8(x + from * C + c));
      },
      [&](int c) { out[m * C + c] = from < 0 ? __float2bfloat16_rn(0.0f) : x[from * C + c]; });
}

__global__ void __launch_bounds__(kThreads)
    combine_kernel(const bf16* __restrict__ rows, const std::int32_t* __restrict__ place,
                   const float* __restrict__ gates, bf16* __restrict__ y, std::int64_t count, int k,
                   int C) {
  const std::int64_t n = row_of_warp();
  if (n >= count) return;
  for_channels(
      C,
      [&](int c) {
        float sum[kVec] = {};
        for (int j = 0; j < k; ++j) {
          const std::int64_t at = place[n * k + j];
          if (at < 0) continue;
          const float gate = gates == nullptr ? 1.0f : gates[n * k + j];
          float row[kVec];
          unpack(load8(rows + at * C + c), row);
#pragma unroll
          for (int i = 0; i < kVec; ++i) sum[i] += gate * row[i];
        }
        store8(y + n * C + c, pack(sum));
      },
      [&](int c) {
        float sum = 0;
        for (int j = 0; j < k; ++j) {
          const std::int64_t at = place[n * k + j];
          if (at < 0) continue;
          const float gate = gates == nullptr ? 1.0f : gates[n * k + j];
          sum += gate * __bfloat162float(rows[at * C + c]);
        }
        y[n * C + c] = __float2bfloat16_rn(sum);
      });
}

__global__ void __launch_bounds__(kThreads)
    combine_backward_kernel(const bf16* __restrict__ dy, const bf16* __restrict__ rows,
                            const std::int32_t* __restrict__ place, const float* __restrict__ gates,
                            bf16* __restrict__ drows, float* __restrict__ dgates,
                            std::int64_t count, int k, int C) {
  const std::int64_t i = row_of_warp();
  if (i >= count * k) return;
  const std::int64_t at = place[i];
  const bf16* from = dy + i / k * C;
  float along = 0;
  if (at >= 0) {
    const float gate = gates[i];
    for_channels(
        C,
        [&](int c) {
          float gradient[kVec], row[kVec];
          unpack(load8(from + c), gradient);
          unpack(load8(rows + at * C + c), row);
#pragma unroll
          for (int v = 0; v < kVec; ++v) {
            along += gradient[v] * row[v];
            gradient[v] *= gate;
          }
          store8(drows + at * C + c, pack(gradient));
        },
        [&](int c) {
          const float gradient = __bfloat162float(from[c]);
          along += gradient * __bfloat162float(rows[at * C + c]);
          drows[at * C + c] = __float2bfloat16_rn(gate * gradient);
        });
  }
  along = warp_sum(along);
  if (threadIdx.x % kWarp == 0) dgates[i] = along;
}

}  // namespace

void router_forward(cudaStream_t stream, const RouterShape& s, const bf16* logits,
                    const float* bias, bool bias_by_row, float* probabilities, std::int32_t* chosen,
                    float* gates) {
  if (s.rows == 0) return;
  router_forward_kernel<<<blocks_for(s.rows), kThreads, 0, stream>>>(
      logits, bias, bias_by_row ? s.experts : 0, probabilities, chosen, gates, s.rows, s.experts,
      s.top_k);
  PIPEMARK_LAUNCH_CHECK();
}

void router_backward(cudaStream_t stream, const RouterShape& s, const float* probabilities,
                     const std::int32_t* chosen, const float* gates, const float* dgates,
                     const float* balance, bf16* dlogits) {
  if (s.rows == 0) return;
  router_backward_kernel<<<blocks_for(s.rows), kThreads, 0, stream>>>(
      probabilities, chosen, gates, dgates, balance, dlogits, s.rows, s.tokens, s.experts, s.top_k);
  PIPEMARK_LAUNCH_CHECK();
}

void gather_rows(cudaStream_t stream, const bf16* x, const std::int32_t* index, bf16* out,
                 std::int64_t count, int C) {
  if (count == 0) return;
  gather_kernel<<<blocks_for(count), kThreads, 0, stream>>>(x, index, out, count, C);
  PIPEMARK_LAUNCH_CHECK();
}

void combine_rows(cudaStream_t stream, const bf16* rows, const std::int32_t* place,
                  const float* gates, bf16* y, std::int64_t count, int k, int C) {
  if (count == 0) return;
  combine_kernel<<<blocks_for(count), kThreads, 0, stream>>>(rows, place, gates, y, count, k, C);
  PIPEMARK_LAUNCH_CHECK();
}

void combine_rows_backward(cudaStream_t stream, const bf16* dy, const bf16* rows,
                           const std::int32_t* place, const float* gates, bf16* drows,
                           float* dgates, std::int64_t count, int k, int C) {
  if (count == 0) return;
  combine_backward_kernel<<<blocks_for(count * k), kThreads, 0, stream>>>(
      dy, rows, place, gates, drows, dgates, count, k, C);
  PIPEMARK_LAUNCH_CHECK();
}

}  // namespace pipemark::cuda
