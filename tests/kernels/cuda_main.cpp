// main() of the CUDA test programs: without a usable GPU it says why and exits 77, which CTest
// counts as skipped, never as passed.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cstdio>

#include "kernels/cuda/cuda_ops.hpp"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  try {
    const auto ops = pipemark::make_cuda_ops(0);
    fmt::print("CUDA tests on {}\n", ops->device().description());
  } catch (const pipemark::EnvironmentError& error) {
    fmt::print(stderr, "SKIPPED, every CUDA test: {}\nhint: {}\n", error.what(), error.hint());
    return 77;
  }
  return RUN_ALL_TESTS();
}
