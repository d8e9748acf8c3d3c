// Both ways of a large product against sums in double, at sizes on either side of every block, for
// all transposes and finishes; the bound is k eps sum |a b|, and a wrong element breaks it.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/kokkos/gemm.hpp"
#include "kernels/kokkos/runtime.hpp"

namespace pipemark::kokkos {
namespace {

std::vector<float> numbers(std::int64_t count, unsigned seed) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<float>(seed >> 8) / float{1 << 23} - 1;
  }
  return values;
}

struct Case {
  std::int64_t m, n, k;
  bool transpose_a, transpose_b;
  Finish::Kind kind;
};

void by_tiles(const Case& p, const Operand& a, const Operand& b, const Finish& finish, float* c,
              std::int64_t stride) {
  static std::vector<float> scratch(kTileScratch);
  product_by_tiles(p.m, p.n, p.k, a, b, finish, c, stride, {scratch.data(), kTileScratch});
}
void by_dnnl(const Case& p, const Operand& a, const Operand& b, const Finish& finish, float* c,
             std::int64_t stride) {
  product_by_dnnl(p.m, p.n, p.k, a, b, finish, c, stride);
}

double gelu_of(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
double gelu_slope_of(double x) {
  const double h = 1e-5;
  return (gelu_of(x + h) - gelu_of(x - h)) / (2 * h);
}

/// The largest error in units of the bound, and the elements of a row beyond n that were changed.
template <class Product>
double worst_error(const Case& p, const Product& run, double perturbation = 0) {
  const std::int64_t a_stride = (p.transpose_a ? p.m : p.k) + 3, c_stride = p.n + 5;
  const std::int64_t b_stride = (p.transpose_b ? p.k : p.n) + 1;
  const auto a = numbers((p.transpose_a ? p.k : p.m) * a_stride, 1);
  const auto b = numbers((p.transpose_b ? p.n : p.k) * b_stride, 2);
  const auto bias = numbers(p.n, 3), old = numbers(p.m * c_stride, 4);
  const auto before = numbers(p.m * c_stride, 5);
  std::vector<float> c = old, gelus(old.size());
  const Finish finish{p.kind, bias.data(), gelus.data(), before.data()};
  run(p, Operand{a.data(), a_stride, p.transpose_a}, Operand{b.data(), b_stride, p.transpose_b},
      finish, c.data(), c_stride);
  c[static_cast<std::size_t>((p.m - 1) * c_stride + p.n - 1)] += static_cast<float>(perturbation);

  constexpr double kEpsilon = std::numeric_limits<float>::epsilon();
  double worst = 0;
  for (std::int64_t i = 0; i < p.m; ++i) {
    for (std::int64_t j = 0; j < c_stride; ++j) {
      const auto at = static_cast<std::size_t>(i * c_stride + j);
      if (j >= p.n) {
        EXPECT_EQ(c[at], old[at]) << "beyond the row's end: " << i << ", " << j;
        continue;
      }
      double sum = 0, size = 0;
      for (std::int64_t x = 0; x < p.k; ++x) {
        const double term =
            double{
                a[static_cast<std::size_t>(p.transpose_a ? x * a_stride + i : i * a_stride + x)]} *
            b[static_cast<std::size_t>(p.transpose_b ? j * b_stride + x : x * b_stride + j)];
        sum += term;
        size += std::abs(term);
      }
      if (p.kind == Finish::Kind::add) sum += old[at];
      if (p.kind == Finish::Kind::bias || p.kind == Finish::Kind::bias_gelu) {
        sum += bias[static_cast<std::size_t>(j)];
      }
      // Slopes of gelu are below 1.2; 8 covers gelu's and its slope's own rounding.
      const double bound =
          1.2 * kEpsilon * (static_cast<double>(p.k) * size + 8 * (1 + std::abs(sum)));
      if (p.kind == Finish::Kind::bias_gelu) {
        worst = std::max(worst, std::abs(gelus[at] - gelu_of(sum)) / bound);
      }
      if (p.kind == Finish::Kind::gelu_slope) sum *= gelu_slope_of(before[at]);
      worst = std::max(worst, std::abs(c[at] - sum) / bound);
    }
  }
  return worst;
}

std::vector<Case> cases() {
  const std::int64_t sizes[][3] = {{1, 1, 1},    {6, 16, 8},     {7, 17, 9},     {64, 100, 31},
                                   {193, 33, 5}, {200, 40, 257}, {13, 1030, 20}, {400, 18, 300}};
  std::vector<Case> list;
  for (const auto& size : sizes) {
    for (const bool transpose_a : {false, true}) {
      for (const bool transpose_b : {false, true}) {
        for (const auto kind : {Finish::Kind::write, Finish::Kind::add}) {
          list.push_back({size[0], size[1], size[2], transpose_a, transpose_b, kind});
        }
      }
    }
    for (const auto kind :
         {Finish::Kind::bias, Finish::Kind::bias_gelu, Finish::Kind::gelu_slope}) {
      list.push_back({size[0], size[1], size[2], false, kind != Finish::Kind::gelu_slope, kind});
    }
  }
  return list;
}

std::string words(const Case& p) {
  return std::to_string(p.m) + " x " + std::to_string(p.n) + " x " + std::to_string(p.k) +
         (p.transpose_a ? " A^T" : "") + (p.transpose_b ? " B^T" : "") + " finish " +
         std::to_string(static_cast<int>(p.kind));
}

TEST(Product, TilesEqualSumsInDouble) {
  for (const Case& p : cases()) EXPECT_LE(worst_error(p, by_tiles), 1) << words(p);
}

TEST(Product, OneDnnEqualsSumsInDouble) {
  start();
  for (const Case& p : cases()) EXPECT_LE(worst_error(p, by_dnnl), 1) << words(p);
}

TEST(Product, AWrongElementBreaksTheBound) {
  for (const Case& p : cases()) EXPECT_GT(worst_error(p, by_tiles, 0.05), 1) << words(p);
}

TEST(Product, TooSmallAWorkspaceIsRefused) {
  float a = 1, b = 1, c = 0;
  EXPECT_THROW(product_by_tiles(1, 1, 1, {&a, 1}, {&b, 1}, {}, &c, 1, {}), LogicError);
}

}  // namespace
}  // namespace pipemark::kokkos
