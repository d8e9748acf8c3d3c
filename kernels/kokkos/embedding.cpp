// Token and position embedding. Backward scatters: a tile of columns an iteration, rows in
// ascending order, so that rows with one token always add up in one order.
#include "kernels/kokkos/elementwise.hpp"
#include "kernels/kokkos/kokkos_ops.hpp"

namespace pipemark::kokkos {
namespace {

void check_tokens(const std::int32_t* ids, std::int64_t rows, std::int64_t vocabulary) {
  std::int32_t smallest = 0, largest = 0;
  for (std::int64_t n = 0; n < rows; ++n) {
    smallest = ids[n] < smallest ? ids[n] : smallest;
    largest = ids[n] > largest ? ids[n] : largest;
  }
  check(smallest >= 0 && largest < vocabulary, "token {} is not in [0, {})",
        smallest < 0 ? smallest : largest, vocabulary);
}

}  // namespace

void KokkosOps::embedding_forward(Stream, Tensor tokens_i32, Tensor wte, Tensor wpe, Tensor x,
                                  std::int64_t rows, int tokens, int channels) {
  static const std::string label = "embedding/forward";
  const std::int32_t* ids = tokens_i32.i32();
  const float *te = wte.f32(), *pe = wpe.f32();
  float* xs = x.f32();
  check_tokens(ids, rows, wte.size / channels);
  launch(
      label, rows, KOKKOS_LAMBDA(std::int64_t n) {
        const float* token = te + std::int64_t{ids[n]} * channels;
        const float* position = pe + n % tokens * channels;
        float* row = xs + n * channels;
        for_packs(channels, [&](int c, int k) {
          store(row + c, load(token + c, k) + load(position + c, k), k);
        });
      });
}

void KokkosOps::embedding_backward(Stream, Tensor tokens_i32, Tensor dx, Tensor dwte, Tensor dwpe,
                                   std::int64_t rows, int tokens, int channels) {
  static const std::string label = "embedding/backward";
  const std::int32_t* ids = tokens_i32.i32();
  const float* dxs = dx.f32();
  float *te = dwte.f32(), *pe = dwpe.f32();
  check_tokens(ids, rows, dwte.size / channels);
  for_column_tiles(
      label, channels, KOKKOS_LAMBDA(int begin, int columns) {
        for (std::int64_t n = 0; n < rows; ++n) {
          const float* row = dxs + n * channels + begin;
          float* token = te + std::int64_t{ids[n]} * channels + begin;
          float* position = pe + n % tokens * channels + begin;
          for_packs(columns, [&](int c, int k) {
            const Pack gradient = load(row + c, k);
            store(token + c, load(token + c, k) + gradient, k);
            store(position + c, load(position + c, k) + gradient, k);
          });
        }
      });
}

}  // namespace pipemark::kokkos
