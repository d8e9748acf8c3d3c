// Own causal attention, after FlashAttention-2 (Dao, 2023): tiles of queries and keys in shared
// memory, scores and probabilities in registers only. The gradient is made twice over (once by key
// tile for dK and dV, once by query tile for dQ) so that nothing is added by atomics and results
// repeat bitwise: 7 products where the atomic form has 5.
//
//   forward   S = q k^T scale, lse = log sum_j exp S, P = exp(S - lse), o = P v
//   backward  delta = rowsum(do o), dS = P (do v^T - delta), dv = P^T do, dq = dS k scale,
//             dk = dS^T q scale
//
// Legend: D head size, qkv[B, T, 3, H, D], out[B, T, H, D], lse and delta [B, H, T]. A block has
// four warps of 16 rows.
#include <cmath>
#include <type_traits>

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/launch.hpp"

namespace pipemark::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kRows = kWarps * kMmaRows;  // of a block's own tile
constexpr float kLog2e = 1.4426950408889634f;

/// Rows of the tile that goes by: fewer for wide heads, whose accumulators fill the registers.
template <int D>
constexpr int kStep = D <= 64 ? 64 : 32;

struct Operands {
  const bf16 *qkv, *out, *dout;
  const float* lse;
  const float* delta;
  bf16 *o, *dqkv;
  float *lse_out, *delta_out;
  int T, C, H;
};

/// The block's sequence and head: element offsets of q in qkv, of o in out, and of lse.
struct Head {
  std::int64_t qkv, out, row;
};
template <int D>
__device__ __forceinline__ Head head_of(const Operands& p) {
  const std::int64_t b = blockIdx.y / p.H;
  const std::int64_t h = blockIdx.y % p.H;
  return {b * p.T * 3 * p.C + h * D, b * p.T * p.C + h * D,
          static_cast<std::int64_t>(blockIdx.y) * p.T};
}

template <int D>
__device__ __forceinline__ void load_fragments(FragmentA (&a)[D / 16], const bf16* tile) {
  const int warp = threadIdx.x / kWarp;
#pragma unroll
  for (int k = 0; k < D / 16; ++k) a[k] = load_a<D>(tile, warp * kMmaRows, k * 16);
}

/// Rounds c[16, D] * factor to bf16 rows first + .. of `out`.
template <int D>
__device__ __forceinline__ void store_rows(const float (&c)[D / 8][4], const float (&factor)[2],
                                           bf16* out, std::int64_t stride, int first, int end) {
  const int g = threadIdx.x % kWarp / 4;
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first + g + half * 8;
    if (row >= end) continue;
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
      *reinterpret_cast<__nv_bfloat162*>(out + row * stride + n * 8 + 2 * t) =
          __floats2bfloat162_rn(c[n][2 * half] * factor[half], c[n][2 * half + 1] * factor[half]);
    }
  }
}

template <int D>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const __grid_constant__ Operands p, float scale) {
  constexpr int kKeys = kStep<D>;
  __shared__ __align__(16) bf16 k_tile[kKeys * (D + kPad)];
  __shared__ __align__(16) bf16 v_tile[kKeys * (D + kPad)];
  __shared__ __align__(16) bf16 q_tile[kRows * (D + kPad)];
  const Head head = head_of<D>(p);
  const int first = (gridDim.x - 1 - blockIdx.x) * kRows;  // the long rows start first
  const std::int64_t stride = 3 * p.C;
  const bf16* q = p.qkv + head.qkv;
  load_tile<D, kRows, kThreads>(q_tile, q, stride, first, p.T);
  __syncthreads();
  FragmentA qa[D / 16];
  load_fragments<D>(qa, q_tile);

  const int g = threadIdx.x % kWarp / 4;
  const int t = threadIdx.x % 4;
  const int my_first = first + threadIdx.x / kWarp * kMmaRows;
  const float to_log2 = scale * kLog2e;
  float o[D / 8][4] = {};
  float most[2] = {-INFINITY, -INFINITY};  // of rows g and g + 8, times to_log2
  float sum[2] = {};
  for (int key = 0; key < min(first + kRows, p.T); key += kKeys) {
    __syncthreads();
    load_tile<D, kKeys, kThreads>(k_tile, q + p.C, stride, key, p.T);
    load_tile<D, kKeys, kThreads>(v_tile, q + 2 * p.C, stride, key, p.T);
    __syncthreads();
    float s[kKeys / 8][4] = {};
    product_rows<D, kKeys>(s, qa, k_tile);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = my_first + g + half * 8;
      float high = most[half];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          const bool seen = key + n * 8 + 2 * t + i % 2 <= row;
          s[n][i] = seen ? s[n][i] * to_log2 : -INFINITY;
          high = fmaxf(high, s[n][i]);
        }
      }
      high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
      high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
      const float fade = exp2f(most[half] - high);  // high is finite: key 0 is seen by every row
      most[half] = high;
      float part = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          s[n][i] = exp2f(s[n][i] - high);
          part += s[n][i];
        }
      }
      sum[half] = sum[half] * fade + part;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        o[n][2 * half] *= fade;
        o[n][2 * half + 1] *= fade;
      }
    }
    product_columns<D, kKeys>(o, s, v_tile);
  }
  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum[half] += __shfl_xor_sync(~0u, sum[half], 1);
    sum[half] += __shfl_xor_sync(~0u, sum[half], 2);
    inverse[half] = 1.0f / sum[half];
    const int row = my_first + g + half * 8;
    if (t == 0 && row < p.T) {
      p.lse_out[head.row + row] = most[half] / kLog2e + logf(sum[half]);
    }
  }
  store_rows<D>(o, inverse, p.o + head.out, p.C, my_first, p.T);
}

/// delta[row] = sum over D of do o: a warp a row.
template <int D>
__global__ void __launch_bounds__(kThreads) delta_kernel(const __grid_constant__ Operands p) {
  const Head head = head_of<D>(p);
  const int row = blockIdx.x * kWarps + threadIdx.x / kWarp;
  if (row >= p.T) return;
  float sum = 0;
  for (int d = threadIdx.x % kWarp; d < D; d += kWarp) {
    const std::int64_t at = head.out + static_cast<std::int64_t>(row) * p.C + d;
    sum += __bfloat162float(p.out[at]) * __bfloat162float(p.dout[at]);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) p.delta_out[head.row + row] = sum;
}

/// dk and dv of a tile of keys; queries go by. Scores are held transposed: rows keys, columns
/// queries.
template <int D>
__global__ void __launch_bounds__(kThreads)
    key_backward_kernel(const __grid_constant__ Operands p, float scale) {
  constexpr int kQueries = kStep<D>;
  extern __shared__ __align__(16) unsigned char raw[];
  bf16* k_tile = reinterpret_cast<bf16*>(raw);
  bf16* v_tile = k_tile + kRows * (D + kPad);
  bf16* q_tile = v_tile + kRows * (D + kPad);
  bf16* do_tile = q_tile + kQueries * (D + kPad);
  __shared__ float lse[kQueries];
  __shared__ float delta[kQueries];
  const Head head = head_of<D>(p);
  const int first = blockIdx.x * kRows;
  const std::int64_t stride = 3 * p.C;
  const bf16* q = p.qkv + head.qkv;
  load_tile<D, kRows, kThreads>(k_tile, q + p.C, stride, first, p.T);
  load_tile<D, kRows, kThreads>(v_tile, q + 2 * p.C, stride, first, p.T);

  const int g = threadIdx.x % kWarp / 4;
  const int t = threadIdx.x % 4;
  const int my_first = first + threadIdx.x / kWarp * kMmaRows;
  const float to_log2 = scale * kLog2e;
  float dk[D / 8][4] = {};
  float dv[D / 8][4] = {};
  for (int query = first / kQueries * kQueries; query < p.T; query += kQueries) {
    __syncthreads();
    load_tile<D, kQueries, kThreads>(q_tile, q, stride, query, p.T);
    load_tile<D, kQueries, kThreads>(do_tile, p.dout + head.out, p.C, query, p.T);
    for (int i = threadIdx.x; i < kQueries; i += kThreads) {
      const bool real = query + i < p.T;
      lse[i] = real ? p.lse[head.row + query + i] * kLog2e : INFINITY;  // makes P 0
      delta[i] = real ? p.delta[head.row + query + i] : 0.0f;
    }
    __syncthreads();
    FragmentA a[D / 16];
    float s[kQueries / 8][4] = {};
    load_fragments<D>(a, k_tile);
    product_rows<D, kQueries>(s, a, q_tile);
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = n * 8 + 2 * t + i % 2;
        const bool seen = my_first + g + i / 2 * 8 <= query + column;
        s[n][i] = seen ? exp2f(s[n][i] * to_log2 - lse[column]) : 0.0f;
      }
    }
    product_columns<D, kQueries>(dv, s, do_tile);
    float dp[kQueries / 8][4] = {};
    load_fragments<D>(a, v_tile);
    product_rows<D, kQueries>(dp, a, do_tile);
#pragma unroll
    for (int n = 0; n < kQueries / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[n][i] *= dp[n][i] - delta[n * 8 + 2 * t + i % 2];
    }
    product_columns<D, kQueries>(dk, s, q_tile);
  }
  const float scaled[2] = {scale, scale};
  const float one[2] = {1.0f, 1.0f};
  bf16* dq = p.dqkv + head.qkv;
  store_rows<D>(dk, scaled, dq + p.C, stride, my_first, p.T);
  store_rows<D>(dv, one, dq + 2 * p.C, stride, my_first, p.T);
}

/// dq of a tile of queries; keys go by.
template <int D>
__global__ void __launch_bounds__(kThreads)
    query_backward_kernel(const __grid_constant__ Operands p, float scale) {
  constexpr int kKeys = kStep<D>;
  extern __shared__ __align__(16) unsigned char raw[];
  bf16* q_tile = reinterpret_cast<bf16*>(raw);
  bf16* do_tile = q_tile + kRows * (D + kPad);
  bf16* k_tile = do_tile + kRows * (D + kPad);
  bf16* v_tile = k_tile + kKeys * (D + kPad);
  const Head head = head_of<D>(p);
  const int first = (gridDim.x - 1 - blockIdx.x) * kRows;
  const std::int64_t stride = 3 * p.C;
  const bf16* q = p.qkv + head.qkv;
  load_tile<D, kRows, kThreads>(q_tile, q, stride, first, p.T);
  load_tile<D, kRows, kThreads>(do_tile, p.dout + head.out, p.C, first, p.T);

  const int g = threadIdx.x % kWarp / 4;
  const int t = threadIdx.x % 4;
  const int my_first = first + threadIdx.x / kWarp * kMmaRows;
  const float to_log2 = scale * kLog2e;
  float lse[2];
  float delta[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = my_first + g + half * 8;
    lse[half] = row < p.T ? p.lse[head.row + row] * kLog2e : INFINITY;
    delta[half] = row < p.T ? p.delta[head.row + row] : 0.0f;
  }
  float dq[D / 8][4] = {};
  for (int key = 0; key < min(first + kRows, p.T); key += kKeys) {
    __syncthreads();
    load_tile<D, kKeys, kThreads>(k_tile, q + p.C, stride, key, p.T);
    load_tile<D, kKeys, kThreads>(v_tile, q + 2 * p.C, stride, key, p.T);
    __syncthreads();
    FragmentA a[D / 16];
    float s[kKeys / 8][4] = {};
    float dp[kKeys / 8][4] = {};
    load_fragments<D>(a, q_tile);
    product_rows<D, kKeys>(s, a, k_tile);
    load_fragments<D>(a, do_tile);
    product_rows<D, kKeys>(dp, a, v_tile);
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool seen = key + n * 8 + 2 * t + i % 2 <= my_first + g + i / 2 * 8;
        const float probability = seen ? exp2f(s[n][i] * to_log2 - lse[i / 2]) : 0.0f;
        s[n][i] = probability * (dp[n][i] - delta[i / 2]);
      }
    }
    product_columns<D, kKeys>(dq, s, k_tile);
  }
  const float scaled[2] = {scale, scale};
  store_rows<D>(dq, scaled, p.dqkv + head.qkv, stride, my_first, p.T);
}

template <class F>
void with_head_size(int D, F f) {
  switch (D) {
    case 16:
      return f(std::integral_constant<int, 16>{});
    case 32:
      return f(std::integral_constant<int, 32>{});
    case 48:
      return f(std::integral_constant<int, 48>{});
    case 64:
      return f(std::integral_constant<int, 64>{});
    case 80:
      return f(std::integral_constant<int, 80>{});
    case 96:
      return f(std::integral_constant<int, 96>{});
    case 112:
      return f(std::integral_constant<int, 112>{});
    case 128:
      return f(std::integral_constant<int, 128>{});
    default:
      check(false, "attention: head size {} is not served", D);
  }
}

unsigned tiles(int T, int rows) { return static_cast<unsigned>(ceil_div(T, rows)); }

}  // namespace

bool attention_supports(int head_size) {
  return head_size > 0 && head_size <= 128 && head_size % 16 == 0;
}

void attention_forward(cudaStream_t stream, const AttentionShape& s, const bf16* qkv, bf16* out,
                       float* lse) {
  Operands p{};
  p.qkv = qkv;
  p.o = out;
  p.lse_out = lse;
  p.T = s.tokens;
  p.C = s.channels;
  p.H = s.heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(s.channels / s.heads));
  const dim3 grid(tiles(s.tokens, kRows), static_cast<unsigned>(s.batch * s.heads));
  with_head_size(s.channels / s.heads, [&](auto head_size) {
    forward_kernel<decltype(head_size)::value><<<grid, kThreads, 0, stream>>>(p, scale);
  });
  PIPEMARK_LAUNCH_CHECK();
}

std::size_t attention_backward_scratch_bytes(const AttentionShape& s) {
  return static_cast<std::size_t>(s.batch) * s.heads * s.tokens * sizeof(float);
}

void attention_backward(cudaStream_t stream, const AttentionShape& s, const bf16* dout,
                        const bf16* qkv, const bf16* out, const float* lse, bf16* dqkv,
                        float* scratch) {
  Operands p{};
  p.qkv = qkv;
  p.out = out;
  p.dout = dout;
  p.lse = lse;
  p.delta = scratch;
  p.delta_out = scratch;
  p.dqkv = dqkv;
  p.T = s.tokens;
  p.C = s.channels;
  p.H = s.heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(s.channels / s.heads));
  const unsigned heads = static_cast<unsigned>(s.batch * s.heads);
  const dim3 grid(tiles(s.tokens, kRows), heads);
  with_head_size(s.channels / s.heads, [&](auto head_size) {
    constexpr int D = decltype(head_size)::value;
    constexpr int kShared = 2 * (kRows + kStep<D>)*(D + kPad) * static_cast<int>(sizeof(bf16));
    delta_kernel<D><<<dim3(tiles(s.tokens, kWarps), heads), kThreads, 0, stream>>>(p);
    PIPEMARK_LAUNCH_CHECK();
    for (auto* kernel : {key_backward_kernel<D>, query_backward_kernel<D>}) {
      PIPEMARK_CUDA(
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
      kernel<<<grid, kThreads, kShared, stream>>>(p, scale);
      PIPEMARK_LAUNCH_CHECK();
    }
  });
}

}  // namespace pipemark::cuda
