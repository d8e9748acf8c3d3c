// LayerNorm over C with the residual sum fused in, forward and backward, bound by memory: each
// input read once, each output written once.
//
//   forward   r = a + b; y = (r - mean) rstd w + bias           4 N C bf16 (2 N C without a
//   residual) backward  with xh = (x - mean) rstd, g = dy w:
//             dx = dres + rstd (g - mean_c(g) - xh mean_c(g xh))
//             dw += sum_n dy xh, db += sum_n dy, dx_sums += sum_n dx         4 N C bf16
//
// A warp holds a row, kV vectors of 8 a lane. Backward: each warp of a fixed grid takes rows warp,
// warp + warps, ... and reads the next row by asynchronous copies into its own ring in shared
// memory while it works on this one (a lane reads back just what it copied, so no barrier is
// needed). It keeps its sums for dw and db in registers; they are added up over the block's warps
// and then over the blocks, in a fixed order. Rows with C > 2048 or not a multiple of 8 take the
// plain kernels (layer_norm_plain.cu), a block a row.
#include <cuda_pipeline.h>

#include <algorithm>

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/vec.cuh"

namespace pipemark::cuda {
namespace {

constexpr float kEpsilon = 1e-5f;
constexpr int kWarps = 4;  // of a block
constexpr int kMaxVectors = 8;
constexpr int kMaxSumVectors = 4;  // beyond, a third row of sums would not fit in registers

template <int kV, bool kResidual>
__global__ void __launch_bounds__(kWarps* kWarp)
    forward_kernel(const bf16* __restrict__ a, const bf16* __restrict__ b,
                   bf16* __restrict__ residual_out, const bf16* __restrict__ w,
                   const bf16* __restrict__ bias, bf16* __restrict__ y, float* __restrict__ mean,
                   float* __restrict__ rstd, std::int64_t rows, int C) {
  const int lane = threadIdx.x % kWarp;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  const std::int64_t base = row * C;
  Vec8 x[kV];
  Vec8 more[kV];
#pragma unroll
  for (int v = 0; v < kV; ++v) {
    const int c = (v * kWarp + lane) * kVec;
    if (c >= C) continue;
    x[v] = load8_streaming(a + base + c);
    if constexpr (kResidual) more[v] = load8_streaming(b + base + c);
  }
  float sum = 0;
#pragma unroll
  for (int v = 0; v < kV; ++v) {
    const int c = (v * kWarp + lane) * kVec;
    if (c >= C) continue;
    float f[kVec];
    unpack(x[v], f);
    if constexpr (kResidual) {
      float g[kVec];
      unpack(more[v], g);
#pragma unroll
      for (int k = 0; k < kVec; ++k) f[k] += g[k];
      x[v] = pack(f);  // the statistics are those of the residual as it is stored
      store8(residual_out + base + c, x[v]);
      unpack(x[v], f);
    }
#pragma unroll
    for (int k = 0; k < kVec; ++k) sum += f[k];
  }
  const float mu = warp_sum(sum) / static_cast<float>(C);
  float squares = 0;
#pragma unroll
  for (int v = 0; v < kV; ++v) {
    if ((v * kWarp + lane) * kVec >= C) continue;
    float f[kVec];
    unpack(x[v], f);
#pragma unroll
    for (int k = 0; k < kVec; ++k) squares += (f[k] - mu) * (f[k] - mu);
  }
  const float s = rsqrtf(warp_sum(squares) / static_cast<float>(C) + kEpsilon);
#pragma unroll
  for (int v = 0; v < kV; ++v) {
    const int c = (v * kWarp + lane) * kVec;
    if (c >= C) continue;
    float f[kVec];
    float fw[kVec];
    float fb[kVec];
    unpack(x[v], f);
    unpack(load8(w + c), fw);
    unpack(load8(bias + c), fb);
#pragma unroll
    for (int k = 0; k < kVec; ++k) f[k] = (f[k] - mu) * s * fw[k] + fb[k];
    store8(y + base + c, pack(f));
  }
  if (lane == 0) {
    mean[row] = mu;
    rstd[row] = s;
  }
}

constexpr int kStages = 2;

/// The ring of one warp: [kStages][kInputs][C] bf16, and how its lanes fill it.
template <int kV, int kInputs>
struct Ring {
  bf16* base;
  int C;

  __device__ __forceinline__ bf16* at(int stage, int input) const {
    return base + (stage * kInputs + input) * C;
  }
  __device__ __forceinline__ void fetch(int stage, int input, const bf16* row) const {
#pragma unroll
    for (int v = 0; v < kV; ++v) {
      const int c = (v * kWarp + static_cast<int>(threadIdx.x) % kWarp) * kVec;
      if (c < C) __pipeline_memcpy_async(at(stage, input) + c, row + c, 16);
    }
  }
};

/// Adds a warp's sums to shared[kSums, C], in the order of the block's warps, and writes them to
/// partial[block, kSums, C].
template <int kSums, int kV>
__device__ __forceinline__ void store_partial(float* shared, const float (&sums)[kSums][kV][kVec],
                                              float* partial, int C) {
  const int lane = threadIdx.x % kWarp;
  __syncthreads();
  for (int turn = 0; turn < kWarps; ++turn) {
    if (static_cast<int>(threadIdx.x) / kWarp == turn) {
#pragma unroll
      for (int v = 0; v < kV; ++v) {
        const int c = (v * kWarp + lane) * kVec;
        if (c >= C) continue;
#pragma unroll
        for (int s = 0; s < kSums; ++s) {
#pragma unroll
          for (int k = 0; k < kVec; ++k) {
            float& at = shared[s * C + c + k];
            at = (turn == 0 ? 0.0f : at) + sums[s][v][k];
          }
        }
      }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < kSums * C; i += kWarps * kWarp) {
    partial[static_cast<std::int64_t>(blockIdx.x) * kSums * C + i] = shared[i];
  }
}

/// Blocks a multiprocessor: what the ring leaves room for, fewer with a third row of sums.
constexpr int blocks_each(int C, int sums) { return C > 1280 ? 2 : C > 1024 || sums == 3 ? 3 : 4; }

/// kSums: rows of sums, dw, db and, when 3, those of dx.
template <int kV, bool kResidual, int kSums>
__global__ void __launch_bounds__(kWarps* kWarp, blocks_each(kV* kWarp* kVec, kSums))
    backward_kernel(const bf16* __restrict__ dy, const bf16* __restrict__ x,
                    const bf16* __restrict__ w, const float* __restrict__ mean,
                    const float* __restrict__ rstd, const bf16* dresidual, bf16* dx,
                    float* __restrict__ partial, std::int64_t rows, int C) {
  constexpr int kInputs = kResidual ? 3 : 2;
  extern __shared__ __align__(16) unsigned char raw[];
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const Ring<kV, kInputs> ring{reinterpret_cast<bf16*>(raw) + warp * kStages * kInputs * C, C};
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kWarps;
  float next_mean = 0;
  float next_rstd = 0;
  const auto fetch = [&](int stage, std::int64_t row) {
    if (row < rows) {
      ring.fetch(stage, 0, x + row * C);
      ring.fetch(stage, 1, dy + row * C);
      if constexpr (kResidual) ring.fetch(stage, 2, dresidual + row * C);
      next_mean = mean[row];
      next_rstd = rstd[row];
    }
    __pipeline_commit();
  };
  std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp;
  fetch(0, row);
  Vec8 wv[kV];
#pragma unroll
  for (int v = 0; v < kV; ++v) {
    const int c = (v * kWarp + lane) * kVec;
    if (c < C) wv[v] = load8(w + c);
  }
  float sums[kSums][kV][kVec] = {};
  for (int stage = 0; row < rows; row += stride, stage ^= 1) {
    const float s = next_rstd;
    const float shift = -next_mean * s;  // x s + shift = (x - mean) rstd
    fetch(stage ^ 1, row + stride);
    __pipeline_wait_prior(1);
    float sum_g = 0;
    float sum_gx = 0;
#pragma unroll
    for (int v = 0; v < kV; ++v) {
      const int c = (v * kWarp + lane) * kVec;
      if (c >= C) continue;
      float fx[kVec];
      float fg[kVec];
      float fw[kVec];
      unpack(load8(ring.at(stage, 0) + c), fx);
      unpack(load8(ring.at(stage, 1) + c), fg);
      unpack(wv[v], fw);
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const float xh = fmaf(fx[k], s, shift);
        const float g = fg[k] * fw[k];
        sums[0][v][k] = fmaf(fg[k], xh, sums[0][v][k]);
        sums[1][v][k] += fg[k];
        sum_g += g;
        sum_gx = fmaf(g, xh, sum_gx);
      }
    }
    const float mean_g = warp_sum(sum_g) / static_cast<float>(C);
    const float mean_gx = warp_sum(sum_gx) / static_cast<float>(C);
    // s (g - mean_g - xh mean_gx) = s g + across + x along
    const float along = -s * s * mean_gx;
    const float across = -s * (mean_g + shift * mean_gx);
#pragma unroll
    for (int v = 0; v < kV; ++v) {
      const int c = (v * kWarp + lane) * kVec;
      if (c >= C) continue;
      float fx[kVec];
      float fg[kVec];
      float fw[kVec];
      float fr[kVec] = {};
      unpack(load8(ring.at(stage, 0) + c), fx);
      unpack(load8(ring.at(stage, 1) + c), fg);
      unpack(wv[v], fw);
      if constexpr (kResidual) unpack(load8(ring.at(stage, 2) + c), fr);
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        fr[k] += fmaf(fx[k], along, fmaf(fg[k] * fw[k], s, across));
        if constexpr (kSums == 3) sums[2][v][k] += fr[k];
      }
      store8(dx + row * C + c, pack(fr));
    }
  }
  store_partial(reinterpret_cast<float*>(raw), sums, partial, C);
}

int ring_bytes(int inputs, int C) {
  return kWarps * kStages * inputs * C * static_cast<int>(sizeof(bf16));
}

bool fits_registers(int C) { return C % kVec == 0 && C <= kMaxVectors * kWarp * kVec; }

/// Calls f(std::integral_constant<int, kV>) with the vectors a lane needs for C.
template <class F>
void with_vectors(int C, F f) {
  switch (ceil_div(C, kWarp * kVec)) {
    case 1:
      return f(std::integral_constant<int, 1>{});
    case 2:
      return f(std::integral_constant<int, 2>{});
    case 3:
      return f(std::integral_constant<int, 3>{});
    case 4:
      return f(std::integral_constant<int, 4>{});
    case 5:
      return f(std::integral_constant<int, 5>{});
    case 6:
    case 7:
      return f(std::integral_constant<int, 7>{});
    default:
      return f(std::integral_constant<int, kMaxVectors>{});
  }
}

}  // namespace

void layer_norm_forward(cudaStream_t stream, const bf16* a, const bf16* b, bf16* residual_out,
                        const bf16* w, const bf16* bias, bf16* y, float* mean, float* rstd,
                        std::int64_t rows, int C) {
  if (!fits_registers(C)) {
    plain_layer_norm_forward(stream, a, b, residual_out, w, bias, y, mean, rstd, rows, C);
    return;
  }
  const unsigned blocks = static_cast<unsigned>(ceil_div(rows, kWarps));
  with_vectors(C, [&](auto vectors) {
    constexpr int kV = decltype(vectors)::value;
    auto* kernel = b != nullptr ? forward_kernel<kV, true> : forward_kernel<kV, false>;
    kernel<<<blocks, kWarps * kWarp, 0, stream>>>(a, b, residual_out, w, bias, y, mean, rstd, rows,
                                                  C);
  });
  PIPEMARK_LAUNCH_CHECK();
}

std::size_t layer_norm_backward_scratch_bytes(int C, int multiprocessors) {
  return static_cast<std::size_t>(multiprocessors * blocks_each(C, 2)) * 3 * C * sizeof(float);
}

bool layer_norm_sums_dx(int C) { return C % kVec == 0 && C <= kMaxSumVectors * kWarp * kVec; }

void layer_norm_backward(cudaStream_t stream, const bf16* dy, const bf16* x, const bf16* w,
                         const float* mean, const float* rstd, const bf16* dresidual, bf16* dx,
                         const PartialSums& sums, std::int64_t rows, int C, int multiprocessors,
                         float* scratch) {
  check(sums.out[2] == nullptr || layer_norm_sums_dx(C), "layer_norm_backward: sums of dx at C {}",
        C);
  const int blocks = multiprocessors * blocks_each(C, sums.rows());
  if (!fits_registers(C)) {
    plain_layer_norm_backward(stream, dy, x, w, mean, rstd, dresidual, dx, scratch, rows, C,
                              blocks);
  } else {
    // The ring (at least 16 C bf16) is large enough for the 3 C sums at the end.
    const int shared = ring_bytes(dresidual != nullptr ? 3 : 2, C);
    with_vectors(C, [&](auto vectors) {
      constexpr int kV = decltype(vectors)::value;
      auto* kernel =
          dresidual != nullptr ? backward_kernel<kV, true, 2> : backward_kernel<kV, false, 2>;
      if constexpr (kV <= kMaxSumVectors) {
        if (sums.rows() == 3) {
          kernel =
              dresidual != nullptr ? backward_kernel<kV, true, 3> : backward_kernel<kV, false, 3>;
        }
      }
      PIPEMARK_CUDA(
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
      kernel<<<static_cast<unsigned>(blocks), kWarps * kWarp, static_cast<std::size_t>(shared),
               stream>>>(dy, x, w, mean, rstd, dresidual, dx, scratch, rows, C);
    });
    PIPEMARK_LAUNCH_CHECK();
  }
  add_partials(stream, scratch, sums, C, blocks);
}

}  // namespace pipemark::cuda
