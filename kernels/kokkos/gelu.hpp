// GELU, tanh form, on Packs. 0.5 (1 + tanh u) is the logistic function of 2u, which needs one
// exponential and loses no digits where u is large and negative:
//   gelu(x) = x s(2u),  gelu'(x) = s + 2 x u' s (1 - s),  u = sqrt(2/pi) (x + 0.044715 x^3).
#pragma once

#include "kernels/kokkos/pack.hpp"

namespace pipemark::kokkos {

inline constexpr float kGeluTwiceScale = 1.5957691216057308f;  // 2 sqrt(2/pi)
inline constexpr float kGeluCubic = 0.044715f;

/// e^-2u and s = 1 / (1 + e^-2u).
struct GeluGate {
  Pack exponential, open;
};

KOKKOS_FORCEINLINE_FUNCTION GeluGate gelu_gate(Pack x) {
  const Pack twice_u = x * (x * x * (kGeluTwiceScale * kGeluCubic) + kGeluTwiceScale);
  const Pack e = exponential(-twice_u);
  return {e, 1.0f / (1.0f + e)};
}

KOKKOS_FORCEINLINE_FUNCTION Pack gelu(Pack x) { return x * gelu_gate(x).open; }

/// 1 - s is e^-2u s: the difference itself would lose every digit where x is large.
KOKKOS_FORCEINLINE_FUNCTION Pack gelu_derivative(Pack x) {
  const GeluGate gate = gelu_gate(x);
  const Pack twice_slope = x * x * (3 * kGeluTwiceScale * kGeluCubic) + kGeluTwiceScale;
  return gate.open + x * twice_slope * (gate.open * (gate.exponential * gate.open));
}

}  // namespace pipemark::kokkos
