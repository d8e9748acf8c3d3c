// The orders in which PyTorch adds and sorts float32 on the host: where a plan must be the same as
// one computed with PyTorch, rounding and ties are part of the answer.
//
// Checked against PyTorch 2.15 (x86-64): `sum` over the contiguous dimension is a cascade of eight
// lanes (the AVX2 kernel, also where there is AVX-512); `sort` without stable=True is std::sort of
// the C++ library over (value, index), and so leaves ties where its introsort puts them.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace pipemark {

/// tensor.sum(-1) of one row of n values.
///
/// Values are read as vectors of 8 (single values when n < 8), dealt to four chains in turn. A
/// chain keeps four levels of partial sums: 16 values go to level 0, whose sum moves to level 1, 16
/// of these to level 2 and so on (2^k for rows beyond 2^22). Chains, then lanes, are added in
/// order.
inline float torch_sum(const float* values, int n) {
  constexpr int kLanes = 8, kChains = 4, kLevels = 4;
  const int lanes = n >= kLanes ? kLanes : 1;
  const int vectors = n / lanes, rounds = vectors / kChains;
  int power = 0;
  while ((1 << power) < rounds) ++power;
  power = std::max(4, power / kLevels);
  const int step = 1 << power;

  using Vector = std::array<float, kLanes>;
  std::array<std::array<Vector, kChains>, kLevels> sums{};
  const auto add_values = [&](Vector& to, int vector) {
    for (int k = 0; k < lanes; ++k) {
      to[static_cast<std::size_t>(k)] += values[vector * lanes + k];
    }
  };
  const auto add = [&](Vector& to, const Vector& from) {
    for (std::size_t k = 0; k < kLanes; ++k) to[k] += from[k];
  };
  int round = 0;
  while (round + step <= rounds) {
    for (int j = 0; j < step; ++j, ++round) {
      for (int c = 0; c < kChains; ++c) {
        add_values(sums[0][static_cast<std::size_t>(c)], round * kChains + c);
      }
    }
    for (std::size_t level = 1; level < kLevels; ++level) {
      for (std::size_t c = 0; c < kChains; ++c) {
        add(sums[level][c], sums[level - 1][c]);
        sums[level - 1][c] = {};
      }
      if ((round & ((step - 1) << (static_cast<int>(level) * power))) != 0) break;
    }
  }
  for (; round < rounds; ++round) {
    for (int c = 0; c < kChains; ++c) {
      add_values(sums[0][static_cast<std::size_t>(c)], round * kChains + c);
    }
  }
  for (std::size_t level = 1; level < kLevels; ++level) {
    for (std::size_t c = 0; c < kChains; ++c) add(sums[0][c], sums[level][c]);
  }
  Vector& total = sums[0][0];
  for (int vector = rounds * kChains; vector < vectors; ++vector) add_values(total, vector);
  for (std::size_t c = 1; c < kChains; ++c) add(total, sums[0][c]);

  if (lanes == 1) return total[0];
  float sum = 0;
  for (int k = vectors * lanes; k < n; ++k) sum += values[k];
  for (const float lane : total) sum += lane;
  return sum;
}

/// tensor.sort(-1, descending=True).indices of rows of values that are not negative.
class TorchSort {
 public:
  /// Without ties every sort gives the same, so a radix sort by four bytes does; ties need the very
  /// sort that PyTorch calls.
  void descending(const float* values, int n, std::vector<int>& indices) {
    keys_.clear();
    for (int i = 0; i < n; ++i) {
      const std::uint32_t bits = std::bit_cast<std::uint32_t>(values[i] + 0.0f);  // -0 is 0
      keys_.push_back(std::uint64_t{~bits} << 32 | static_cast<std::uint32_t>(i));
    }
    other_.resize(keys_.size());
    for (int shift = 32; shift < 64; shift += 8) sort_by_byte(shift);
    const auto tie = std::adjacent_find(keys_.begin(), keys_.end(),
                                        [](auto a, auto b) { return a >> 32 == b >> 32; });
    indices.clear();
    if (tie == keys_.end()) {
      for (const std::uint64_t key : keys_) indices.push_back(static_cast<int>(key & 0xffffffffu));
      return;
    }
    pairs_.clear();
    for (int i = 0; i < n; ++i) pairs_.emplace_back(values[i], i);
    std::sort(pairs_.begin(), pairs_.end(),
              [](const auto& a, const auto& b) { return a.first > b.first; });
    for (const auto& pair : pairs_) indices.push_back(pair.second);
  }

 private:
  void sort_by_byte(int shift) {
    std::array<std::uint32_t, 257> start{};
    for (const std::uint64_t key : keys_) ++start[(key >> shift & 0xff) + 1];
    for (std::size_t b = 1; b < start.size(); ++b) start[b] += start[b - 1];
    for (const std::uint64_t key : keys_) other_[start[key >> shift & 0xff]++] = key;
    keys_.swap(other_);
  }

  std::vector<std::uint64_t> keys_, other_;
  std::vector<std::pair<float, int>> pairs_;
};

}  // namespace pipemark
