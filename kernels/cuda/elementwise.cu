// Elementwise kernels (GELU and its gradient, sums, conversion) and the two plain reductions
// (column sums for bias gradients, one scaled sum for losses). All are bound by memory: 16-byte
// accesses, bytes = inputs + outputs. The reductions add in a fixed order.
#include <algorithm>

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/vec.cuh"

namespace pipemark::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void probe_kernel() {}

/// out[i] = op(a[i], b[i]) for bf16; whole vectors first, then the tail by the first threads.
template <class Op>
__global__ void __launch_bounds__(kThreads)
    map_kernel(const bf16* __restrict__ a, const bf16* __restrict__ b, bf16* out,
               std::int64_t count, Op op) {
  const std::int64_t vectors = count / kVec;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < vectors) {
    float x[kVec];
    float y[kVec];
    unpack(load8_streaming(a + i * kVec), x);
    unpack(load8_streaming(b + i * kVec), y);
#pragma unroll
    for (int k = 0; k < kVec; ++k) x[k] = op(x[k], y[k]);
    store8(out + i * kVec, pack(x));
  }
  if (i < count % kVec) {
    const std::int64_t j = vectors * kVec + i;
    out[j] = __float2bfloat16_rn(op(__bfloat162float(a[j]), __bfloat162float(b[j])));
  }
}

template <class Op>
void map(cudaStream_t stream, const bf16* a, const bf16* b, bf16* out, std::int64_t count, Op op) {
  if (count == 0) return;
  const std::int64_t blocks = ceil_div(ceil_div(count, kVec), kThreads);
  map_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(a, b, out, count, op);
  PIPEMARK_LAUNCH_CHECK();
}

struct GeluOp {
  __device__ float operator()(float x, float) const { return gelu(x); }
};
struct GeluGradientOp {
  __device__ float operator()(float dy, float x) const { return dy * gelu_derivative(x); }
};
struct AddOp {
  __device__ float operator()(float a, float b) const { return a + b; }
};

__global__ void __launch_bounds__(kThreads)
    accumulate_kernel(const float* __restrict__ x, float* __restrict__ accumulator,
                      std::int64_t count, bool aligned) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4;
  if (aligned && i + 4 <= count) {
    const float4 a = *reinterpret_cast<const float4*>(x + i);
    float4 s = *reinterpret_cast<const float4*>(accumulator + i);
    s = make_float4(s.x + a.x, s.y + a.y, s.z + a.z, s.w + a.w);
    *reinterpret_cast<float4*>(accumulator + i) = s;
  } else {
    for (std::int64_t j = i; j < min(i + 4, count); ++j) accumulator[j] += x[j];
  }
}

__global__ void __launch_bounds__(kThreads)
    convert_kernel(const float* __restrict__ src, bf16* __restrict__ dst, std::int64_t count,
                   bool aligned) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVec;
  if (aligned && i + kVec <= count) {
    const float4 a = *reinterpret_cast<const float4*>(src + i);
    const float4 b = *reinterpret_cast<const float4*>(src + i + 4);
    const float f[kVec] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    store8(dst + i, pack(f));
  } else {
    for (std::int64_t j = i; j < min(i + kVec, count); ++j) dst[j] = __float2bfloat16_rn(src[j]);
  }
}

constexpr int kSumVectors = 32;  // vectors of a block's slice of a row: 512 bytes
constexpr int kSumLanes = kThreads / kSumVectors;
constexpr int kSumUnroll = 8;
constexpr int kSumBlocks = 1024;  // aimed at: 7 or 8 a multiprocessor of a large GPU

int sum_chunks(int columns) {
  return std::max(1, kSumBlocks / ceil_div(columns, kSumVectors * kVec));
}
dim3 sum_grid(int columns) {
  return dim3(static_cast<unsigned>(ceil_div(columns, kSumVectors * kVec)),
              static_cast<unsigned>(sum_chunks(columns)));
}

/// Blocks start in the order of their index: the last rows first, which whoever wrote them has left
/// in the L2.
__device__ __forceinline__ unsigned chunk_of(unsigned block) { return gridDim.y - 1 - block; }

/// The end of a kernel that sums columns: over the block's warps, in order, to partial[chunk].
__device__ __forceinline__ void finish_column_sums(const float (&sum)[kVec], float* partial,
                                                   int columns) {
  __shared__ float shared[kSumLanes][kSumVectors * kVec];
  const int lane = threadIdx.x % kSumVectors;
  const int turn = threadIdx.x / kSumVectors;
#pragma unroll
  for (int k = 0; k < kVec; ++k) shared[turn][lane * kVec + k] = sum[k];
  __syncthreads();
  const int out = blockIdx.x * kSumVectors * kVec + static_cast<int>(threadIdx.x);
  if (out >= columns) return;
  float total = 0;
#pragma unroll
  for (int t = 0; t < kSumLanes; ++t) total += shared[t][threadIdx.x];
  partial[static_cast<std::int64_t>(chunk_of(blockIdx.y)) * columns + out] = total;
}
static_assert(kThreads == kSumVectors * kVec, "a thread finishes one column");

/// partial[chunk, column] = sum of x over the chunk's rows. A warp reads 512 bytes of a row; the
/// block's warps take rows in turn, kSumUnroll loads ahead.
template <bool kAligned>
__global__ void __launch_bounds__(kThreads)
    column_sums_kernel(const bf16* __restrict__ x, float* __restrict__ partial, std::int64_t rows,
                       int columns, std::int64_t chunk_rows) {
  const int lane = threadIdx.x % kSumVectors;
  const int turn = threadIdx.x / kSumVectors;
  const int column = (blockIdx.x * kSumVectors + lane) * kVec;
  const std::int64_t first = chunk_of(blockIdx.y) * chunk_rows;
  const std::int64_t last = min(first + chunk_rows, rows);
  float sum[kVec] = {};
  if (column < columns) {
#pragma unroll kSumUnroll
    for (std::int64_t row = first + turn; row < last; row += kSumLanes) {
      float f[kVec];
      if constexpr (kAligned) {
        unpack(load8(x + row * columns + column), f);
      } else {
        for (int k = 0; k < kVec; ++k) {
          f[k] = column + k < columns ? __bfloat162float(x[row * columns + column + k]) : 0.0f;
        }
      }
#pragma unroll
      for (int k = 0; k < kVec; ++k) sum[k] += f[k];
    }
  }
  finish_column_sums(sum, partial, columns);
}

constexpr int kFinishColumns = 32;
constexpr int kFinishSlices = 32;

/// As column_sums_kernel, of dx = dy gelu'(x), which is written on the way.
__global__ void __launch_bounds__(kThreads)
    gelu_backward_sums_kernel(const bf16* dy, const bf16* __restrict__ x, bf16* dx,
                              float* __restrict__ partial, std::int64_t rows, int columns,
                              std::int64_t chunk_rows) {
  const int lane = threadIdx.x % kSumVectors;
  const int turn = threadIdx.x / kSumVectors;
  const int column = (blockIdx.x * kSumVectors + lane) * kVec;
  const std::int64_t first = chunk_of(blockIdx.y) * chunk_rows;
  const std::int64_t last = min(first + chunk_rows, rows);
  float sum[kVec] = {};
  if (column < columns) {
#pragma unroll 4
    for (std::int64_t row = first + turn; row < last; row += kSumLanes) {
      float g[kVec];
      float f[kVec];
      unpack(load8_streaming(dy + row * columns + column), g);
      unpack(load8_streaming(x + row * columns + column), f);
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        g[k] *= gelu_derivative(f[k]);
        sum[k] += g[k];
      }
      store8(dx + row * columns + column, pack(g));
    }
  }
  finish_column_sums(sum, partial, columns);
}

/// A block takes kFinishColumns columns; kFinishSlices threads of each take every so manieth part.
__global__ void __launch_bounds__(kFinishColumns* kFinishSlices)
    add_partials_kernel(const float* __restrict__ partial, const __grid_constant__ PartialSums sums,
                        int columns, int parts) {
  const int width = sums.rows() * columns;
  const int lane = threadIdx.x % kFinishColumns;
  const int slice = threadIdx.x / kFinishColumns;
  const int column = blockIdx.x * kFinishColumns + lane;
  __shared__ float shared[kFinishSlices][kFinishColumns];
  float sum = 0;
  if (column < width) {
#pragma unroll 8
    for (int part = slice; part < parts; part += kFinishSlices) {
      sum += partial[static_cast<std::int64_t>(part) * width + column];
    }
  }
  shared[slice][lane] = sum;
  __syncthreads();
  if (slice != 0 || column >= width) return;
  float total = 0;
  for (int s = 0; s < kFinishSlices; ++s) total += shared[s][lane];
  float* out = sums.out[column / columns] + column % columns;
  *out = sums.accumulate ? *out + total : total;
}

constexpr int kOneBlock = 1024;

__global__ void __launch_bounds__(kOneBlock)
    add_scaled_sum_kernel(const float* __restrict__ x, std::int64_t count, float scale,
                          float* __restrict__ sum) {
  __shared__ double shared[kWarp];
  double part = 0;
  for (std::int64_t i = threadIdx.x; i < count; i += kOneBlock) part += x[i];
  const double total = block_sum(part, shared);
  if (threadIdx.x == 0) *sum += static_cast<float>(total * scale);
}

}  // namespace

bool has_code_for_device() {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, probe_kernel) == cudaSuccess;
}

void gelu_forward(cudaStream_t stream, const bf16* x, bf16* y, std::int64_t count) {
  map(stream, x, x, y, count, GeluOp{});
}

void gelu_backward(cudaStream_t stream, const bf16* dy, const bf16* x, bf16* dx,
                   std::int64_t count) {
  map(stream, dy, x, dx, count, GeluGradientOp{});
}

void add(cudaStream_t stream, const bf16* a, const bf16* b, bf16* out, std::int64_t count) {
  map(stream, a, b, out, count, AddOp{});
}

void accumulate(cudaStream_t stream, const float* x, float* accumulator, std::int64_t count) {
  if (count == 0) return;
  const std::int64_t blocks = ceil_div(ceil_div(count, 4), kThreads);
  const bool aligned =
      (reinterpret_cast<std::uintptr_t>(x) | reinterpret_cast<std::uintptr_t>(accumulator)) % 16 ==
      0;
  accumulate_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(x, accumulator, count,
                                                                            aligned);
  PIPEMARK_LAUNCH_CHECK();
}

void convert(cudaStream_t stream, const float* src, bf16* dst, std::int64_t count) {
  if (count == 0) return;
  const std::int64_t blocks = ceil_div(ceil_div(count, kVec), kThreads);
  const bool aligned = reinterpret_cast<std::uintptr_t>(src) % 16 == 0;
  convert_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(src, dst, count, aligned);
  PIPEMARK_LAUNCH_CHECK();
}

std::size_t column_sums_scratch_bytes(int columns) {
  return static_cast<std::size_t>(sum_chunks(columns)) * columns * sizeof(float);
}

void column_sums(cudaStream_t stream, const bf16* x, const PartialSums& sums, std::int64_t rows,
                 int columns, float* scratch) {
  const int chunks = sum_chunks(columns);
  const dim3 grid = sum_grid(columns);
  auto* kernel = columns % kVec == 0 ? column_sums_kernel<true> : column_sums_kernel<false>;
  kernel<<<grid, kThreads, 0, stream>>>(x, scratch, rows, columns, ceil_div(rows, chunks));
  PIPEMARK_LAUNCH_CHECK();
  add_partials(stream, scratch, sums, columns, chunks);
}

void gelu_backward_sums(cudaStream_t stream, const bf16* dy, const bf16* x, bf16* dx,
                        std::int64_t rows, int columns, const PartialSums& sums, float* scratch) {
  const int chunks = sum_chunks(columns);
  gelu_backward_sums_kernel<<<sum_grid(columns), kThreads, 0, stream>>>(
      dy, x, dx, scratch, rows, columns, ceil_div(rows, chunks));
  PIPEMARK_LAUNCH_CHECK();
  add_partials(stream, scratch, sums, columns, chunks);
}

void add_partials(cudaStream_t stream, const float* partial, const PartialSums& sums, int columns,
                  int parts) {
  const int blocks = ceil_div(sums.rows() * columns, kFinishColumns);
  add_partials_kernel<<<static_cast<unsigned>(blocks), kFinishColumns * kFinishSlices, 0, stream>>>(
      partial, sums, columns, parts);
  PIPEMARK_LAUNCH_CHECK();
}

void add_scaled_sum(cudaStream_t stream, const float* x, std::int64_t count, float scale,
                    float* sum) {
  add_scaled_sum_kernel<<<1, kOneBlock, 0, stream>>>(x, count, scale, sum);
  PIPEMARK_LAUNCH_CHECK();
}

}  // namespace pipemark::cuda
