// Pack: kWidth floats that the compiler keeps in one vector register, with the few functions the
// kernels need. Written out rather than left to the auto-vectoriser, so that every sum has one
// fixed order whatever a pointer's alignment or a row's neighbours. On a Kokkos device of threads a
// Pack is one float and the same kernels run a row or a column a thread.
#pragma once

#include <Kokkos_Core.hpp>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

namespace pipemark::kokkos {

#if defined(KOKKOS_ENABLE_CUDA) || defined(KOKKOS_ENABLE_HIP) || defined(KOKKOS_ENABLE_SYCL)
inline constexpr int kWidth = 1;
using Pack = float;
using IntPack = std::int32_t;
#else
// A wider Pack than the processor's registers would be kept in memory.
#if defined(__AVX512F__)
inline constexpr int kWidth = 16;
#elif defined(__AVX__)
inline constexpr int kWidth = 8;
#else
inline constexpr int kWidth = 4;
#endif
typedef float Pack __attribute__((vector_size(kWidth * sizeof(float))));
typedef std::int32_t IntPack __attribute__((vector_size(kWidth * sizeof(float))));
#endif

KOKKOS_FORCEINLINE_FUNCTION constexpr int packs_of(int count) {
  return (count + kWidth - 1) / kWidth;
}
KOKKOS_FORCEINLINE_FUNCTION constexpr int padded(int count) { return packs_of(count) * kWidth; }

KOKKOS_FORCEINLINE_FUNCTION Pack splat(float value) {
  return value - Pack{};  // subtracting 0 is the identity, adding it is not
}

KOKKOS_FORCEINLINE_FUNCTION Pack load(const float* p) {
  Pack value;
  std::memcpy(&value, p, sizeof value);
  return value;
}
KOKKOS_FORCEINLINE_FUNCTION void store(float* p, Pack value) {
  std::memcpy(p, &value, sizeof value);
}

/// The first `count` <= kWidth floats at `p`, `rest` in the other lanes.
KOKKOS_FORCEINLINE_FUNCTION Pack load(const float* p, int count, float rest = 0) {
  if (count == kWidth) return load(p);
  float lanes[kWidth];
  for (int i = 0; i < kWidth; ++i) lanes[i] = i < count ? p[i] : rest;
  return load(lanes);
}
KOKKOS_FORCEINLINE_FUNCTION void store(float* p, Pack value, int count) {
  if (count == kWidth) return store(p, value);
  float lanes[kWidth];
  store(lanes, value);
  for (int i = 0; i < count; ++i) p[i] = lanes[i];
}

KOKKOS_FORCEINLINE_FUNCTION Pack max(Pack a, Pack b) { return a > b ? a : b; }
KOKKOS_FORCEINLINE_FUNCTION Pack min(Pack a, Pack b) { return a < b ? a : b; }

/// `value` in lanes below `count`, 0 in the others.
KOKKOS_FORCEINLINE_FUNCTION Pack keep_first(Pack value, int count) {
  std::int32_t lanes[kWidth];
  for (int i = 0; i < kWidth; ++i) lanes[i] = i;
  IntPack lane;
  std::memcpy(&lane, lanes, sizeof lane);
  return lane < count ? value : Pack{};
}

#if defined(KOKKOS_ENABLE_CUDA) || defined(KOKKOS_ENABLE_HIP) || defined(KOKKOS_ENABLE_SYCL)
KOKKOS_FORCEINLINE_FUNCTION float sum(Pack value) { return value; }
KOKKOS_FORCEINLINE_FUNCTION float largest(Pack value) { return value; }
#else
/// Lane i <- lane i xor kDistance.
template <int kDistance, std::size_t... L>
inline Pack partner(Pack value, std::index_sequence<L...>) {
#ifdef __clang__
  return __builtin_shufflevector(value, value, (int(L) ^ kDistance)...);
#else
  return __builtin_shuffle(value, IntPack{(int(L) ^ kDistance)...});
#endif
}
template <int kDistance>
inline Pack partner(Pack value) {
  return partner<kDistance>(value, std::make_index_sequence<kWidth>{});
}
/// By halves: lane i + lane i + kWidth / 2, and so on down.
template <int kDistance = kWidth / 2>
inline float sum(Pack value) {
  value += partner<kDistance>(value);
  if constexpr (kDistance == 1) {
    return value[0];
  } else {
    return sum<kDistance / 2>(value);
  }
}
template <int kDistance = kWidth / 2>
inline float largest(Pack value) {
  value = max(value, partner<kDistance>(value));
  if constexpr (kDistance == 1) {
    return value[0];
  } else {
    return largest<kDistance / 2>(value);
  }
}
#endif

KOKKOS_FORCEINLINE_FUNCTION Pack square_root(Pack value) {
  float lanes[kWidth];
  store(lanes, value);
  for (int i = 0; i < kWidth; ++i) lanes[i] = sqrtf(lanes[i]);
  return load(lanes);
}

/// e^x within 2 ulp on [-87, 88], clamped outside: x = n ln 2 + r with |r| <= ln 2 / 2, e^r by
/// Cephes' polynomial of degree 7, 2^n added into the exponent. ln 2 is subtracted in two parts, so
/// that n ln2_high is exact.
KOKKOS_FORCEINLINE_FUNCTION Pack exponential(Pack x) {
  constexpr float kLog2E = 1.44269504088896341f, kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRounder = 12582912.0f;  // 1.5 2^23: adding it leaves round(x) in the low bits
  x = min(max(x, splat(-87.0f)), splat(88.0f));
  const Pack shifted = x * kLog2E + kRounder;
  const Pack n = shifted - kRounder;
  const Pack r = (x - n * kLn2High) - n * kLn2Low;
  Pack p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  IntPack exponent, bits;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  std::memcpy(&bits, &p, sizeof bits);
  bits += exponent << 23;
  std::memcpy(&p, &bits, sizeof p);
  return p;
}

#if !defined(KOKKOS_ENABLE_CUDA) && !defined(KOKKOS_ENABLE_HIP) && !defined(KOKKOS_ENABLE_SYCL)
/// Exchanges the blocks of kDistance lanes above the diagonal with those below it.
template <int kDistance, std::size_t... L>
inline void exchange(Pack& upper, Pack& lower, std::index_sequence<L...>) {
  constexpr int kStep = kDistance;
#ifdef __clang__
  const Pack first =
      __builtin_shufflevector(upper, lower, (int(L) & kStep ? kWidth + int(L) - kStep : int(L))...);
  lower =
      __builtin_shufflevector(upper, lower, (int(L) & kStep ? kWidth + int(L) : int(L) + kStep)...);
#else
  const Pack first = __builtin_shuffle(
      upper, lower, IntPack{(int(L) & kStep ? kWidth + int(L) - kStep : int(L))...});
  lower = __builtin_shuffle(upper, lower,
                            IntPack{(int(L) & kStep ? kWidth + int(L) : int(L) + kStep)...});
#endif
  upper = first;
}
template <int kDistance>
inline void exchange_rows(Pack (&rows)[kWidth]) {
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) {
    if ((i & kDistance) == 0) {
      exchange<kDistance>(rows[i], rows[i + kDistance], std::make_index_sequence<kWidth>{});
    }
  }
}
/// rows[i] lane j <-> rows[j] lane i, in registers.
template <int kDistance = kWidth / 2>
inline void transpose(Pack (&rows)[kWidth]) {
  exchange_rows<kDistance>(rows);
  if constexpr (kDistance > 1) transpose<kDistance / 2>(rows);
}
#else
KOKKOS_FORCEINLINE_FUNCTION void transpose(Pack (&)[1]) {}
#endif

/// Calls f(offset, count) for [0, total) in packs; count is kWidth but for the last.
template <class F>
KOKKOS_FORCEINLINE_FUNCTION void for_packs(int total, F&& f) {
  int i = 0;
  for (; i + kWidth <= total; i += kWidth) f(i, kWidth);
  if (i < total) f(i, total - i);
}

}  // namespace pipemark::kokkos
