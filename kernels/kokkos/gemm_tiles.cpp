// product() by register tiles, for a register file of 16 Packs. Goto's blocking:
//
//   k in blocks of 256:   B's block -> panels [256, 16]: one at a time stays in the first cache
//     m in blocks of 192: A's block -> tiles [6, 256]: the block stays in the second cache
//       each panel x each tile: sums [6, 16] in 12 registers
//
// An element is the sum over k's blocks of sums in ascending k, whatever its place in a tile.
#include <algorithm>
#include <cstring>

#include "kernels/check.hpp"
#include "kernels/kokkos/gemm.hpp"

namespace pipemark::kokkos {
namespace {

constexpr int kRows = 6, kPacks = 2, kColumns = kPacks * kWidth;
constexpr std::int64_t kKBlock = 256, kMBlock = 192, kNBlock = 1024;
constexpr int kAhead = 8;  // rows: what is packed lies too far apart for the processor to foresee

constexpr std::int64_t kPanels = kKBlock * kNBlock, kTiles = kKBlock * (kMBlock + kRows);
constexpr std::int64_t kSums = kRows * kColumns;

/// to[R, 16] = a tile times a panel.
template <int R>
void multiply(const float* tile, const float* panel, int k, float* to) {
  Pack sums[R][kPacks];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = Pack{};
#pragma GCC unroll 4
  for (int i = 0; i < k; ++i) {
    const Pack right0 = load(panel + i * kColumns), right1 = load(panel + i * kColumns + kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Pack left = splat(tile[i * kRows + r]);
      sums[r][0] += left * right0;
      sums[r][1] += left * right1;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    store(to + r * kColumns, sums[r][0]);
    store(to + r * kColumns + kWidth, sums[r][1]);
  }
}

/// multiply() for a count of rows known when run.
template <int R = kRows>
void multiply_rows(int rows, const float* tile, const float* panel, int k, float* to) {
  if (rows == R) return multiply<R>(tile, panel, k, to);
  if constexpr (R > 1) multiply_rows<R - 1>(rows, tile, panel, k, to);
}

/// One panel of `columns` <= 16 from B's rows, n contiguous.
void pack_panel(const float* b, std::int64_t stride, int k, int columns, float* to) {
  for (int i = 0; i < k; ++i, b += stride, to += kColumns) {
    __builtin_prefetch(b + kAhead * stride);
    if (columns == kColumns) {
      std::memcpy(to, b, kColumns * sizeof(float));
    } else {
      for (int j = 0; j < kColumns; ++j) to[j] = j < columns ? b[j] : 0;
    }
  }
}

/// One panel of `columns` <= 16 from B's columns, k contiguous.
void pack_panel_transposed(const float* b, std::int64_t stride, int k, int columns, float* to) {
  for (int p = 0; p < kPacks; ++p, b += kWidth * stride, to += kWidth) {
    const int valid = std::clamp(columns - p * kWidth, 0, kWidth);
    for (int i = 0; i < k; i += kWidth) {
      const int steps = std::min(k - i, kWidth);
      Pack square[kWidth];
#pragma GCC unroll 16
      for (int r = 0; r < kWidth; ++r) {
        square[r] = r < valid ? load(b + r * stride + i, steps) : Pack{};
      }
      transpose(square);
      for (int s = 0; s < steps; ++s) store(to + (i + s) * kColumns, square[s]);
    }
  }
}

/// B's block [k, n] -> panels[n / 16][k][16], zeros beyond n.
void pack_panels(const Operand& b, int k, int n, float* panels) {
  for (int j = 0; j < n; j += kColumns, panels += std::int64_t{k} * kColumns) {
    const int columns = std::min(n - j, kColumns);
    if (b.transposed) {
      pack_panel_transposed(b.data + j * b.stride, b.stride, k, columns, panels);
    } else {
      pack_panel(b.data + j, b.stride, k, columns, panels);
    }
  }
}

/// A's block [m, k], stored transposed, -> tiles[m / 6][k][6]; eight tiles, three lines of A, at a
/// time.
void pack_tiles_transposed(const float* a, std::int64_t stride, int m, int k, float* tiles) {
  constexpr int kTogether = 8, kFloatsOfLine = 16;
  for (int first = 0; first < m; first += kTogether * kRows) {
    const int columns = std::min(m - first, kTogether * kRows);
    for (int i = 0; i < k; ++i) {
      const float* from = a + i * stride + first;
      for (int c = 0; c < columns; c += kFloatsOfLine) {
        __builtin_prefetch(from + kAhead * stride + c);
      }
      float* to = tiles + std::int64_t{first} * k + i * kRows;
      int c = 0;
      for (; c + kRows <= columns; c += kRows, to += std::int64_t{k} * kRows) {
        std::memcpy(to, from + c, kRows * sizeof(float));
      }
      for (int r = 0; c + r < columns; ++r) to[r] = from[c + r];
    }
  }
}

/// A's block [m, k], k contiguous, -> tiles[m / 6][k][6].
void pack_tiles(const float* a, std::int64_t stride, int m, int k, float* tiles) {
  for (int first = 0; first < m; first += kRows, a += kRows * stride) {
    const int rows = std::min(m - first, kRows);
    for (int i = 0; i < k; i += kWidth) {
      const int steps = std::min(k - i, kWidth);
      for (int group = 0; group < rows; group += kWidth) {
        Pack square[kWidth];
#pragma GCC unroll 16
        for (int r = 0; r < kWidth; ++r) {
          square[r] = group + r < rows ? load(a + (group + r) * stride + i, steps) : Pack{};
        }
        transpose(square);
        const std::size_t valid = std::min(kRows - group, kWidth);
        for (int s = 0; s < steps; ++s) {
          std::memcpy(tiles + (i + s) * kRows + group, &square[s], valid * sizeof(float));
        }
      }
    }
    tiles += std::int64_t{k} * kRows;
  }
}

/// Where a block's sums go.
struct Target {
  const Finish& finish;
  bool partial;     ///< c holds the sums of earlier blocks of k
  std::int64_t at;  ///< of the block in c
  int column;       ///< of the block
  float* c;
  std::int64_t c_stride;
};

/// The block [m, n] of C: A's [m, k] times the packed panels.
void block_product(const Operand& a, int m, int k, int n, const Target& target, float* scratch) {
  const float* panel = scratch;
  float *tiles = scratch + kPanels, *sums = tiles + kTiles;
  if (a.transposed) {
    pack_tiles_transposed(a.data, a.stride, m, k, tiles);
  } else {
    pack_tiles(a.data, a.stride, m, k, tiles);
  }
  for (int j = 0; j < n; j += kColumns, panel += std::int64_t{k} * kColumns) {
    const int columns = std::min(n - j, kColumns);
    for (int r = 0; r < m; r += kRows) {
      const int rows = std::min(m - r, kRows);
      const std::int64_t at = target.at + r * target.c_stride + j;
      for (int line = 0; line < rows; ++line) {  // arrives while the sums are made
        __builtin_prefetch(target.c + at + line * target.c_stride, 1);
      }
      multiply_rows(rows, tiles + std::int64_t{r} * k, panel, k, sums);
      finish_rows(target.finish, sums, kColumns, target.partial, rows, at, target.column + j,
                  columns, target.c, target.c_stride);
    }
  }
}

/// The size of equal blocks of at most `most`, a multiple of `unit`.
std::int64_t even_block(std::int64_t total, std::int64_t most, std::int64_t unit) {
  const std::int64_t blocks = (total + most - 1) / most;
  return ((total + blocks - 1) / blocks + unit - 1) / unit * unit;
}

/// The part of an operand that starts at (row, column) of op(X).
Operand part(const Operand& x, std::int64_t row, std::int64_t column) {
  if (x.transposed) std::swap(row, column);
  return {x.data + row * x.stride + column, x.stride, x.transposed};
}

static_assert(kPanels + kTiles + kSums == kTileScratch);
}  // namespace

void product_by_tiles(std::int64_t m, std::int64_t n, std::int64_t k, Operand a, Operand b,
                      const Finish& finish, float* c, std::int64_t c_stride, Tensor workspace) {
  check(k > 0, "product: {} x {} x {}", m, n, k);
  check(workspace.size >= kTileScratch, "product: the workspace has {} elements and {} are needed",
        workspace.size, kTileScratch);
  float* scratch = workspace.f32();
  const Finish so_far{finish.kind == Finish::Kind::add ? Finish::Kind::add : Finish::Kind::write};
  const std::int64_t m_block = even_block(m, kMBlock, kRows);
  for (std::int64_t j = 0; j < n; j += kNBlock) {
    const int columns = static_cast<int>(std::min(n - j, kNBlock));
    for (std::int64_t i = 0; i < k; i += kKBlock) {
      const int steps = static_cast<int>(std::min(k - i, kKBlock));
      pack_panels(part(b, i, j), steps, columns, scratch);
      const Finish& block_finish = i + steps == k ? finish : so_far;
      const bool partial = i > 0 && block_finish.kind != Finish::Kind::add;
      for (std::int64_t r = 0; r < m; r += m_block) {
        const int rows = static_cast<int>(std::min(m - r, m_block));
        block_product(part(a, r, i), rows, steps, columns,
                      {block_finish, partial, r * c_stride + j, static_cast<int>(j), c, c_stride},
                      scratch);
      }
    }
  }
}

}  // namespace pipemark::kokkos
