// Ops' grouped linear layers, group by group through the single ones: right on every backend. A
// group without rows is left out.
#include "kernels/ops.hpp"

namespace pipemark {

namespace {

/// f(linear shape, first row, first element of the weight) of each group that has rows.
template <class F>
void for_groups(const GroupedShape& s, F&& f) {
  check(!s.offsets.empty(), "a grouped call without offsets");
  for (std::size_t g = 0; g + 1 < s.offsets.size(); ++g) {
    const std::int64_t rows = s.offsets[g + 1] - s.offsets[g];
    check(rows >= 0, "grouped: group {} has {} rows", g, rows);
    if (rows > 0) {
      f(LinearShape{rows, s.in, s.out, true}, s.offsets[g],
        static_cast<std::int64_t>(g) * s.stride);
    }
  }
}

Tensor rows_of(const Tensor& x, std::int64_t first, std::int64_t rows, int width) {
  return x.slice(first * width, rows * width);
}

Tensor matrix_of(const Tensor& w, std::int64_t at, const LinearShape& s) {
  return w.slice(at, std::int64_t{s.in} * s.out);
}

}  // namespace

void Ops::grouped_linear_forward(Stream stream, GroupedShape s, Tensor x, Tensor w, Tensor b,
                                 Tensor y) {
  for_groups(s, [&](const LinearShape& one, std::int64_t row, std::int64_t at) {
    linear_forward(stream, one, rows_of(x, row, one.rows, s.in), matrix_of(w, at, one),
                   b.slice(at, s.out), rows_of(y, row, one.rows, s.out));
  });
}

void Ops::grouped_linear_gelu_forward(Stream stream, GroupedShape s, Tensor x, Tensor w, Tensor b,
                                      Tensor pre, Tensor y) {
  for_groups(s, [&](const LinearShape& one, std::int64_t row, std::int64_t at) {
    linear_gelu_forward(stream, one, rows_of(x, row, one.rows, s.in), matrix_of(w, at, one),
                        b.slice(at, s.out), rows_of(pre, row, one.rows, s.out),
                        rows_of(y, row, one.rows, s.out));
  });
}

void Ops::grouped_linear_backward_input(Stream stream, GroupedShape s, Tensor dy, Tensor w,
                                        Tensor dx) {
  for_groups(s, [&](const LinearShape& one, std::int64_t row, std::int64_t at) {
    linear_backward_input(stream, one, rows_of(dy, row, one.rows, s.out), matrix_of(w, at, one),
                          rows_of(dx, row, one.rows, s.in));
  });
}

void Ops::grouped_linear_gelu_backward_input(Stream stream, GroupedShape s, Tensor dy, Tensor w,
                                             Tensor pre, Tensor dpre) {
  for_groups(s, [&](const LinearShape& one, std::int64_t row, std::int64_t at) {
    linear_gelu_backward_input(stream, one, rows_of(dy, row, one.rows, s.out),
                               matrix_of(w, at, one), rows_of(pre, row, one.rows, s.in),
                               rows_of(dpre, row, one.rows, s.in));
  });
}

void Ops::grouped_linear_backward_weight(Stream stream, GroupedShape s, Tensor dy, Tensor x,
                                         Tensor dw, Tensor db) {
  for_groups(s, [&](const LinearShape& one, std::int64_t row, std::int64_t at) {
    linear_backward_weight(stream, one, rows_of(dy, row, one.rows, s.out),
                           rows_of(x, row, one.rows, s.in), matrix_of(dw, at, one),
                           db.slice(at, s.out));
  });
}

}  // namespace pipemark
