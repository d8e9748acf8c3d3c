// Token + position embedding, and its gradient in a fixed order. Forward: x[n] = wte[token n] +
// wpe[n mod T], N C reads and writes. Backward of wte without atomics: a stable radix sort of
// (token, n) brings the rows of a token together in ascending n; then
//   1. a block takes kChunk sorted places and sums each run of one token in order; a run that lies
//      whole in the chunk is added to dwte, a run that crosses a border leaves a partial sum;
//   2. the block of the chunk where a crossing run begins adds its partials in order.
// So a token that fills half of the batch (byte-level text) costs no long serial loop.
#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/vec.cuh"

namespace pipemark::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kChunk = 32;  // sorted places of a block
constexpr int kAhead = 8;   // divides kChunk
constexpr int kRunThreads = 128;

__global__ void __launch_bounds__(kThreads)
    forward_kernel(const std::int32_t* __restrict__ tokens, const bf16* __restrict__ wte,
                   const bf16* __restrict__ wpe, bf16* __restrict__ x, std::int64_t rows, int T,
                   int C) {
  const int per_row = ceil_div(C, kVec);
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t row = i / per_row;
  const int c = static_cast<int>(i % per_row) * kVec;
  if (row >= rows) return;
  const bf16* te = wte + static_cast<std::int64_t>(tokens[row]) * C + c;
  const bf16* pe = wpe + (row % T) * C + c;
  bf16* out = x + row * C + c;
  if (C % kVec == 0) {
    float a[kVec];
    float b[kVec];
    unpack(load8(te), a);
    unpack(load8(pe), b);
#pragma unroll
    for (int k = 0; k < kVec; ++k) a[k] += b[k];
    store8(out, pack(a));
  } else {
    for (int k = 0; k < kVec && c + k < C; ++k) {
      out[k] = __float2bfloat16_rn(__bfloat162float(te[k]) + __bfloat162float(pe[k]));
    }
  }
}

/// kWidth neighbouring elements as floats: 8 in one access, or 1.
template <int kWidth>
__device__ __forceinline__ void load_floats(const bf16* p, float (&f)[kWidth]) {
  if constexpr (kWidth == kVec) {
    unpack(load8(p), f);
  } else {
    f[0] = __bfloat162float(*p);
  }
}

/// dwpe[t] += sum over sequences b, ascending, of dx[b T + t].
template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    position_backward_kernel(const bf16* __restrict__ dx, float* __restrict__ dwpe, int B,
                             std::int64_t TC) {
  const std::int64_t at = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kWidth;
  if (at >= TC) return;
  float sum[kWidth] = {};
#pragma unroll 8
  for (int b = 0; b < B; ++b) {
    float f[kWidth];
    load_floats<kWidth>(dx + b * TC + at, f);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) sum[k] += f[k];
  }
#pragma unroll
  for (int k = 0; k < kWidth; ++k) dwpe[at + k] += sum[k];
}

__global__ void iota_kernel(const std::int32_t* __restrict__ tokens, std::uint32_t* keys,
                            std::int32_t* places, std::int64_t rows) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= rows) return;
  keys[i] = static_cast<std::uint32_t>(tokens[i]);
  places[i] = static_cast<std::int32_t>(i);
}

/// Step 1. partial[chunk, 0] is the run that came in from the chunk before, [chunk, 1] the run that
/// goes out to the next one having begun here. A thread takes kWidth neighbouring channels; rows
/// are loaded kAhead at a time, since where a row belongs does not depend on its values.
template <int kWidth>
__global__ void __launch_bounds__(kRunThreads)
    run_sums_kernel(const std::uint32_t* __restrict__ keys, const std::int32_t* __restrict__ places,
                    const bf16* __restrict__ dx, float* __restrict__ dwte,
                    float* __restrict__ partial, std::int64_t rows, int C) {
  __shared__ std::uint32_t key[kChunk + 2];  // [0] the key before the chunk, [count + 1] after
  __shared__ std::int32_t place[kChunk];
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kChunk;
  const int count = static_cast<int>(min(static_cast<std::int64_t>(kChunk), rows - first));
  if (threadIdx.x < kChunk + 2) {
    const std::int64_t at = first + threadIdx.x - 1;
    key[threadIdx.x] = at >= 0 && at < rows ? keys[at] : ~0u;
  }
  if (threadIdx.x < kChunk) place[threadIdx.x] = places[min(first + threadIdx.x, rows - 1)];
  __syncthreads();
  for (int c = threadIdx.x * kWidth; c < C; c += kRunThreads * kWidth) {
    float sum[kWidth] = {};
    bool from_before = key[1] == key[0];
    for (int start = 0; start < count; start += kAhead) {
      float row[kAhead][kWidth];
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        load_floats<kWidth>(dx + static_cast<std::int64_t>(place[start + j]) * C + c, row[j]);
      }
#pragma unroll
      for (int j = 0; j < kAhead; ++j) {
        const int i = start + j;
        if (i >= count) break;
#pragma unroll
        for (int k = 0; k < kWidth; ++k) sum[k] += row[j][k];
        const bool goes_on = key[i + 2] == key[i + 1];
        if (goes_on && i + 1 < count) continue;
        const bool whole = !from_before && !goes_on;
        float* out =
            whole ? dwte + static_cast<std::int64_t>(key[i + 1]) * C + c
                  : partial +
                        (static_cast<std::int64_t>(blockIdx.x) * 2 + (from_before ? 0 : 1)) * C + c;
#pragma unroll
        for (int k = 0; k < kWidth; ++k) {
          out[k] = sum[k] + (whole ? out[k] : 0.0f);
          sum[k] = 0;
        }
        from_before = false;
      }
    }
  }
}

/// Step 2. Only the chunk in which a crossing run begins works.
__global__ void __launch_bounds__(kThreads)
    crossing_runs_kernel(const std::uint32_t* __restrict__ keys, const float* __restrict__ partial,
                         float* __restrict__ dwte, std::int64_t rows, int C) {
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kChunk;
  const std::int64_t next = first + kChunk;
  if (next >= rows) return;
  const std::uint32_t mine = keys[next - 1];
  if (keys[next] != mine) return;                    // no run goes out
  if (first > 0 && keys[first - 1] == mine) return;  // it fills the chunk and began before it
  for (int c = threadIdx.x; c < C; c += kThreads) {
    float sum = partial[(static_cast<std::int64_t>(blockIdx.x) * 2 + 1) * C + c];
    for (std::int64_t chunk = blockIdx.x + 1; chunk * kChunk < rows && keys[chunk * kChunk] == mine;
         ++chunk) {
      sum += partial[chunk * 2 * C + c];
    }
    dwte[static_cast<std::int64_t>(mine) * C + c] += sum;
  }
}

/// The parts of the scratch, each on a 256-byte border.
struct Scratch {
  std::uint32_t *keys_in, *keys_out;
  std::int32_t *places_in, *places_out;
  float* partial;
  void* sort;
  std::size_t sort_bytes;
  std::size_t total_bytes;
};

Scratch lay_out(void* base, std::int64_t rows, int C) {
  Scratch s{};
  std::size_t used = 0;
  const auto take = [&](std::size_t bytes) {
    void* at = static_cast<std::byte*>(base) + used;
    used += ceil_div(bytes, std::size_t{256}) * 256;
    return at;
  };
  const std::size_t n = static_cast<std::size_t>(rows);
  s.keys_in = static_cast<std::uint32_t*>(take(n * 4));
  s.keys_out = static_cast<std::uint32_t*>(take(n * 4));
  s.places_in = static_cast<std::int32_t*>(take(n * 4));
  s.places_out = static_cast<std::int32_t*>(take(n * 4));
  s.partial = static_cast<float*>(take(ceil_div(n, std::size_t{kChunk}) * 2 * C * sizeof(float)));
  // An upper bound of what cub asks for (alternate buffers and histograms), tested at each call, so
  // that the size is known without a device.
  s.sort_bytes = 16 * n + (std::size_t{2} << 20);
  s.sort = take(s.sort_bytes);
  s.total_bytes = used;
  return s;
}

}  // namespace

void embedding_forward(cudaStream_t stream, const std::int32_t* tokens, const bf16* wte,
                       const bf16* wpe, bf16* x, std::int64_t rows, int T, int C) {
  const std::int64_t blocks = ceil_div(rows * ceil_div(C, kVec), kThreads);
  forward_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(tokens, wte, wpe, x, rows,
                                                                         T, C);
  PIPEMARK_LAUNCH_CHECK();
}

std::size_t embedding_backward_scratch_bytes(std::int64_t rows, int C) {
  return lay_out(nullptr, rows, C).total_bytes;
}

void embedding_backward(cudaStream_t stream, const std::int32_t* tokens, const bf16* dx,
                        float* dwte, float* dwpe, std::int64_t rows, int T, int C,
                        std::int64_t vocabulary, void* scratch, std::size_t scratch_bytes) {
  const Scratch s = lay_out(scratch, rows, C);
  check(s.total_bytes <= scratch_bytes, "embedding_backward: {} bytes of scratch, {} needed",
        scratch_bytes, s.total_bytes);
  const auto grid = [](std::int64_t n) { return static_cast<unsigned>(ceil_div(n, kThreads)); };
  iota_kernel<<<grid(rows), kThreads, 0, stream>>>(tokens, s.keys_in, s.places_in, rows);
  PIPEMARK_LAUNCH_CHECK();
  const int key_bits = std::bit_width(static_cast<std::uint64_t>(vocabulary));
  std::size_t needed = 0;
  const int n = static_cast<int>(rows);
  PIPEMARK_CUDA(cub::DeviceRadixSort::SortPairs(nullptr, needed, s.keys_in, s.keys_out, s.places_in,
                                                s.places_out, n, 0, key_bits, stream));
  check(needed <= s.sort_bytes, "embedding_backward: the sort asks for {} bytes of {}", needed,
        s.sort_bytes);
  PIPEMARK_CUDA(cub::DeviceRadixSort::SortPairs(s.sort, needed, s.keys_in, s.keys_out, s.places_in,
                                                s.places_out, n, 0, key_bits, stream));
  const unsigned chunks = static_cast<unsigned>(ceil_div(rows, kChunk));
  const bool vectors = C % kVec == 0;
  auto* run_sums = vectors ? run_sums_kernel<kVec> : run_sums_kernel<1>;
  run_sums<<<chunks, kRunThreads, 0, stream>>>(s.keys_out, s.places_out, dx, dwte, s.partial, rows,
                                               C);
  PIPEMARK_LAUNCH_CHECK();
  crossing_runs_kernel<<<chunks, kThreads, 0, stream>>>(s.keys_out, s.partial, dwte, rows, C);
  PIPEMARK_LAUNCH_CHECK();
  const std::int64_t TC = static_cast<std::int64_t>(T) * C;
  auto* positions = vectors ? position_backward_kernel<kVec> : position_backward_kernel<1>;
  positions<<<grid(vectors ? TC / kVec : TC), kThreads, 0, stream>>>(
      dx, dwpe, static_cast<int>(rows / T), TC);
  PIPEMARK_LAUNCH_CHECK();
}

}  // namespace pipemark::cuda
