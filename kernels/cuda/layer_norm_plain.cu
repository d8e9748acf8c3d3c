// LayerNorm for any C, a block a row: what layer_norm.cu leaves over (C > 2048 or not a multiple of
// 8). Correct at any size, not tuned. The formulas are layer_norm.cu's.
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/vec.cuh"

namespace pipemark::cuda {
namespace {

constexpr float kEpsilon = 1e-5f;

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

}  // namespace

void plain_layer_norm_forward(cudaStream_t stream, const bf16* a, const bf16* b, bf16* residual_out,
                              const bf16* w, const bf16* bias, bf16* y, float* mean, float* rstd,
                              std::int64_t rows, int C) {
  if (rows == 0) return;
  plain_forward_kernel<<<static_cast<unsigned>(rows), kPlain, 0, stream>>>(a, b, residual_out, w,
                                                                           bias, y, mean, rstd, C);
  PIPEMARK_LAUNCH_CHECK();
}

void plain_layer_norm_backward(cudaStream_t stream, const bf16* dy, const bf16* x, const bf16* w,
                               const float* mean, const float* rstd, const bf16* dresidual,
                               bf16* dx, float* partial, std::int64_t rows, int C, int slices) {
  // Sums first: dx may be dresidual, but never dy or x.
  const dim3 grid(static_cast<unsigned>(ceil_div(C, kPlain)), static_cast<unsigned>(slices));
  plain_sums_kernel<<<grid, kPlain, 0, stream>>>(dy, x, mean, rstd, partial, rows, C);
  PIPEMARK_LAUNCH_CHECK();
  plain_backward_kernel<<<static_cast<unsigned>(rows), kPlain, 0, stream>>>(dy, x, w, mean, rstd,
                                                                            dresidual, dx, C);
  PIPEMARK_LAUNCH_CHECK();
}

}  // namespace pipemark::cuda
