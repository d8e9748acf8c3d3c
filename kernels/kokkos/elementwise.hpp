// Launches over flat arrays and over columns. Iterations are blocks, large enough that a launch
// costs nothing and small enough to stay in a core's first cache.
#pragma once

#include "kernels/kokkos/pack.hpp"
#include "kernels/kokkos/runtime.hpp"

namespace pipemark::kokkos {

inline constexpr int kFlatBlock = kWidth == 1 ? 1 : 2048;  // elements
inline constexpr int kColumnPacks = kWidth == 1 ? 1 : 4;   // 256 bytes of a row
inline constexpr int kColumnTile = kColumnPacks * kWidth;

/// f(offset, n) for packs of [0, count); n = kWidth but for the last.
template <class F>
void for_each_pack(const std::string& label, std::int64_t count, F f) {
  launch(
      label, (count + kFlatBlock - 1) / kFlatBlock, KOKKOS_LAMBDA(std::int64_t block) {
        const std::int64_t begin = block * kFlatBlock;
        const std::int64_t size = count - begin < kFlatBlock ? count - begin : kFlatBlock;
        for_packs(static_cast<int>(size), [&](int i, int n) { f(begin + i, n); });
      });
}

/// Tiles of columns of a row-major matrix, each iteration its own columns over every row in
/// ascending order: how sums over rows keep one order on any device. f(first_column, columns).
template <class F>
void for_column_tiles(const std::string& label, int columns, F f) {
  launch(
      label, (columns + kColumnTile - 1) / kColumnTile, KOKKOS_LAMBDA(std::int64_t tile) {
        const int begin = static_cast<int>(tile) * kColumnTile;
        f(begin, columns - begin < kColumnTile ? columns - begin : kColumnTile);
      });
}

/// f(first_row, rows) for blocks of [0, rows).
template <class F>
void for_row_blocks(std::int64_t rows, std::int64_t block, F&& f) {
  for (std::int64_t n = 0; n < rows; n += block) f(n, rows - n < block ? rows - n : block);
}

/// sums[0..columns) += column sums of x[rows, columns], rows `stride` apart.
void add_column_sums(const std::string& label, const float* x, std::int64_t rows, int columns,
                     std::int64_t stride, float* sums);

}  // namespace pipemark::kokkos
