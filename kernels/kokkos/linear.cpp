// Linear layers: products, with bias and GELU applied to sums that have not left the cache.
#include "kernels/kokkos/elementwise.hpp"
#include "kernels/kokkos/gemm.hpp"
#include "kernels/kokkos/kokkos_ops.hpp"

namespace pipemark::kokkos {
namespace {

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
  check_linear(s, y, x, w);
  const Finish finish{Finish::Kind::bias, b ? b.f32() : nullptr};
  product(s.rows, s.out, s.in, {x.f32(), s.in}, {w.f32(), s.in, true}, finish, y.f32(), s.out,
          workspace_);
}

void KokkosOps::linear_gelu_forward(Stream, LinearShape s, Tensor x, Tensor w, Tensor b, Tensor pre,
                                    Tensor y) {
  check_linear(s, pre, x, w);
  check(y.size >= s.rows * s.out, "linear_gelu: y has {} elements", y.size);
  const Finish finish{Finish::Kind::bias_gelu, b ? b.f32() : nullptr, y.f32()};
  product(s.rows, s.out, s.in, {x.f32(), s.in}, {w.f32(), s.in, true}, finish, pre.f32(), s.out,
          workspace_);
}

void KokkosOps::linear_backward_input(Stream, LinearShape s, Tensor dy, Tensor w, Tensor dx) {
  check_linear(s, dy, dx, w);
  product(s.rows, s.in, s.out, {dy.f32(), s.out}, {w.f32(), s.in}, {}, dx.f32(), s.in, workspace_);
}

void KokkosOps::linear_gelu_backward_input(Stream, LinearShape s, Tensor dy, Tensor w, Tensor pre,
                                           Tensor dpre, Tensor db, bool accumulate) {
  static const std::string bias_label = "linear/gelu_backward_bias";
  check_linear(s, dy, dpre, w);
  if (db && !accumulate) device_.fill_zero({}, db.data, db.bytes());
  check(pre.size >= s.rows * s.in, "linear_gelu backward: pre has {} elements", pre.size);
  const Finish finish{Finish::Kind::gelu_slope, nullptr, nullptr, pre.f32()};
  product(s.rows, s.in, s.out, {dy.f32(), s.out}, {w.f32(), s.in}, finish, dpre.f32(), s.in,
          workspace_);
  if (db) add_column_sums(bias_label, dpre.f32(), s.rows, s.in, s.in, db.f32());
}

void KokkosOps::linear_backward_weight(Stream, LinearShape s, Tensor dy, Tensor x, Tensor dw,
                                       Tensor db, bool accumulate) {
  static const std::string label = "linear/backward_bias";
  check_linear(s, dy, x, dw);
  if (db && !accumulate) device_.fill_zero({}, db.data, db.bytes());
  if (db) add_column_sums(label, dy.f32(), s.rows, s.out, s.out, db.f32());
  const Finish finish{accumulate ? Finish::Kind::add : Finish::Kind::write};
  product(s.out, s.in, s.rows, {dy.f32(), s.out, true}, {x.f32(), s.in}, finish, dw.f32(), s.in,
          workspace_);
}

}  // namespace pipemark::kokkos
