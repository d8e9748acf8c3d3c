// LayerNorm: a row is read from memory once and stays in the first cache for the mean, the centred
// variance and the output. Backward computes dx by rows and dw, db by tiles of columns.
//
//   hat = (x - mean) rstd,  g = dy w
//   dx = [dresidual +] rstd (g - mean_c(g) - hat mean_c(g hat)),  dw += sum_n dy hat,  db += sum_n
//   dy
#include "kernels/kokkos/elementwise.hpp"
#include "kernels/kokkos/kokkos_ops.hpp"

namespace pipemark::kokkos {
namespace {

constexpr float kEpsilon = 1e-5f;
constexpr std::int64_t kSumRows = 512;

struct Normalise {
  const float *w, *b;
  float *y, *mean, *rstd;
  int channels;

  KOKKOS_FORCEINLINE_FUNCTION void operator()(const float* row, std::int64_t n) const {
    Pack total = Pack{}, squares = Pack{};
    for_packs(channels, [&](int c, int k) { total += load(row + c, k); });
    const float mu = sum(total) / static_cast<float>(channels);
    for_packs(channels, [&](int c, int k) {
      const Pack centred = keep_first(load(row + c, k) - mu, k);
      squares += centred * centred;
    });
    const float inverse = 1 / sqrtf(sum(squares) / static_cast<float>(channels) + kEpsilon);
    float* out = y + n * channels;
    for_packs(channels, [&](int c, int k) {
      store(out + c, (load(row + c, k) - mu) * inverse * load(w + c, k) + load(b + c, k), k);
    });
    mean[n] = mu;
    rstd[n] = inverse;
  }
};

/// One tile of columns over all rows; P packs, known when compiled so that the sums stay in
/// registers.
template <int P>
KOKKOS_FORCEINLINE_FUNCTION void weight_gradients(const float* dy, const float* x,
                                                  const float* mean, const float* rstd,
                                                  std::int64_t rows, int channels, int columns,
                                                  float* dw, float* db) {
  Pack dws[P], dbs[P];
  for (int p = 0; p < P; ++p) dws[p] = dbs[p] = Pack{};
  const int last = columns - (P - 1) * kWidth;  // lanes of the last pack
  for (std::int64_t n = 0; n < rows; ++n) {
    const float mu = mean[n], inverse = rstd[n];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      const int k = p + 1 < P ? kWidth : last;
      const Pack gradient = load(dy + n * channels + p * kWidth, k);
      dws[p] += gradient * ((load(x + n * channels + p * kWidth, k) - mu) * inverse);
      dbs[p] += gradient;
    }
  }
  for (int p = 0; p < P; ++p) {
    const int k = p + 1 < P ? kWidth : last;
    store(dw + p * kWidth, load(dw + p * kWidth, k) + dws[p], k);
    store(db + p * kWidth, load(db + p * kWidth, k) + dbs[p], k);
  }
}

}  // namespace

void KokkosOps::layer_norm_forward(Stream, Tensor x, Tensor w, Tensor b, Tensor y, Tensor mean,
                                   Tensor rstd, std::int64_t rows, int channels) {
  static const std::string label = "layer_norm/forward";
  const Normalise normalise{w.f32(), b.f32(), y.f32(), mean.f32(), rstd.f32(), channels};
  const float* xs = x.f32();
  launch(
      label, rows, KOKKOS_LAMBDA(std::int64_t n) { normalise(xs + n * normalise.channels, n); });
}

void KokkosOps::residual_layer_norm_forward(Stream, Tensor a, Tensor b, Tensor residual_out,
                                            Tensor w, Tensor bias, Tensor y, Tensor mean,
                                            Tensor rstd, std::int64_t rows, int channels) {
  static const std::string label = "residual_layer_norm/forward";
  const Normalise normalise{w.f32(), bias.f32(), y.f32(), mean.f32(), rstd.f32(), channels};
  const float *as = a.f32(), *bs = b.f32();
  float* residual = residual_out.f32();
  launch(
      label, rows, KOKKOS_LAMBDA(std::int64_t n) {
        const std::int64_t first = n * normalise.channels;
        for_packs(normalise.channels, [&](int c, int k) {
          store(residual + first + c, load(as + first + c, k) + load(bs + first + c, k), k);
        });
        normalise(residual + first, n);
      });
}

void KokkosOps::layer_norm_backward(Stream, Tensor dy, Tensor x, Tensor w, Tensor mean, Tensor rstd,
                                    Tensor dresidual, Tensor dx, Tensor dw, Tensor db,
                                    std::int64_t rows, int channels, Tensor dx_sums,
                                    bool accumulate) {
  static const std::string weight_label = "layer_norm/backward_weight";
  static const std::string input_label = "layer_norm/backward_input";
  static const std::string sums_label = "layer_norm/backward_sums";
  for (const Tensor& sums : {dw, db, dx_sums}) {
    if (sums && !accumulate) device_.fill_zero({}, sums.data, sums.bytes());
  }
  const float *dys = dy.f32(), *xs = x.f32(), *ws = w.f32(), *means = mean.f32();
  const float* rstds = rstd.f32();
  float *dws = dw.f32(), *dbs = db.f32(), *dxs = dx.f32();
  // Before dx is written: dx may be dy.
  for_column_tiles(
      weight_label, channels, KOKKOS_LAMBDA(int begin, int columns) {
        if (columns == kColumnTile) {
          weight_gradients<kColumnPacks>(dys + begin, xs + begin, means, rstds, rows, channels,
                                         columns, dws + begin, dbs + begin);
        } else {
          for_packs(columns, [&](int c, int k) {
            weight_gradients<1>(dys + begin + c, xs + begin + c, means, rstds, rows, channels, k,
                                dws + begin + c, dbs + begin + c);
          });
        }
      });
  const float* carried = dresidual ? dresidual.f32() : nullptr;
  const auto input_gradient = KOKKOS_LAMBDA(std::int64_t n) {
    const std::int64_t first = n * channels;
    const float mu = means[n], inverse = rstds[n];
    Pack gradients = Pack{}, projections = Pack{};
    for_packs(channels, [&](int c, int k) {
      const Pack g = load(dys + first + c, k) * load(ws + c, k);
      gradients += g;
      projections += g * ((load(xs + first + c, k) - mu) * inverse);
    });
    const float mean_gradient = sum(gradients) / static_cast<float>(channels);
    const float mean_projection = sum(projections) / static_cast<float>(channels);
    for_packs(channels, [&](int c, int k) {
      const Pack hat = (load(xs + first + c, k) - mu) * inverse;
      const Pack g = load(dys + first + c, k) * load(ws + c, k);
      Pack value = inverse * (g - mean_gradient - hat * mean_projection);
      if (carried != nullptr) value += load(carried + first + c, k);
      store(dxs + first + c, value, k);
    });
  };
  // Column sums follow each block of rows while it is in the second cache.
  for_row_blocks(rows, dx_sums ? kSumRows : rows, [&](std::int64_t n, std::int64_t count) {
    launch(
        input_label, count, KOKKOS_LAMBDA(std::int64_t r) { input_gradient(n + r); });
    if (dx_sums) {
      add_column_sums(sums_label, dxs + n * channels, count, channels, channels, dx_sums.f32());
    }
  });
}

}  // namespace pipemark::kokkos
