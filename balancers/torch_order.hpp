// The orders in which PyTorch adds and sorts float32 on the host: where a plan must be the same as
// one computed with PyTorch, rounding and ties are part of the answer.
//
// Checked against PyTorch 2.15 (x86-64): `sum` over the contiguous dimension is a cascade of eight
// lanes (the AVX2 kernel, also where there is AVX-512); `sort` without stable=True is std::sort of
// the C++ library over (value, index), and so leaves ties where its introsort puts them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
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

/// tensor.sort(-1, descending=True).indices of one row of n values; `work` is scratch.
inline void torch_sort_descending(const float* values, int n, std::vector<int>& indices,
                                  std::vector<std::pair<float, int>>& work) {
  work.clear();
  for (int i = 0; i < n; ++i) work.emplace_back(values[i], i);
  std::sort(work.begin(), work.end(),
            [](const auto& a, const auto& b) { return a.first > b.first; });
  indices.clear();
  for (const auto& entry : work) indices.push_back(entry.second);
}

}  // namespace pipemark
