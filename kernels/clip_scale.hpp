// Clipping by the global norm: one formula for every backend and for the trainer's sum over ranks,
// so that each gives the same bits.
#pragma once

#include <cmath>
#include <cstdint>

namespace pipemark {

/// min(1, clip / (norm + 1e-6)); 1 when clip is 0 (PyTorch's clip_grad_norm_, so that curves can be
/// compared).
constexpr double clip_factor(double clip, double norm) {
  const double factor = clip / (norm + 1e-6);
  return clip > 0 && factor < 1.0 ? factor : 1.0;
}

/// Ops::clip_scale on the host.
inline void host_clip_scale(const float* squared, std::int64_t count, double clip, float* norm,
                            float* scale) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += squared[i];
  *norm = static_cast<float>(std::sqrt(sum));
  *scale = static_cast<float>(clip_factor(clip, std::sqrt(sum)));
}

}  // namespace pipemark
