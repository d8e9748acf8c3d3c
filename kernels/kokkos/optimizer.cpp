// Squared gradient norms and AdamW, both over the ranges of a flat parameter buffer.
#include <cmath>

#include "kernels/clip_scale.hpp"
#include "kernels/kokkos/elementwise.hpp"
#include "kernels/kokkos/kokkos_ops.hpp"
#include "kernels/kokkos/sums.hpp"

namespace pipemark::kokkos {

void KokkosOps::squared_norms(Stream, Tensor gradients, std::span<const ParamRange> ranges,
                              Tensor squared) {
  static const std::string label = "optimizer/squared_norm";
  check(squared.size >= static_cast<std::int64_t>(ranges.size()),
        "squared_norms: {} results for {}", squared.size, ranges.size());
  for (std::size_t r = 0; r < ranges.size(); ++r) {
    squared.f32()[r] =
        static_cast<float>(block_sum(label, gradients.f32() + ranges[r].offset, ranges[r].size,
                                     [](Pack value) { return value * value; }));
  }
}

void KokkosOps::clip_scale(Stream, Tensor squared, std::int64_t count, double clip, Tensor norm,
                           Tensor scale) {
  host_clip_scale(squared.f32(), count, clip, norm.f32(), scale.f32());
}

void KokkosOps::adamw(Stream, Tensor master, Tensor weights, Tensor gradients, Tensor m, Tensor v,
                      std::span<const ParamRange> ranges, const AdamWSettings& settings,
                      Tensor gradient_scale) {
  static const std::string label = "optimizer/adamw";
  const double step = static_cast<double>(settings.step);
  const float beta1 = settings.beta1, beta2 = settings.beta2, epsilon = settings.epsilon;
  const float rest1 = static_cast<float>(1 - double{beta1});
  const float rest2 = static_cast<float>(1 - double{beta2});
  const float rate =
      static_cast<float>(settings.learning_rate / (1 - std::pow(double{beta1}, step)));
  const float root = static_cast<float>(1 / std::sqrt(1 - std::pow(double{beta2}, step)));
  const float scale = *gradient_scale.f32();
  for (const ParamRange& range : ranges) {
    const float keep = static_cast<float>(
        1 - (range.decay ? double{settings.learning_rate} * settings.weight_decay : 0.0));
    float *p = master.f32() + range.offset, *out = weights.f32() + range.offset;
    float *first = m.f32() + range.offset, *second = v.f32() + range.offset;
    const float* gradient = gradients.f32() + range.offset;
    const bool copy = p != out;
    for_each_pack(
        label, range.size, KOKKOS_LAMBDA(std::int64_t i, int k) {
          const Pack g = load(gradient + i, k) * scale;
          const Pack moment1 = beta1 * load(first + i, k) + rest1 * g;
          const Pack moment2 = beta2 * load(second + i, k) + rest2 * (g * g);
          const Pack updated =
              load(p + i, k) * keep - rate * (moment1 / (square_root(moment2) * root + epsilon));
          store(first + i, moment1, k);
          store(second + i, moment2, k);
          store(p + i, updated, k);
          if (copy) store(out + i, updated, k);
        });
  }
}

}  // namespace pipemark::kokkos
