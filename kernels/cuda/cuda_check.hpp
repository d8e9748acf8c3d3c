// One CHECK macro an API (CUDA runtime, cuBLASLt): throws EnvironmentError with the call's text,
// the error's name, the file and the line. PIPEMARK_LAUNCH_CHECK() follows every kernel launch: it
// reads the launch error only and never waits for the device.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "kernels/check.hpp"

namespace pipemark::cuda {

[[noreturn]] inline void throw_cuda(cudaError_t error, const char* call, const char* file,
                                    int line) {
  throw EnvironmentError(
      fmt::format("CUDA: {} failed: {} ({}) at {}:{}", call, cudaGetErrorName(error),
                  cudaGetErrorString(error), file, line),
      error == cudaErrorNoKernelImageForDevice
          ? "configure with -DCMAKE_CUDA_ARCHITECTURES=<this GPU's, e.g. 90>"
          : "run under compute-sanitizer to find the kernel at fault");
}

[[noreturn]] inline void throw_cublas(cublasStatus_t status, const char* call, const char* file,
                                      int line) {
  throw EnvironmentError(fmt::format("cuBLASLt: {} failed: {} at {}:{}", call,
                                     cublasLtGetStatusString(status), file, line));
}

}  // namespace pipemark::cuda

#define PIPEMARK_CUDA(call)                                                    \
  do {                                                                         \
    const cudaError_t pipemark_error = (call);                                 \
    if (pipemark_error != cudaSuccess) [[unlikely]] {                          \
      ::pipemark::cuda::throw_cuda(pipemark_error, #call, __FILE__, __LINE__); \
    }                                                                          \
  } while (false)

#define PIPEMARK_CUBLAS(call)                                                     \
  do {                                                                            \
    const cublasStatus_t pipemark_status = (call);                                \
    if (pipemark_status != CUBLAS_STATUS_SUCCESS) [[unlikely]] {                  \
      ::pipemark::cuda::throw_cublas(pipemark_status, #call, __FILE__, __LINE__); \
    }                                                                             \
  } while (false)

#define PIPEMARK_LAUNCH_CHECK() PIPEMARK_CUDA(cudaGetLastError())
