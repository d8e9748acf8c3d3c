// Causal attention by blocks of queries, a head at a time, in scratch that stays in the second
// cache:
//
//   forward    S = (scale q) k^T,  P = exp(S - max),  out = P v / sum P,  lse = max + log sum P
//   backward   P = exp(S - lse),  dP = dout v^T,  dS = P (dP - dout . out),
//              dq = scale dS k,  dk = dS^T (scale q),  dv = P^T dout
//
// Products are register tiles of kRows rows; a tile stops at its last row's diagonal, so that work
// is the causal half plus kRows / T of it. k and v are packed by head (transposed where a product
// runs over keys), because rows 3 C apart fall into few sets of the first cache.
//
// Legend: B, T, C, H as in kernels/ops.hpp; D = C / H, Dp and Tp are D and T rounded up to packs.
#include <algorithm>
#include <cmath>

#include "kernels/kokkos/gemm.hpp"
#include "kernels/kokkos/kokkos_ops.hpp"
#include "kernels/kokkos/runtime.hpp"

namespace pipemark::kokkos {
namespace {

// Of a register tile: its 2 kRows sums, two Packs and a splat fit the registers, 32 or 16 of them.
constexpr int kRows = kWidth == 1 ? 1 : kWidth == 16 ? 8 : 4;
constexpr int kAhead = 4;        // rows that are fetched before they are packed
constexpr int kQueryBlock = 64;  // queries whose scores are held: [64, Tp]

/// Sizes and strides of one head's work, and the scratch's parts.
struct Head {
  int tokens, size, size_p, tokens_p;
  std::int64_t qkv_stride, out_stride;
  float scale;

  explicit Head(const AttentionShape& s)
      : tokens(s.tokens),
        size(s.channels / s.heads),
        size_p(padded(size)),
        tokens_p(padded(s.tokens)),
        qkv_stride(std::int64_t{3} * s.channels),
        out_stride(s.channels),
        scale(1 / std::sqrt(static_cast<float>(size))) {}

  std::int64_t by_token() const { return std::int64_t{tokens} * size_p; }    // [T, Dp]
  std::int64_t by_channel() const { return std::int64_t{size} * tokens_p; }  // [D, Tp]
  std::int64_t queries() const { return std::int64_t{kQueryBlock} * size_p; }
  std::int64_t scores() const { return std::int64_t{kQueryBlock} * tokens_p; }
  std::int64_t forward_scratch() const {
    return by_token() + by_channel() + 2 * queries() + scores();
  }
  std::int64_t backward_scratch() const {
    return 3 * by_token() + 2 * by_channel() + 3 * queries() + 2 * scores() + kQueryBlock;
  }
};

/// Hands out parts of the scratch, one after the other.
struct Cutter {
  float* next;
  KOKKOS_FORCEINLINE_FUNCTION float* take(std::int64_t count) {
    float* part = next;
    next += count;
    return part;
  }
};

/// Rows of a head lie too far apart for the processor to foresee the next.
KOKKOS_FORCEINLINE_FUNCTION void prefetch_row(const float* row, int size) {
  constexpr int kFloatsOfLine = 16;
  for (int d = 0; d < size; d += kFloatsOfLine) __builtin_prefetch(row + d);
}

/// to[rows, Dp] = factor from[rows, D], zeros in the padding.
KOKKOS_INLINE_FUNCTION void pack_rows(const float* from, std::int64_t stride, int rows,
                                      const Head& h, float factor, float* to) {
  for (int r = 0; r < rows; ++r) {
    prefetch_row(from + (r + kAhead) * stride, h.size);
    for_packs(h.size, [&](int d, int k) {
      store(to + std::int64_t{r} * h.size_p + d, load(from + r * stride + d, k) * factor);
    });
  }
}

/// to[D, Tp] = from[T, D] transposed, zeros in the padding.
KOKKOS_INLINE_FUNCTION void pack_transposed(const float* from, std::int64_t stride, const Head& h,
                                            float* to) {
  for (int t = 0; t < h.tokens_p; t += kWidth) {
    const int count = h.tokens - t < kWidth ? h.tokens - t : kWidth;
    for_packs(h.size, [&](int d, int k) {
      Pack square[kWidth];
      for (int i = 0; i < kWidth; ++i) {
        square[i] = i < count ? load(from + (t + i) * stride + d, k) : Pack{};
      }
      transpose(square);
      for (int i = 0; i < k; ++i) store(to + std::int64_t{d + i} * h.tokens_p + t, square[i]);
    });
  }
}

KOKKOS_FORCEINLINE_FUNCTION void write_rows(const float* from, const Head& h, int rows, float* to,
                                            std::int64_t stride) {
  for (int r = 0; r < rows; ++r) {
    for_packs(h.size, [&](int d, int k) {
      store(to + r * stride + d, load(from + std::int64_t{r} * h.size_p + d), k);
    });
  }
}

/// f(row, std::integral_constant<int, R>) over [begin, end) in tiles of kRows, then single rows.
template <class F>
KOKKOS_FORCEINLINE_FUNCTION void for_row_tiles(int begin, int end, F&& f) {
  int r = begin;
  for (; r + kRows <= end; r += kRows) f(r, std::integral_constant<int, kRows>{});
  for (; r < end; ++r) f(r, std::integral_constant<int, 1>{});
}

/// scores[r, j] -> exp(scores - shift) for j <= limit, 0 up to `packs`; returns their sum.
KOKKOS_FORCEINLINE_FUNCTION float exponentials(float* row, int limit, int packs, float shift) {
  Pack total = Pack{};
  for (int p = 0; p < packs; ++p) {
    const int valid = limit + 1 - p * kWidth;
    Pack e = Pack{};
    if (valid > 0) e = keep_first(exponential(load(row + p * kWidth) - shift), valid);
    store(row + p * kWidth, e);
    total += e;
  }
  return sum(total);
}

KOKKOS_FORCEINLINE_FUNCTION float row_maximum(const float* row, int limit) {
  Pack tops = splat(row[0]);
  for_packs(limit + 1, [&](int j, int k) { tops = max(tops, load(row + j, k, row[0])); });
  return largest(tops);
}

/// One head of one sequence; qkv, out and lse point at its first token.
KOKKOS_INLINE_FUNCTION void head_forward(const Head& h, int channels, const float* qkv, float* out,
                                         float* lse, float* scratch) {
  Cutter cut{scratch};
  float *kt = cut.take(h.by_channel()), *v = cut.take(h.by_token());
  float *q = cut.take(h.queries()), *result = cut.take(h.queries()), *s = cut.take(h.scores());
  pack_transposed(qkv + channels, h.qkv_stride, h, kt);
  pack_rows(qkv + 2 * channels, h.qkv_stride, h.tokens, h, 1, v);
  for (int q0 = 0; q0 < h.tokens; q0 += kQueryBlock) {
    const int rows = h.tokens - q0 < kQueryBlock ? h.tokens - q0 : kQueryBlock;
    pack_rows(qkv + q0 * h.qkv_stride, h.qkv_stride, rows, h, h.scale, q);
    for_row_tiles(0, rows, [&](int r, auto tile_rows) {
      constexpr int R = decltype(tile_rows)::value;
      const int keys = q0 + r + R, packs = packs_of(keys);
      float* tile_scores = s + std::int64_t{r} * h.tokens_p;
      tile_row<R>(q + std::int64_t{r} * h.size_p, h.size_p, 1, kt, h.tokens_p, h.size, tile_scores,
                  h.tokens_p, packs, false);
      float inverse[R];
      for (int i = 0; i < R; ++i) {
        float* row = tile_scores + std::int64_t{i} * h.tokens_p;
        const int query = q0 + r + i;
        const float top = row_maximum(row, query);
        const float total = exponentials(row, query, packs, top);
        lse[query] = top + logf(total);
        inverse[i] = 1 / total;
      }
      float* rows_out = result + std::int64_t{r} * h.size_p;
      tile_row<R>(tile_scores, h.tokens_p, 1, v, h.size_p, keys, rows_out, h.size_p,
                  h.size_p / kWidth, false);
      for (int i = 0; i < R; ++i) {
        for_packs(h.size, [&](int d, int k) {
          store(out + (q0 + r + i) * h.out_stride + d,
                load(rows_out + std::int64_t{i} * h.size_p + d) * inverse[i], k);
        });
      }
    });
  }
}

/// p -> P and dp -> dS in place for one query row over `packs` packs of keys.
KOKKOS_FORCEINLINE_FUNCTION void score_gradients(float* p, float* dp, int query, int packs,
                                                 float lse, float delta) {
  exponentials(p, query, packs, lse);
  for (int i = 0; i < packs; ++i) {
    store(dp + i * kWidth, load(p + i * kWidth) * (load(dp + i * kWidth) - delta));
  }
}

/// sum_d a[d] b[d]
KOKKOS_FORCEINLINE_FUNCTION float dot(const float* a, const float* b, int size) {
  Pack total = Pack{};
  for_packs(size, [&](int d, int k) { total += load(a + d, k) * load(b + d, k); });
  return sum(total);
}

KOKKOS_INLINE_FUNCTION void head_backward(const Head& h, int channels, const float* dout,
                                          const float* qkv, const float* out, const float* lse,
                                          float* dqkv, float* scratch) {
  Cutter cut{scratch};
  float *kt = cut.take(h.by_channel()), *vt = cut.take(h.by_channel());
  float *keys = cut.take(h.by_token()), *dk = cut.take(h.by_token()), *dv = cut.take(h.by_token());
  float *q = cut.take(h.queries()), *dq = cut.take(h.queries()), *g = cut.take(h.queries());
  float *p = cut.take(h.scores()), *ds = cut.take(h.scores());
  pack_transposed(qkv + channels, h.qkv_stride, h, kt);
  pack_transposed(qkv + 2 * channels, h.qkv_stride, h, vt);
  pack_rows(qkv + channels, h.qkv_stride, h.tokens, h, h.scale, keys);
  for (std::int64_t i = 0; i < h.by_token(); ++i) dk[i] = dv[i] = 0;
  for (int q0 = 0; q0 < h.tokens; q0 += kQueryBlock) {
    const int rows = h.tokens - q0 < kQueryBlock ? h.tokens - q0 : kQueryBlock;
    pack_rows(qkv + q0 * h.qkv_stride, h.qkv_stride, rows, h, h.scale, q);
    pack_rows(dout + q0 * h.out_stride, h.out_stride, rows, h, 1, g);
    for_row_tiles(0, rows, [&](int r, auto tile_rows) {
      constexpr int R = decltype(tile_rows)::value;
      const int limit = q0 + r + R, packs = packs_of(limit);
      const std::int64_t at = std::int64_t{r} * h.tokens_p, row = std::int64_t{r} * h.size_p;
      for (int i = 0; i < R; ++i) prefetch_row(out + (q0 + r + i) * h.out_stride, h.size);
      tile_row<R>(q + row, h.size_p, 1, kt, h.tokens_p, h.size, p + at, h.tokens_p, packs, false);
      tile_row<R>(g + row, h.size_p, 1, vt, h.tokens_p, h.size, ds + at, h.tokens_p, packs, false);
      for (int i = 0; i < R; ++i) {
        const int query = q0 + r + i;
        const float delta = dot(dout + query * h.out_stride, out + query * h.out_stride, h.size);
        score_gradients(p + at + std::int64_t{i} * h.tokens_p,
                        ds + at + std::int64_t{i} * h.tokens_p, query, packs, lse[query], delta);
      }
      tile_row<R>(ds + at, h.tokens_p, 1, keys, h.size_p, limit, dq + row, h.size_p,
                  h.size_p / kWidth, false);
    });
    write_rows(dq, h, rows, dqkv + q0 * h.qkv_stride, h.qkv_stride);
    for_row_tiles(0, q0 + rows, [&](int j, auto tile_rows) {
      constexpr int R = decltype(tile_rows)::value;
      const int first = j > q0 ? j - q0 : 0;  // queries before key j don't see it
      const std::int64_t at = std::int64_t{first} * h.tokens_p + j,
                         row = std::int64_t{j} * h.size_p;
      tile_row<R>(ds + at, 1, h.tokens_p, q + std::int64_t{first} * h.size_p, h.size_p,
                  rows - first, dk + row, h.size_p, h.size_p / kWidth, true);
      tile_row<R>(p + at, 1, h.tokens_p, g + std::int64_t{first} * h.size_p, h.size_p, rows - first,
                  dv + row, h.size_p, h.size_p / kWidth, true);
    });
  }
  write_rows(dk, h, h.tokens, dqkv + channels, h.qkv_stride);
  write_rows(dv, h, h.tokens, dqkv + 2 * channels, h.qkv_stride);
}

void check_attention(const AttentionShape& s, Tensor qkv, Tensor workspace, std::int64_t needed) {
  check(s.heads > 0 && s.channels % s.heads == 0, "attention: {} channels by {} heads", s.channels,
        s.heads);
  check(qkv.size >= std::int64_t{3} * s.batch * s.tokens * s.channels,
        "attention: qkv has {} elements", qkv.size);
  check(workspace.size >= needed, "attention: the workspace has {} elements and {} are needed",
        workspace.size, needed);
}

}  // namespace

std::size_t KokkosOps::workspace_bytes(const AttentionShape& attention, int) const {
  const std::int64_t needed = std::max(Head(attention).backward_scratch(), kProductScratch);
  return static_cast<std::size_t>(needed) * sizeof(float);
}

// One thread a rank: the iterations over heads follow one another and share one scratch.
void KokkosOps::attention_forward(Stream, AttentionShape s, Tensor qkv, Tensor out, Tensor lse) {
  static const std::string label = "attention/forward";
  const Head head(s);
  check_attention(s, qkv, workspace_, head.forward_scratch());
  const float* x = qkv.f32();
  float *y = out.f32(), *log_sums = lse.f32(), *scratch = workspace_.f32();
  launch(
      label, std::int64_t{s.batch} * s.heads, KOKKOS_LAMBDA(std::int64_t i) {
        const std::int64_t b = i / s.heads, h = i % s.heads;
        head_forward(head, s.channels, x + b * s.tokens * head.qkv_stride + h * head.size,
                     y + b * s.tokens * head.out_stride + h * head.size, log_sums + i * s.tokens,
                     scratch);
      });
}

void KokkosOps::attention_backward(Stream, AttentionShape s, Tensor dout, Tensor qkv, Tensor out,
                                   Tensor lse, Tensor dqkv) {
  static const std::string label = "attention/backward";
  const Head head(s);
  check_attention(s, qkv, workspace_, head.backward_scratch());
  const float *dy = dout.f32(), *x = qkv.f32(), *y = out.f32(), *log_sums = lse.f32();
  float *dx = dqkv.f32(), *scratch = workspace_.f32();
  launch(
      label, std::int64_t{s.batch} * s.heads, KOKKOS_LAMBDA(std::int64_t i) {
        const std::int64_t b = i / s.heads, h = i % s.heads;
        const std::int64_t wide = b * s.tokens * head.qkv_stride + h * head.size;
        const std::int64_t narrow = b * s.tokens * head.out_stride + h * head.size;
        head_backward(head, s.channels, dy + narrow, x + wide, y + narrow, log_sums + i * s.tokens,
                      dx + wide, scratch);
      });
}

}  // namespace pipemark::kokkos
