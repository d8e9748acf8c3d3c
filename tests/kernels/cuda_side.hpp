// Side: one backend under test with tensors made from host numbers, so that a test's body runs on
// the CUDA backend and on the reference alike. Numbers are rounded to bf16 where the backend holds
// bf16; tests draw inputs that are bf16 already, so both sides compute on equal inputs. Outputs
// begin as NaN. expect_close() states the bound:
//
//   |out - ref| <= roundings u (|ref| + rms(ref)),  u = 2^-8 (bf16) or 2^-24 sqrt(n) (fp32 sums of
//   n)
//
// `roundings` counts the roundings to bf16 on the way to the output, each of relative size u.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/arena.hpp"
#include "kernels/ops.hpp"

namespace pipemark::testing {

using Floats = std::vector<float>;

constexpr double kBf16Roundoff = 1.0 / 256;  // 8 bits of significand, to nearest
constexpr double kFp32Roundoff = 1.0 / (1 << 24);

inline std::uint16_t to_bf16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  if (std::isnan(x)) return 0x7fff;
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline float from_bf16(std::uint16_t x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x) << 16);
}

/// Normal numbers of standard deviation `scale`, rounded to bf16.
inline Floats draw(std::int64_t count, unsigned seed, float scale = 1.0f, float mean = 0.0f) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(mean, scale);
  Floats x(static_cast<std::size_t>(count));
  for (float& value : x) value = from_bf16(to_bf16(normal(engine)));
  return x;
}

inline std::vector<std::int32_t> draw_tokens(std::int64_t count, int vocabulary, unsigned seed) {
  std::mt19937 engine(seed);
  // Cubed, so that some tokens come often and some never.
  std::uniform_real_distribution<double> uniform(0.0, 1.0);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  for (std::int32_t& token : tokens) {
    token = static_cast<std::int32_t>(std::pow(uniform(engine), 3.0) * vocabulary);
  }
  return tokens;
}

class Side {
 public:
  explicit Side(Ops& ops, std::size_t bytes = std::size_t{1} << 30)
      : ops(ops),
        stream(ops.device().stream(StreamRole::compute)),
        arena_(ops.device(), MemoryKind::device, bytes) {}

  Ops& ops;
  Stream stream;

  Tensor act(const Floats& values) {
    Tensor tensor = arena_.take(size(values), ops.activation_dtype(), "act");
    upload(tensor, values);
    return tensor;
  }
  Tensor f32(const Floats& values) {
    Tensor tensor = arena_.take(size(values), DType::f32, "f32");
    upload(tensor, values);
    return tensor;
  }
  Tensor i32(const std::vector<std::int32_t>& values) {
    Tensor tensor = arena_.take(static_cast<std::int64_t>(values.size()), DType::i32, "i32");
    ops.device().copy(stream, tensor.data, values.data(), tensor.bytes());
    ops.device().synchronize(stream);
    return tensor;
  }
  /// Outputs, NaN until written.
  Tensor act_out(std::int64_t count) {
    return act(Floats(static_cast<std::size_t>(count), std::numeric_limits<float>::quiet_NaN()));
  }
  Tensor f32_out(std::int64_t count) {
    return f32(Floats(static_cast<std::size_t>(count), std::numeric_limits<float>::quiet_NaN()));
  }
  void workspace(const AttentionShape& shape, int vocabulary_padded) {
    const std::size_t bytes = ops.workspace_bytes(shape, vocabulary_padded);
    ops.set_workspace(
        arena_.take(static_cast<std::int64_t>(bytes / 4 + 1), DType::f32, "workspace"));
  }
  void upload(Tensor tensor, const Floats& values) {
    if (tensor.dtype == DType::bf16) {
      std::vector<std::uint16_t> halves;
      for (float value : values) halves.push_back(to_bf16(value));
      ops.device().copy(stream, tensor.data, halves.data(), tensor.bytes());
      ops.device().synchronize(stream);
    } else {
      ops.device().copy(stream, tensor.data, values.data(), tensor.bytes());
      ops.device().synchronize(stream);
    }
  }
  Floats read(Tensor tensor) {
    ops.device().synchronize(stream);
    Floats values(static_cast<std::size_t>(tensor.size));
    if (tensor.dtype == DType::bf16) {
      std::vector<std::uint16_t> halves(values.size());
      ops.device().copy(stream, halves.data(), tensor.data, tensor.bytes());
      ops.device().synchronize(stream);
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = from_bf16(halves[i]);
    } else {
      ops.device().copy(stream, values.data(), tensor.data, tensor.bytes());
      ops.device().synchronize(stream);
    }
    return values;
  }

 private:
  static std::int64_t size(const Floats& values) {
    return static_cast<std::int64_t>(values.size());
  }
  Arena arena_;
};

/// The largest |out - ref| / (|ref| + rms(ref)); infinity where an output was never written.
inline double worst_error(const Floats& out, const Floats& reference) {
  if (out.size() != reference.size()) return std::numeric_limits<double>::infinity();
  double squares = 0;
  for (float r : reference) squares += static_cast<double>(r) * r;
  const double rms = std::sqrt(squares / static_cast<double>(std::max<std::size_t>(1, out.size())));
  double worst = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double difference = std::abs(static_cast<double>(out[i]) - reference[i]);
    if (!(difference == difference)) return std::numeric_limits<double>::infinity();
    if (difference > 0) {
      worst = std::max(worst, difference / (std::abs(static_cast<double>(reference[i])) + rms));
    }
  }
  return worst;
}

inline double bf16_bound(double roundings) { return roundings * kBf16Roundoff; }
/// Sums of n fp32 products in any order: errors add as a random walk; 8 is for the tail of millions
/// of outputs.
inline double fp32_bound(double n) { return 8 * kFp32Roundoff * std::sqrt(n); }

/// Also shows that the bound has teeth: an output moved by four bounds must be found out.
inline void expect_close(const char* what, const Floats& out, const Floats& reference,
                         double bound) {
  const double error = worst_error(out, reference);
  EXPECT_LE(error, bound) << what;
  Floats moved = out;
  ASSERT_FALSE(moved.empty()) << what;
  double squares = 0;
  for (float r : reference) squares += static_cast<double>(r) * r;
  float& one = moved[moved.size() / 2];
  one += static_cast<float>(4 * bound *
                            (std::abs(one) + std::sqrt(squares / static_cast<double>(out.size()))));
  EXPECT_GT(worst_error(moved, reference), bound) << what << ": the bound finds nothing out";
}

}  // namespace pipemark::testing
