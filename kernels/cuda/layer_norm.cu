// LayerNorm over C with the residual sum fused in, forward and backward, bound by memory: each
// input read once, each output written once.
//
//   forward   r = a + b; y = (r - mean) rstd w + bias           4 N C bf16 (2 N C without a
//   residual) backward  with xh = (x - mean) rstd, g = dy w:
//             dx = dres + rstd (g - mean_c(g) - xh mean_c(g xh))
//             dw += sum_n dy xh, db += sum_n dy                 4 N C bf16
//
// A warp holds a row in registers (kV vectors of 8 a lane). Backward: each warp of a fixed grid
// takes rows warp, warp + warps, ... and keeps its sums for dw and db in registers; they are added
// up over the block's warps and then over the blocks, in a fixed order. Rows that don't fit (C >
// 2048 or not a multiple of 8) take the plain kernels at the end, a block a row.
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/vec.cuh"

namespace pipemark::cuda {
namespace {

constexpr float kEpsilon = 1e-5f;
constexpr int kWarps = 4;  // of a block
constexpr int kMaxVectors = 8;

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

template <int kV, bool kResidual>
__global__ void __launch_bounds__(kWarps* kWarp)
    backward_kernel(const bf16* __restrict__ dy, const bf16* __restrict__ x,
                    const bf16* __restrict__ w, const float* __restrict__ mean,
                    const float* __restrict__ rstd, const bf16* dresidual, bf16* dx,
                    float* __restrict__ partial, std::int64_t rows, int C) {
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  float dw[kV][kVec] = {};
  float db[kV][kVec] = {};
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kWarps;
  for (std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp; row < rows;
       row += stride) {
    const std::int64_t base = row * C;
    Vec8 xv[kV];
    Vec8 gv[kV];
    Vec8 rv[kV];
#pragma unroll
    for (int v = 0; v < kV; ++v) {
      const int c = (v * kWarp + lane) * kVec;
      if (c >= C) continue;
      xv[v] = load8_streaming(x + base + c);
      gv[v] = load8_streaming(dy + base + c);
      if constexpr (kResidual) rv[v] = load8(dresidual + base + c);
    }
    const float mu = mean[row];
    const float s = rstd[row];
    float sum_g = 0;
    float sum_gx = 0;
#pragma unroll
    for (int v = 0; v < kV; ++v) {
      const int c = (v * kWarp + lane) * kVec;
      if (c >= C) continue;
      float fx[kVec];
      float fg[kVec];
      float fw[kVec];
      unpack(xv[v], fx);
      unpack(gv[v], fg);
      unpack(load8(w + c), fw);
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const float xh = (fx[k] - mu) * s;
        dw[v][k] += fg[k] * xh;
        db[v][k] += fg[k];
        sum_g += fg[k] * fw[k];
        sum_gx += fg[k] * fw[k] * xh;
      }
    }
    const float mean_g = warp_sum(sum_g) / static_cast<float>(C);
    const float mean_gx = warp_sum(sum_gx) / static_cast<float>(C);
#pragma unroll
    for (int v = 0; v < kV; ++v) {
      const int c = (v * kWarp + lane) * kVec;
      if (c >= C) continue;
      float fx[kVec];
      float fg[kVec];
      float fw[kVec];
      float fr[kVec] = {};
      unpack(xv[v], fx);
      unpack(gv[v], fg);
      unpack(load8(w + c), fw);
      if constexpr (kResidual) unpack(rv[v], fr);
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const float xh = (fx[k] - mu) * s;
        fr[k] += s * (fg[k] * fw[k] - mean_g - xh * mean_gx);
      }
      store8(dx + base + c, pack(fr));
    }
  }
  // partial[block, 0, C] dw, [block, 1, C] db: the block's warps in order.
  extern __shared__ float shared[];  // [2, C]
  for (int turn = 0; turn < kWarps; ++turn) {
    if (warp == turn) {
#pragma unroll
      for (int v = 0; v < kV; ++v) {
        const int c = (v * kWarp + lane) * kVec;
        if (c >= C) continue;
#pragma unroll
        for (int k = 0; k < kVec; ++k) {
          shared[c + k] = (turn == 0 ? 0.0f : shared[c + k]) + dw[v][k];
          shared[C + c + k] = (turn == 0 ? 0.0f : shared[C + c + k]) + db[v][k];
        }
      }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < 2 * C; i += kWarps * kWarp) {
    partial[static_cast<std::int64_t>(blockIdx.x) * 2 * C + i] = shared[i];
  }
}

constexpr int kColumns = 32;
constexpr int kSlices = 8;

/// dw[c] += sum over blocks of partial[block, 0, c], db likewise: a block takes kColumns columns of
/// the 2 C and kSlices threads of each column take every kSlices-th partial.
__global__ void __launch_bounds__(kColumns* kSlices)
    finish_kernel(const float* __restrict__ partial, float* __restrict__ dw, float* __restrict__ db,
                  int blocks, int C) {
  const int column = blockIdx.x * kColumns + threadIdx.x % kColumns;
  const int slice = threadIdx.x / kColumns;
  __shared__ float shared[kSlices][kColumns];
  float sum = 0;
  if (column < 2 * C) {
#pragma unroll 8
    for (int b = slice; b < blocks; b += kSlices) {
      sum += partial[static_cast<std::int64_t>(b) * 2 * C + column];
    }
  }
  shared[slice][threadIdx.x % kColumns] = sum;
  __syncthreads();
  if (slice != 0 || column >= 2 * C) return;
  float total = 0;
  for (int s = 0; s < kSlices; ++s) total += shared[s][threadIdx.x];
  if (column < C) {
    dw[column] += total;
  } else {
    db[column - C] += total;
  }
}

// --- any C: a block a row ----------------------------------------------------------------------

constexpr int kPlain = 256;

__global__ void __launch_bounds__(kPlain)
    plain_forward_kernel(const bf16* a, const bf16* b, bf16* residual_out, const bf16* w,
                         const bf16* bias, bf16* y, float* mean, float* rstd, int C) {
  __shared__ float shared[kWarp];
  const std::int64_t base = static_cast<std::int64_t>(blockIdx.x) * C;
  const auto value = [&](int c) {
    const float f = __bfloat162float(a[base + c]);
    if (b == nullptr) return f;
    return __bfloat162float(__float2bfloat16_rn(f + __bfloat162float(b[base + c])));
  };
  float sum = 0;
  for (int c = threadIdx.x; c < C; c += kPlain) sum += value(c);
  const float mu = block_sum(sum, shared) / static_cast<float>(C);
  float squares = 0;
  for (int c = threadIdx.x; c < C; c += kPlain) squares += (value(c) - mu) * (value(c) - mu);
  const float s = rsqrtf(block_sum(squares, shared) / static_cast<float>(C) + kEpsilon);
  for (int c = threadIdx.x; c < C; c += kPlain) {
    const float x = value(c);
    y[base + c] =
        __float2bfloat16_rn((x - mu) * s * __bfloat162float(w[c]) + __bfloat162float(bias[c]));
    if (b != nullptr) residual_out[base + c] = __float2bfloat16_rn(x);
  }
  if (threadIdx.x == 0) {
    mean[blockIdx.x] = mu;
    rstd[blockIdx.x] = s;
  }
}

__global__ void __launch_bounds__(kPlain)
    plain_backward_kernel(const bf16* dy, const bf16* x, const bf16* w, const float* mean,
                          const float* rstd, const bf16* dresidual, bf16* dx, int C) {
  __shared__ float shared[kWarp];
  const std::int64_t base = static_cast<std::int64_t>(blockIdx.x) * C;
  const float mu = mean[blockIdx.x];
  const float s = rstd[blockIdx.x];
  float sum_g = 0;
  float sum_gx = 0;
  for (int c = threadIdx.x; c < C; c += kPlain) {
    const float g = __bfloat162float(dy[base + c]) * __bfloat162float(w[c]);
    sum_g += g;
    sum_gx += g * (__bfloat162float(x[base + c]) - mu) * s;
  }
  const float mean_g = block_sum(sum_g, shared) / static_cast<float>(C);
  const float mean_gx = block_sum(sum_gx, shared) / static_cast<float>(C);
  for (int c = threadIdx.x; c < C; c += kPlain) {
    const float g = __bfloat162float(dy[base + c]) * __bfloat162float(w[c]);
    const float xh = (__bfloat162float(x[base + c]) - mu) * s;
    const float r = dresidual == nullptr ? 0.0f : __bfloat162float(dresidual[base + c]);
    dx[base + c] = __float2bfloat16_rn(r + s * (g - mean_g - xh * mean_gx));
  }
}

/// partial[slice, 0, c] = sum over the slice's rows of dy xh, [slice, 1, c] of dy.
__global__ void __launch_bounds__(kPlain)
    plain_sums_kernel(const bf16* dy, const bf16* x, const float* mean, const float* rstd,
                      float* partial, std::int64_t rows, int C) {
  const int c = blockIdx.x * kPlain + threadIdx.x;
  if (c >= C) return;
  float dw = 0;
  float db = 0;
  for (std::int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const float g = __bfloat162float(dy[row * C + c]);
    dw += g * (__bfloat162float(x[row * C + c]) - mean[row]) * rstd[row];
    db += g;
  }
  partial[static_cast<std::int64_t>(blockIdx.y) * 2 * C + c] = dw;
  partial[static_cast<std::int64_t>(blockIdx.y) * 2 * C + C + c] = db;
}

int backward_blocks(int C, int multiprocessors) {
  const int vectors = ceil_div(C, kWarp * kVec);
  return multiprocessors * (vectors <= 3 ? 4 : vectors <= 5 ? 3 : 2);
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
    plain_forward_kernel<<<static_cast<unsigned>(rows), kPlain, 0, stream>>>(
        a, b, residual_out, w, bias, y, mean, rstd, C);
    PIPEMARK_LAUNCH_CHECK();
    return;
  }
  const unsigned blocks = static_cast<unsigned>(ceil_div(rows, kWarps));
  with_vectors(C, [&](auto vectors) {
    constexpr int kV = decltype(vectors)::value;
    if (b != nullptr) {
      forward_kernel<kV, true><<<blocks, kWarps * kWarp, 0, stream>>>(a, b, residual_out, w, bias,
                                                                      y, mean, rstd, rows, C);
    } else {
      forward_kernel<kV, false><<<blocks, kWarps * kWarp, 0, stream>>>(a, nullptr, nullptr, w, bias,
                                                                       y, mean, rstd, rows, C);
    }
  });
  PIPEMARK_LAUNCH_CHECK();
}

std::size_t layer_norm_backward_scratch_bytes(int C, int multiprocessors) {
  return static_cast<std::size_t>(backward_blocks(C, multiprocessors)) * 2 * C * sizeof(float);
}

void layer_norm_backward(cudaStream_t stream, const bf16* dy, const bf16* x, const bf16* w,
                         const float* mean, const float* rstd, const bf16* dresidual, bf16* dx,
                         float* dw, float* db, std::int64_t rows, int C, int multiprocessors,
                         float* scratch) {
  const int blocks = backward_blocks(C, multiprocessors);
  if (fits_registers(C)) {
    const std::size_t shared = 2 * static_cast<std::size_t>(C) * sizeof(float);
    with_vectors(C, [&](auto vectors) {
      constexpr int kV = decltype(vectors)::value;
      if (dresidual != nullptr) {
        backward_kernel<kV, true><<<blocks, kWarps * kWarp, shared, stream>>>(
            dy, x, w, mean, rstd, dresidual, dx, scratch, rows, C);
      } else {
        backward_kernel<kV, false><<<blocks, kWarps * kWarp, shared, stream>>>(
            dy, x, w, mean, rstd, nullptr, dx, scratch, rows, C);
      }
    });
  } else {
    // Sums first: dx may be dresidual, but never dy or x.
    const dim3 grid(static_cast<unsigned>(ceil_div(C, kPlain)), static_cast<unsigned>(blocks));
    plain_sums_kernel<<<grid, kPlain, 0, stream>>>(dy, x, mean, rstd, scratch, rows, C);
    PIPEMARK_LAUNCH_CHECK();
    plain_backward_kernel<<<static_cast<unsigned>(rows), kPlain, 0, stream>>>(dy, x, w, mean, rstd,
                                                                              dresidual, dx, C);
  }
  PIPEMARK_LAUNCH_CHECK();
  finish_kernel<<<static_cast<unsigned>(ceil_div(2 * C, kColumns)), kColumns * kSlices, 0,
                  stream>>>(scratch, dw, db, blocks, C);
  PIPEMARK_LAUNCH_CHECK();
}

}  // namespace pipemark::cuda
