// Tensor-core building blocks of the own attention kernels: bf16 16x8x16 products of a warp, with
// operands brought by ldmatrix from tiles in shared memory. A tile is [kRows][D] with 8 elements of
// padding a row, so that the eight rows of an 8x8 matrix lie in different banks.
//
// Fragments (PTX ISA, mma.m16n8k16): lane = 4 g + t holds of the accumulator c[0..1] row g and
// c[2..3] row g + 8, columns 2t and 2t + 1. Two neighbouring accumulators, rounded to bf16, are
// just the A operand of the next product over their 16 columns, so P never leaves registers.
#pragma once

#include "kernels/cuda/vec.cuh"

namespace pipemark::cuda {

constexpr int kMmaRows = 16;  // of a warp
constexpr int kPad = 8;

struct FragmentA {
  unsigned x[4];
};
struct FragmentB2 {  // two neighbouring 16x8 operands
  unsigned x[4];
};

__device__ __forceinline__ void ldmatrix(unsigned (&x)[4], const bf16* row) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address));
}
__device__ __forceinline__ void ldmatrix_transposed(unsigned (&x)[4], const bf16* row) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address));
}

/// A[16, 16] = tile[row.., column..].
template <int D>
__device__ __forceinline__ FragmentA load_a(const bf16* tile, int row, int column) {
  const int lane = threadIdx.x % kWarp;
  FragmentA a;
  ldmatrix(a.x, tile + (row + lane % 16) * (D + kPad) + column + lane / 16 * 8);
  return a;
}
/// B[k, n] = tile[n, k] for n in row..row + 16, k in column..column + 16.
template <int D>
__device__ __forceinline__ FragmentB2 load_b_rows(const bf16* tile, int row, int column) {
  const int lane = threadIdx.x % kWarp;
  FragmentB2 b;
  ldmatrix(b.x, tile + (row + lane / 16 * 8 + lane % 8) * (D + kPad) + column + lane / 8 % 2 * 8);
  return b;
}
/// B[k, n] = tile[k, n] for k in row..row + 16, n in column..column + 16.
template <int D>
__device__ __forceinline__ FragmentB2 load_b_columns(const bf16* tile, int row, int column) {
  const int lane = threadIdx.x % kWarp;
  FragmentB2 b;
  ldmatrix_transposed(
      b.x, tile + (row + lane / 8 % 2 * 8 + lane % 8) * (D + kPad) + column + lane / 16 * 8);
  return b;
}

__device__ __forceinline__ void mma(float (&c)[4], const FragmentA& a, unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b0), "r"(b1));
}

/// c[16, kN] += a[16, D] tile[kN, D]^T, a in fragments.
template <int D, int kN>
__device__ __forceinline__ void product_rows(float (&c)[kN / 8][4], const FragmentA (&a)[D / 16],
                                             const bf16* tile) {
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
#pragma unroll
    for (int n = 0; n < kN / 16; ++n) {
      const FragmentB2 b = load_b_rows<D>(tile, n * 16, k * 16);
      mma(c[2 * n], a[k], b.x[0], b.x[1]);
      mma(c[2 * n + 1], a[k], b.x[2], b.x[3]);
    }
  }
}

/// c[16, D] += p[16, kK] tile[kK, D], p an accumulator rounded to bf16.
template <int D, int kK>
__device__ __forceinline__ void product_columns(float (&c)[D / 8][4], const float (&p)[kK / 8][4],
                                                const bf16* tile) {
#pragma unroll
  for (int k = 0; k < kK / 16; ++k) {
    FragmentA a;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __nv_bfloat162 two =
          __floats2bfloat162_rn(p[2 * k + i / 2][i % 2 * 2], p[2 * k + i / 2][i % 2 * 2 + 1]);
      a.x[i] = reinterpret_cast<const unsigned&>(two);
    }
#pragma unroll
    for (int n = 0; n < D / 16; ++n) {
      const FragmentB2 b = load_b_columns<D>(tile, k * 16, n * 16);
      mma(c[2 * n], a, b.x[0], b.x[1]);
      mma(c[2 * n + 1], a, b.x[2], b.x[3]);
    }
  }
}

/// tile[kRows][D] = source rows first.. (stride elements apart), zero from `end` on.
template <int D, int kRows, int kThreads>
__device__ __forceinline__ void load_tile(bf16* tile, const bf16* source, std::int64_t stride,
                                          int first, int end) {
  constexpr int kVectors = D / kVec;
#pragma unroll
  for (int i = threadIdx.x; i < kRows * kVectors; i += kThreads) {
    const int row = i / kVectors;
    const int column = i % kVectors * kVec;
    Vec8 v{};
    if (first + row < end) v = load8(source + (first + row) * stride + column);
    store8(tile + row * (D + kPad) + column, v);
  }
}

}  // namespace pipemark::cuda
