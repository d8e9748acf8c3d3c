// Matrix products. gemm() is the large one, oneDNN's on the host; tile() is a register block for
// the small products inside attention, where oneDNN's call and packing would cost more than the
// work.
#pragma once

#include "kernels/kokkos/pack.hpp"

namespace pipemark::kokkos {

/// C[m, n] = op(A) op(B) + beta C, row-major, op the transpose where its flag is set; lda, ldb, ldc
/// are row strides of the stored matrices. One thread. The bits of the result depend on the shape
/// alone.
void gemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
          const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
          std::int64_t ldc);

/// c[R, P kWidth] = (or += where `add`) sum over `k` of a[r a_row + k a_step] b[k b_row + ...].
/// With R x P = 8 x 2 the sixteen sums hide the latency of a multiply-add and a step's ten loads
/// its sixteen multiply-adds.
template <int R, int P>
KOKKOS_FORCEINLINE_FUNCTION void tile(const float* a, std::int64_t a_row, std::int64_t a_step,
                                      const float* b, std::int64_t b_row, int k, float* c,
                                      std::int64_t c_row, bool add) {
  Pack sums[R][P];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) sums[r][p] = add ? load(c + r * c_row + p * kWidth) : Pack{};
  }
  for (int i = 0; i < k; ++i) {
    Pack right[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) right[p] = load(b + i * b_row + p * kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Pack left = splat(a[r * a_row + i * a_step]);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) sums[r][p] += left * right[p];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) store(c + r * c_row + p * kWidth, sums[r][p]);
  }
}

/// tile() over `packs` packs of columns.
template <int R>
KOKKOS_INLINE_FUNCTION void tile_row(const float* a, std::int64_t a_row, std::int64_t a_step,
                                     const float* b, std::int64_t b_row, int k, float* c,
                                     std::int64_t c_row, int packs, bool add) {
  int p = 0;
  for (; p + 2 <= packs; p += 2) {
    tile<R, 2>(a, a_row, a_step, b + p * kWidth, b_row, k, c + p * kWidth, c_row, add);
  }
  if (p < packs) tile<R, 1>(a, a_row, a_step, b + p * kWidth, b_row, k, c + p * kWidth, c_row, add);
}

}  // namespace pipemark::kokkos
