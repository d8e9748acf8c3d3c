// Matrix products. product() is the large one; tile() is a register block for the small products
// inside attention, where a call and its packing would cost more than the work.
#pragma once

#include "kernels/kokkos/gelu.hpp"
#include "kernels/kokkos/pack.hpp"
#include "kernels/tensor.hpp"

namespace pipemark::kokkos {

/// A matrix as it is stored, row-major, rows `stride` apart; used as its transpose where flagged.
struct Operand {
  const float* data = nullptr;
  std::int64_t stride = 0;
  bool transposed = false;
};

/// What becomes of an element c of the product [m, n] when its sum s is complete. Matrices here
/// have the product's shape and stride.
struct Finish {
  enum class Kind {
    write,       ///< c = s
    add,         ///< c += s
    bias,        ///< c = s + bias[column]
    bias_gelu,   ///< c = s + bias[column], gelu = gelu(c)
    gelu_slope,  ///< c = s gelu'(before)
  };
  Kind kind = Kind::write;
  const float* bias = nullptr;  ///< none: zeros
  float* gelu = nullptr;
  const float* before = nullptr;
};

/// C[m, n] = op(A) op(B) with op(A) [m, k], op(B) [k, n], each element finished. One thread. The
/// bits of an element depend on the shape alone.
void product(std::int64_t m, std::int64_t n, std::int64_t k, Operand a, Operand b,
             const Finish& finish, float* c, std::int64_t c_stride, Tensor workspace);

inline constexpr std::int64_t kTileScratch = 256 * (1024 + 198) + 6 * 2 * kWidth;
inline constexpr std::int64_t kProductScratch = kWidth == 8 ? kTileScratch : 0;

/// The two ways of product(): own register tiles where a Pack has 8 lanes (AVX2), else oneDNN,
/// which is within 5 % of the roof with AVX-512 and between 36 and 85 % of it, by shape, with AVX2
/// (2.6).
void product_by_tiles(std::int64_t m, std::int64_t n, std::int64_t k, Operand a, Operand b,
                      const Finish& finish, float* c, std::int64_t c_stride, Tensor workspace);
void product_by_dnnl(std::int64_t m, std::int64_t n, std::int64_t k, Operand a, Operand b,
                     const Finish& finish, float* c, std::int64_t c_stride);

template <Finish::Kind kKind>
KOKKOS_FORCEINLINE_FUNCTION void finish_row(const Finish& finish, const float* sums, bool partial,
                                            std::int64_t at, int column, int columns, float* c) {
  for_packs(columns, [&](int j, int count) {
    Pack value = load(sums + j, count);
    if (partial || kKind == Finish::Kind::add) value += load(c + at + j, count);
    if constexpr (kKind == Finish::Kind::bias || kKind == Finish::Kind::bias_gelu) {
      if (finish.bias != nullptr) value += load(finish.bias + column + j, count);
    }
    if constexpr (kKind == Finish::Kind::bias_gelu) {
      store(finish.gelu + at + j, gelu(value), count);
    }
    if constexpr (kKind == Finish::Kind::gelu_slope) {
      value *= gelu_derivative(load(finish.before + at + j, count));
    }
    store(c + at + j, value, count);
  });
}

/// Finishes rows[rows, columns] of sums, rows `sums_stride` apart, that belong at c[at] in column
/// `column`; adds what c holds of the sum where `partial`.
KOKKOS_INLINE_FUNCTION void finish_rows(const Finish& finish, const float* sums,
                                        std::int64_t sums_stride, bool partial, int rows,
                                        std::int64_t at, int column, int columns, float* c,
                                        std::int64_t c_stride) {
  for (int r = 0; r < rows; ++r, sums += sums_stride, at += c_stride) {
    switch (finish.kind) {
#define PIPEMARK_FINISH(KIND)                                                      \
  case Finish::Kind::KIND:                                                         \
    finish_row<Finish::Kind::KIND>(finish, sums, partial, at, column, columns, c); \
    break;
      PIPEMARK_FINISH(write)
      PIPEMARK_FINISH(add)
      PIPEMARK_FINISH(bias)
      PIPEMARK_FINISH(bias_gelu)
      PIPEMARK_FINISH(gelu_slope)
#undef PIPEMARK_FINISH
    }
  }
}

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
