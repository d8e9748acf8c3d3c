// Sums over flat arrays in a fixed order: 16 fp32 lanes inside a block of kSumBlock elements, lanes
// by halves, blocks in fp64 in ascending order.
#pragma once

#include "kernels/kokkos/pack.hpp"
#include "kernels/kokkos/runtime.hpp"

namespace pipemark::kokkos {

inline constexpr int kSumBlock = 1024;

/// Sum of f(x) over `count` elements; f maps a Pack, and 0 to 0.
template <class F>
double block_sum(const std::string& label, const float* x, std::int64_t count, F f) {
  double total = 0;
  Kokkos::parallel_reduce(
      label, Range(0, (count + kSumBlock - 1) / kSumBlock),
      KOKKOS_LAMBDA(std::int64_t block, double& part) {
        const std::int64_t begin = block * kSumBlock;
        const int size = static_cast<int>(count - begin < kSumBlock ? count - begin : kSumBlock);
        Pack lanes = Pack{};
        for_packs(size, [&](int i, int k) { lanes += f(load(x + begin + i, k)); });
        part += sum(lanes);
      },
      total);
  return total;
}

}  // namespace pipemark::kokkos
