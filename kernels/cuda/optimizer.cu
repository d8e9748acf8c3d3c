// The optimizer's kernels over a stage's flat buffers, many tensors a launch: squared norms of the
// gradients and AdamW. The table of ranges travels as a kernel argument (up to kMaxRanges a
// launch), so no call touches device memory from the host. AdamW moves 30 bytes a parameter: fp32
// master, m and v read and written, fp32 gradient read, bf16 weight written.
#include <algorithm>
#include <cmath>

#include "kernels/clip_scale.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/vec.cuh"

namespace pipemark::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxRanges = 200;  // 4.0 KB of kernel arguments, the limit of old drivers
constexpr std::int64_t kAdamWBlock = kThreads * 4;
constexpr std::size_t kMaxPartials = 1 << 16;

constexpr std::int64_t kDecay = std::int64_t{1} << 62;

/// Blocks [first_block[i], first_block[i + 1]) work on range i, `per_block` elements each.
struct Table {
  int count = 0;
  std::int64_t per_block = 0;
  std::int64_t offset[kMaxRanges];  // kDecay is set where weight decay applies
  std::uint32_t size[kMaxRanges];
  std::uint32_t first_block[kMaxRanges + 1];
};
static_assert(sizeof(Table) <= 4000, "kernel arguments");

__device__ __forceinline__ int range_of(const Table& table, std::uint32_t block) {
  int low = 0;
  int high = table.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.first_block[middle] <= block) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

Table make_table(std::span<const ParamRange> ranges, std::int64_t per_block) {
  Table table;
  table.count = static_cast<int>(ranges.size());
  table.per_block = per_block;
  std::uint32_t blocks = 0;
  for (int i = 0; i < table.count; ++i) {
    const ParamRange& range = ranges[static_cast<std::size_t>(i)];
    check(range.size >= 0 && range.size < (std::int64_t{1} << 32),
          "optimizer: a tensor of {} elements", range.size);
    table.offset[i] = range.offset | (range.decay ? kDecay : 0);
    table.size[i] = static_cast<std::uint32_t>(range.size);
    table.first_block[i] = blocks;
    blocks += static_cast<std::uint32_t>(ceil_div(range.size, per_block));
  }
  table.first_block[table.count] = blocks;
  return table;
}

__global__ void __launch_bounds__(kThreads)
    adamw_kernel(const __grid_constant__ Table table, float* __restrict__ master, bf16* weights,
                 const float* __restrict__ gradients, float* __restrict__ m, float* __restrict__ v,
                 const __grid_constant__ AdamWSettings settings, float correction1,
                 float correction2, const float* __restrict__ gradient_scale) {
  const int range = range_of(table, blockIdx.x);
  const std::int64_t offset = table.offset[range] & ~kDecay;
  const float decay = (table.offset[range] & kDecay) != 0 ? settings.weight_decay : 0.0f;
  const std::int64_t in_range =
      (blockIdx.x - table.first_block[range]) * table.per_block + threadIdx.x * 4;
  const std::int64_t left = table.size[range] - in_range;
  if (left <= 0) return;
  const std::int64_t at = offset + in_range;
  const float scale = *gradient_scale;
  const auto update = [&](float g, float& mi, float& vi, float& p) {
    g *= scale;
    mi = settings.beta1 * mi + (1.0f - settings.beta1) * g;
    vi = settings.beta2 * vi + (1.0f - settings.beta2) * g * g;
    const float step = (mi * correction1) / (sqrtf(vi * correction2) + settings.epsilon);
    p -= settings.learning_rate * (step + decay * p);
  };
  if (left >= 4 && offset % 4 == 0) {
    const float4 g = __ldcs(reinterpret_cast<const float4*>(gradients + at));
    float4 mi = __ldcs(reinterpret_cast<const float4*>(m + at));
    float4 vi = __ldcs(reinterpret_cast<const float4*>(v + at));
    float4 p = __ldcs(reinterpret_cast<const float4*>(master + at));
    update(g.x, mi.x, vi.x, p.x);
    update(g.y, mi.y, vi.y, p.y);
    update(g.z, mi.z, vi.z, p.z);
    update(g.w, mi.w, vi.w, p.w);
    __stcs(reinterpret_cast<float4*>(m + at), mi);
    __stcs(reinterpret_cast<float4*>(v + at), vi);
    __stcs(reinterpret_cast<float4*>(master + at), p);
    struct alignas(8) Four {
      __nv_bfloat162 low, high;
    };
    *reinterpret_cast<Four*>(weights + at) = {__floats2bfloat162_rn(p.x, p.y),
                                              __floats2bfloat162_rn(p.z, p.w)};
    return;
  }
  for (std::int64_t i = at; i < at + min(left, std::int64_t{4}); ++i) {
    float p = master[i];
    update(gradients[i], m[i], v[i], p);
    master[i] = p;
    weights[i] = __float2bfloat16_rn(p);
  }
}

/// partial[block] = sum of the squares of the block's elements, in fp64 across threads.
__global__ void __launch_bounds__(kThreads)
    squares_kernel(const __grid_constant__ Table table, const float* __restrict__ gradients,
                   double* __restrict__ partial) {
  __shared__ double shared[kWarp];
  const int range = range_of(table, blockIdx.x);
  const std::int64_t offset = table.offset[range] & ~kDecay;
  const std::int64_t first = (blockIdx.x - table.first_block[range]) * table.per_block;
  const std::int64_t last =
      min(first + table.per_block, static_cast<std::int64_t>(table.size[range]));
  const float* g = gradients + offset;
  double sum = 0;
  std::int64_t i = first;
  if (offset % 4 == 0) {
    const std::int64_t whole = first + (last - first) / (kThreads * 4) * (kThreads * 4);
#pragma unroll 4
    for (i = first + threadIdx.x * 4; i < whole; i += kThreads * 4) {
      const float4 x = __ldcs(reinterpret_cast<const float4*>(g + i));
      sum += static_cast<double>(x.x * x.x + x.y * x.y + (x.z * x.z + x.w * x.w));
    }
    i = whole;
  }
  for (i += threadIdx.x; i < last; i += kThreads) sum += static_cast<double>(g[i]) * g[i];
  const double total = block_sum(sum, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

__global__ void __launch_bounds__(kThreads)
    finish_squares_kernel(const __grid_constant__ Table table, const double* __restrict__ partial,
                          float* __restrict__ squared) {
  __shared__ double shared[kWarp];
  double sum = 0;
  for (std::uint32_t b = table.first_block[blockIdx.x] + threadIdx.x;
       b < table.first_block[blockIdx.x + 1]; b += kThreads) {
    sum += partial[b];
  }
  const double total = block_sum(sum, shared);
  if (threadIdx.x == 0) squared[blockIdx.x] = static_cast<float>(total);
}

/// One block: the sum is in order, so the values are fetched by all threads and added by one.
__global__ void __launch_bounds__(kThreads)
    clip_scale_kernel(const float* __restrict__ squared, std::int64_t count, double clip,
                      float* norm, float* scale) {
  __shared__ float some[kThreads];
  double sum = 0;
  for (std::int64_t first = 0; first < count; first += kThreads) {
    const std::int64_t left = min(count - first, static_cast<std::int64_t>(kThreads));
    if (threadIdx.x < left) some[threadIdx.x] = squared[first + threadIdx.x];
    __syncthreads();
    for (std::int64_t i = 0; threadIdx.x == 0 && i < left; ++i) sum += some[i];
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  *norm = static_cast<float>(sqrt(sum));
  *scale = static_cast<float>(clip_factor(clip, sqrt(sum)));
}

/// Calls f(ranges of one launch, index of the first).
template <class F>
void in_tables(std::span<const ParamRange> ranges, F f) {
  for (std::size_t first = 0; first < ranges.size(); first += kMaxRanges) {
    f(ranges.subspan(first, std::min<std::size_t>(kMaxRanges, ranges.size() - first)), first);
  }
}

}  // namespace

std::size_t squared_norms_scratch_bytes() { return kMaxPartials * sizeof(double); }

void squared_norms(cudaStream_t stream, const float* gradients, std::span<const ParamRange> ranges,
                   float* squared, double* scratch) {
  in_tables(ranges, [&](std::span<const ParamRange> some, std::size_t first) {
    std::int64_t total = 0;
    for (const ParamRange& range : some) total += range.size;
    // At most kMaxPartials blocks, each at least 4 rounds of its threads.
    const std::int64_t most = static_cast<std::int64_t>(kMaxPartials) - kMaxRanges;
    const std::int64_t rounds = std::max<std::int64_t>(8, ceil_div(ceil_div(total, most), 1024));
    const Table table = make_table(some, rounds * kThreads * 4);
    const unsigned blocks = table.first_block[table.count];
    if (blocks > 0) squares_kernel<<<blocks, kThreads, 0, stream>>>(table, gradients, scratch);
    PIPEMARK_LAUNCH_CHECK();
    finish_squares_kernel<<<static_cast<unsigned>(table.count), kThreads, 0, stream>>>(
        table, scratch, squared + first);
    PIPEMARK_LAUNCH_CHECK();
  });
}

void clip_scale(cudaStream_t stream, const float* squared, std::int64_t count, double clip,
                float* norm, float* scale) {
  clip_scale_kernel<<<1, kThreads, 0, stream>>>(squared, count, clip, norm, scale);
  PIPEMARK_LAUNCH_CHECK();
}

void adamw(cudaStream_t stream, float* master, bf16* weights, const float* gradients, float* m,
           float* v, std::span<const ParamRange> ranges, const AdamWSettings& settings,
           const float* gradient_scale) {
  const double step = static_cast<double>(settings.step);
  const float correction1 = static_cast<float>(1.0 / (1.0 - std::pow(settings.beta1, step)));
  const float correction2 = static_cast<float>(1.0 / (1.0 - std::pow(settings.beta2, step)));
  in_tables(ranges, [&](std::span<const ParamRange> some, std::size_t) {
    const Table table = make_table(some, kAdamWBlock);
    const unsigned blocks = table.first_block[table.count];
    if (blocks == 0) return;
    adamw_kernel<<<blocks, kThreads, 0, stream>>>(table, master, weights, gradients, m, v, settings,
                                                  correction1, correction2, gradient_scale);
    PIPEMARK_LAUNCH_CHECK();
  });
}

}  // namespace pipemark::cuda
