// Softmax with cross-entropy, in place, and the sums of losses.
#include <cmath>

#include "kernels/kokkos/elementwise.hpp"
#include "kernels/kokkos/kokkos_ops.hpp"
#include "kernels/kokkos/sums.hpp"

namespace pipemark::kokkos {

void KokkosOps::softmax_cross_entropy(Stream, Tensor logits, Tensor targets_i32, Tensor losses,
                                      std::int64_t rows, int vocabulary, int vocabulary_padded,
                                      float scale, bool with_gradient) {
  static const std::string label = "head/softmax_cross_entropy";
  const std::int32_t* targets = targets_i32.i32();
  float *all = logits.f32(), *loss = losses.f32();
  for (std::int64_t n = 0; n < rows; ++n) {
    check(targets[n] >= 0 && targets[n] < vocabulary, "target {} of row {} is not in [0, {})",
          targets[n], n, vocabulary);
  }
  launch(
      label, rows, KOKKOS_LAMBDA(std::int64_t n) {
        float* row = all + n * vocabulary_padded;
        const float target = row[targets[n]];
        Pack tops = splat(target), sums = Pack{};
        for_packs(vocabulary, [&](int v, int k) { tops = max(tops, load(row + v, k, target)); });
        const float top = largest(tops);
        for_packs(vocabulary, [&](int v, int k) {
          const Pack e = keep_first(exponential(load(row + v, k) - top), k);
          sums += e;
          if (with_gradient) store(row + v, e, k);
        });
        const float total = sum(sums);
        loss[n] = logf(total) + top - target;
        if (!with_gradient) return;
        const float factor = scale / total;
        for_packs(vocabulary, [&](int v, int k) { store(row + v, load(row + v, k) * factor, k); });
        row[targets[n]] -= scale;
        for (int v = vocabulary; v < vocabulary_padded; ++v) row[v] = 0;
      });
}

void KokkosOps::add_scaled_sum(Stream, Tensor x, std::int64_t count, float scale, Tensor sum_out) {
  static const std::string label = "add_scaled_sum";
  const double total = block_sum(label, x.f32(), count, [](Pack value) { return value; });
  float* out = sum_out.f32();
  *out = static_cast<float>(*out + scale * total);
}

}  // namespace pipemark::kokkos
