// Floating-point operations and bytes of each operation, as code: what its contract in
// kernels/ops.hpp states. A multiply-add counts as 2; a transcendental function as 1, so that
// GFLOP/s of elementwise operations are only a lower bound and GB/s is their figure. Bytes are the
// least traffic: every tensor once from and to memory, gradients that are added to twice, tables by
// the rows that are touched.
//
// `act` is the size of an activation in bytes; statistics, losses and gradients of weights are
// fp32.
#pragma once

#include <cstdint>

#include "kernels/ops.hpp"

namespace pipemark::op_cost {

struct OpCost {
  double flops = 0;
  double bytes = 0;
};

inline constexpr double kFp32 = 4;
inline constexpr double kToken = 4;

inline OpCost embedding_forward(std::int64_t rows, int channels, double act) {
  const double size = double(rows) * channels;
  return {size, 3 * size * act + rows * kToken};
}
/// dwte and dwpe are read and written for each row.
inline OpCost embedding_backward(std::int64_t rows, int channels, double act) {
  const double size = double(rows) * channels;
  return {2 * size, size * (act + 4 * kFp32) + rows * kToken};
}

/// Sum; difference, square, sum; difference, two products, sum.
inline OpCost layer_norm_forward(std::int64_t rows, int channels, double act) {
  const double size = double(rows) * channels;
  return {8 * size, 2 * size * act + 2 * channels * act + 2 * rows * kFp32};
}
inline OpCost residual_layer_norm_forward(std::int64_t rows, int channels, double act) {
  const double size = double(rows) * channels;
  return {9 * size, 4 * size * act + 2 * channels * act + 2 * rows * kFp32};
}
/// hat, g, two sums for dx and two for dw, db; with dresidual read.
inline OpCost layer_norm_backward(std::int64_t rows, int channels, double act) {
  const double size = double(rows) * channels;
  return {15 * size, 4 * size * act + channels * (act + 4 * kFp32) + 2 * rows * kFp32};
}

inline double linear_flops(const LinearShape& s) { return 2.0 * s.rows * s.in * s.out; }
inline OpCost linear_forward(const LinearShape& s, double act) {
  return {linear_flops(s) + double(s.rows) * s.out,
          act * (double(s.rows) * (s.in + s.out) + double(s.in) * s.out + s.out)};
}
inline OpCost gelu_forward(std::int64_t count, double act) {
  return {9.0 * count, 2 * count * act};
}
inline OpCost gelu_backward(std::int64_t count, double act) {
  return {16.0 * count, 3 * count * act};
}
/// pre is written, and y.
inline OpCost linear_gelu_forward(const LinearShape& s, double act) {
  const double size = double(s.rows) * s.out;
  const OpCost linear = linear_forward(s, act);
  return {linear.flops + gelu_forward(s.rows * s.out, act).flops, linear.bytes + size * act};
}
inline OpCost linear_backward_input(const LinearShape& s, double act) {
  return {linear_flops(s), act * (double(s.rows) * (s.in + s.out) + double(s.in) * s.out)};
}
/// pre is read.
inline OpCost linear_gelu_backward_input(const LinearShape& s, double act) {
  const double size = double(s.rows) * s.in;
  const OpCost linear = linear_backward_input(s, act);
  return {linear.flops + gelu_backward(s.rows * s.in, act).flops, linear.bytes + size * act};
}
inline OpCost linear_backward_weight(const LinearShape& s, double act) {
  return {linear_flops(s) + double(s.rows) * s.out,
          act * double(s.rows) * (s.in + s.out) + 2 * kFp32 * (double(s.in) * s.out + s.out)};
}

inline OpCost residual_forward(std::int64_t count, double act) {
  return {double(count), 3 * count * act};
}

/// Causal half of 4 B T T C: q k^T and P v.
inline OpCost attention_forward(const AttentionShape& s, double act) {
  const double rows = double(s.batch) * s.tokens;
  return {2 * rows * s.tokens * s.channels, act * rows * 4 * s.channels + kFp32 * rows * s.heads};
}
/// Causal half of 10 B T T C: scores again, dP, dq, dk, dv.
inline OpCost attention_backward(const AttentionShape& s, double act) {
  const double rows = double(s.batch) * s.tokens;
  return {5 * rows * s.tokens * s.channels, act * rows * 8 * s.channels + kFp32 * rows * s.heads};
}

inline OpCost softmax_cross_entropy(std::int64_t rows, int vocabulary_padded, double act) {
  const double size = double(rows) * vocabulary_padded;
  return {5 * size, 2 * size * act + rows * (kToken + kFp32)};
}
/// Softmax, and a pass over E for each of the k choices.
inline OpCost router_forward(const RouterShape& s, double act) {
  const double size = double(s.rows) * s.experts, chosen = double(s.rows) * s.top_k;
  return {5 * size + chosen * s.experts,
          size * (act + kFp32) + s.experts * kFp32 + 2 * chosen * kFp32};
}
inline OpCost router_backward(const RouterShape& s, double act) {
  const double size = double(s.rows) * s.experts, chosen = double(s.rows) * s.top_k;
  return {6 * size, size * (act + kFp32) + 3 * chosen * kFp32};
}
inline OpCost gather_rows(std::int64_t count, int channels, double act) {
  return {0, 2.0 * count * channels * act + count * kToken};
}
inline OpCost combine_rows(std::int64_t rows, int top_k, int channels, double act) {
  const double size = double(rows) * channels, chosen = double(rows) * top_k;
  return {2 * size * top_k, size * (top_k + 1) * act + chosen * (kToken + kFp32)};
}
inline OpCost combine_rows_backward(std::int64_t rows, int top_k, int channels, double act) {
  const double size = double(rows) * channels, chosen = double(rows) * top_k;
  return {3 * size * top_k, size * (2 * top_k + 1) * act + chosen * (kToken + 2 * kFp32)};
}

inline OpCost add_scaled_sum(std::int64_t count) {
  return {double(count), count * kFp32 + 2 * kFp32};
}
inline OpCost squared_norms(std::int64_t count) { return {2.0 * count, count * kFp32}; }
/// master, m, v read and written, the gradient read; the working copy written where it is apart.
inline OpCost adamw(std::int64_t count, double act) {
  return {14.0 * count, count * (7 * kFp32 + (act == kFp32 ? 0 : act))};
}
inline OpCost accumulate(std::int64_t count) { return {double(count), 3 * count * kFp32}; }
inline OpCost convert(std::int64_t count, double act) { return {0, count * (kFp32 + act)}; }

}  // namespace pipemark::op_cost
