// Linear layers: products by gemm() in blocks of rows, bias and GELU applied to a block while it is
// still in the second cache. The blocks start at row 0, so a row's bits depend on its place in the
// micro-batch and the micro-batch's size only.
#include "kernels/kokkos/elementwise.hpp"
#include "kernels/kokkos/gelu.hpp"
#include "kernels/kokkos/gemm.hpp"
#include "kernels/kokkos/kokkos_ops.hpp"

namespace pipemark::kokkos {
namespace {

constexpr std::int64_t kLeastRows = 128;  // below, oneDNN loses a tenth and more
constexpr std::int64_t kWeightRowBlock = 512;

/// Rows of a block of outputs that takes half of a 1 MiB second cache.
constexpr std::int64_t row_block(int columns) {
  constexpr std::int64_t kBlockFloats = (std::int64_t{512} << 10) / sizeof(float);
  const std::int64_t rows = kBlockFloats / columns / 64 * 64;
  return rows < kLeastRows ? kLeastRows : rows;
}

void check_linear(const LinearShape& s, Tensor outer, Tensor inner, Tensor w) {
  check(outer.size >= s.rows * s.out && inner.size >= s.rows * s.in &&
            w.size >= std::int64_t{s.in} * s.out,
        "linear {} x {} -> {}: tensors of {}, {} and {} elements", s.rows, s.in, s.out, inner.size,
        outer.size, w.size);
}

template <int P>
KOKKOS_FORCEINLINE_FUNCTION void column_sums(const float* x, std::int64_t rows, std::int64_t stride,
                                             int columns, float* sums) {
  Pack totals[P];
  for (int p = 0; p < P; ++p) totals[p] = Pack{};
  const int last = columns - (P - 1) * kWidth;
  for (std::int64_t n = 0; n < rows; ++n) {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      totals[p] += load(x + n * stride + p * kWidth, p + 1 < P ? kWidth : last);
    }
  }
  for (int p = 0; p < P; ++p) {
    const int k = p + 1 < P ? kWidth : last;
    store(sums + p * kWidth, load(sums + p * kWidth, k) + totals[p], k);
  }
}

}  // namespace

void add_column_sums(const std::string& label, const float* x, std::int64_t rows, int columns,
                     std::int64_t stride, float* sums) {
  for_column_tiles(
      label, columns, KOKKOS_LAMBDA(int begin, int count) {
        if (count == kColumnTile) {
          column_sums<kColumnPacks>(x + begin, rows, stride, count, sums + begin);
        } else {
          for_packs(count, [&](int c, int k) {
            column_sums<1>(x + begin + c, rows, stride, k, sums + begin + c);
          });
        }
      });
}

void KokkosOps::linear_forward(Stream, LinearShape s, Tensor x, Tensor w, Tensor b, Tensor y) {
  static const std::string label = "linear/bias";
  check_linear(s, y, x, w);
  const float* bias = b ? b.f32() : nullptr;
  const int out = s.out;
  for_row_blocks(s.rows, row_block(s.out), [&](std::int64_t n, std::int64_t rows) {
    float* block = y.f32() + n * out;
    gemm(false, true, rows, out, s.in, x.f32() + n * s.in, s.in, w.f32(), s.in, 0, block, out);
    if (bias == nullptr) return;
    launch(
        label, rows, KOKKOS_LAMBDA(std::int64_t r) {
          float* row = block + r * out;
          for_packs(out,
                    [&](int c, int k) { store(row + c, load(row + c, k) + load(bias + c, k), k); });
        });
  });
}

void KokkosOps::linear_gelu_forward(Stream, LinearShape s, Tensor x, Tensor w, Tensor b, Tensor pre,
                                    Tensor y) {
  static const std::string label = "linear/bias_gelu";
  check_linear(s, pre, x, w);
  check(y.size >= s.rows * s.out, "linear_gelu: y has {} elements", y.size);
  const float* bias = b ? b.f32() : nullptr;
  const int out = s.out;
  for_row_blocks(s.rows, row_block(s.out), [&](std::int64_t n, std::int64_t rows) {
    float* block = pre.f32() + n * out;
    float* result = y.f32() + n * out;
    gemm(false, true, rows, out, s.in, x.f32() + n * s.in, s.in, w.f32(), s.in, 0, block, out);
    launch(
        label, rows, KOKKOS_LAMBDA(std::int64_t r) {
          float* row = block + r * out;
          for_packs(out, [&](int c, int k) {
            Pack value = load(row + c, k);
            if (bias != nullptr) value += load(bias + c, k);
            store(row + c, value, k);
            store(result + r * out + c, gelu(value), k);
          });
        });
  });
}

void KokkosOps::linear_backward_input(Stream, LinearShape s, Tensor dy, Tensor w, Tensor dx) {
  check_linear(s, dy, dx, w);
  gemm(false, false, s.rows, s.in, s.out, dy.f32(), s.out, w.f32(), s.in, 0, dx.f32(), s.in);
}

void KokkosOps::linear_gelu_backward_input(Stream, LinearShape s, Tensor dy, Tensor w, Tensor pre,
                                           Tensor dpre, Tensor db, bool accumulate) {
  static const std::string label = "linear/gelu_backward";
  static const std::string bias_label = "linear/gelu_backward_bias";
  check_linear(s, dy, dpre, w);
  if (db && !accumulate) device_.fill_zero({}, db.data, db.bytes());
  check(pre.size >= s.rows * s.in, "linear_gelu backward: pre has {} elements", pre.size);
  for_row_blocks(s.rows, row_block(s.in), [&](std::int64_t n, std::int64_t rows) {
    float* block = dpre.f32() + n * s.in;
    const float* before = pre.f32() + n * s.in;
    gemm(false, false, rows, s.in, s.out, dy.f32() + n * s.out, s.out, w.f32(), s.in, 0, block,
         s.in);
    for_each_pack(
        label, rows * s.in, KOKKOS_LAMBDA(std::int64_t i, int k) {
          store(block + i, load(block + i, k) * gelu_derivative(load(before + i, k)), k);
        });
    if (db) add_column_sums(bias_label, block, rows, s.in, s.in, db.f32());
  });
}

void KokkosOps::linear_backward_weight(Stream, LinearShape s, Tensor dy, Tensor x, Tensor dw,
                                       Tensor db, bool accumulate) {
  static const std::string label = "linear/backward_bias";
  check_linear(s, dy, x, dw);
  if (db && !accumulate) device_.fill_zero({}, db.data, db.bytes());
  for_row_blocks(s.rows, kWeightRowBlock, [&](std::int64_t n, std::int64_t rows) {
    const float* block = dy.f32() + n * s.out;
    if (db) add_column_sums(label, block, rows, s.out, s.out, db.f32());
    const float beta = accumulate || n > 0 ? 1 : 0;
    gemm(true, false, s.out, s.in, rows, block, s.out, x.f32() + n * s.in, s.in, beta, dw.f32(),
         s.in);
  });
}

}  // namespace pipemark::kokkos
