// CounterRandom: the n-th number of a stream is a pure function of (seed, stream, n), so that
// weights and batches do not depend on who asks, in which order, or how many ranks there are.
// Steele, Lea & Flood, "Fast splittable pseudorandom number generators" (2014): SplitMix64's output
// function applied to key + (n + 1) gamma. scripts/golden/gpt_gradients.py has the same formulas.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <utility>

namespace pipemark {

class CounterRandom {
 public:
  CounterRandom(std::uint64_t seed, std::uint64_t stream)
      : key_(mix(mix(seed + kGamma) ^ mix(stream * kGamma + 1))) {}

  std::uint64_t bits(std::uint64_t n) const { return mix(key_ + (n + 1) * kGamma); }
  /// In [0, 1), 53 bits.
  double uniform(std::uint64_t n) const { return static_cast<double>(bits(n) >> 11) * 0x1p-53; }
  /// In [0, range): the high half of a 64 x 64 bit product (bias below range / 2^64).
  std::uint64_t below(std::uint64_t n, std::uint64_t range) const {
    return static_cast<std::uint64_t>((static_cast<unsigned __int128>(bits(n)) * range) >> 64);
  }
  /// Normal numbers 2 pair and 2 pair + 1, by Box and Muller.
  std::pair<double, double> normal_pair(std::uint64_t pair) const {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform(2 * pair)));
    const double angle = 2.0 * std::numbers::pi * uniform(2 * pair + 1);
    return {radius * std::cos(angle), radius * std::sin(angle)};
  }

 private:
  static constexpr std::uint64_t kGamma = 0x9E3779B97F4A7C15ULL;
  static constexpr std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }
  std::uint64_t key_;
};

}  // namespace pipemark
