// Matmul: bf16 matrix products through cuBLASLt, row-major as the rest of Pipemark, fp32
// accumulation. The algorithm of each problem is chosen by timing cuBLASLt's candidates on the
// device at its first call, and kept by AlgoCache. A call under graph capture, which can't time,
// takes the cached algorithm or cuBLASLt's first proposal.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/cuda/algo_cache.hpp"
#include "kernels/cuda/cuda_device.hpp"

namespace pipemark::cuda {

enum class Epilogue : std::uint8_t {
  none,
  bias,           ///< d = ab + bias
  gelu_aux_bias,  ///< aux = ab + bias, d = gelu(aux)
  dgelu,          ///< d = (ab) gelu'(aux)
  bias_gradient   ///< weight gradients: bias[m] = row sums of a (dy^T), written in fp32
};

/// d[m, n] (+)= op(a)[m, k] op(b)[k, n], row-major. `accumulate` adds to d. d is bf16, or fp32 with
/// `fp32_out`. a is [k, m] with a_transposed, b is [n, k] with b_transposed.
struct MatmulProblem {
  std::int64_t m = 0, n = 0, k = 0;
  bool a_transposed = false, b_transposed = false;
  bool fp32_out = false, accumulate = false;
  Epilogue epilogue = Epilogue::none;
  /// m (k when a_transposed) is another from call to call: problems of which it rounds up to one
  /// power of two share the algorithm that was tuned for the first of them.
  bool varying_rows = false;

  std::string key() const;
  bool operator==(const MatmulProblem&) const = default;
};

struct MatmulOperands {
  const void* a = nullptr;
  const void* b = nullptr;
  void* d = nullptr;
  void* bias = nullptr;
  void* aux = nullptr;  ///< [m, n] bf16
};

class Matmul {
 public:
  static constexpr std::size_t kWorkspaceBytes = std::size_t{64} << 20;

  explicit Matmul(CudaDevice& device);
  ~Matmul();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  /// False when cuBLASLt has no algorithm for the problem (the caller then does without the
  /// epilogue). `workspace` holds kWorkspaceBytes.
  bool run(cudaStream_t stream, const MatmulProblem& problem, const MatmulOperands& operands,
           void* workspace);
  /// Seconds of the chosen algorithm, tuned first where that can be; 0 where it can't (under
  /// capture), infinity where there is none.
  double seconds(cudaStream_t stream, const MatmulProblem& problem, const MatmulOperands& operands,
                 void* workspace);
  AlgoCache& cache() { return cache_; }

 private:
  struct Plan;
  struct Timed {
    double seconds;
    cublasLtMatmulAlgo_t algo;
    bool operator<(const Timed& other) const { return seconds < other.seconds; }
  };
  using Measure = std::function<double(const cublasLtMatmulAlgo_t&, int repetitions)>;
  Plan& plan(cudaStream_t stream, const MatmulProblem& problem, const MatmulOperands& operands,
             void* workspace);
  void resize(Plan& plan, const MatmulProblem& problem);
  std::vector<cublasLtMatmulHeuristicResult_t> candidates(const Plan& plan) const;
  void widen(const Plan& plan, std::vector<Timed>& timed, const Measure& measure) const;
  void tune(cudaStream_t stream, Plan& plan, const MatmulOperands& operands, void* workspace);
  cublasStatus_t execute(cudaStream_t stream, const Plan& plan, const cublasLtMatmulAlgo_t& algo,
                         const MatmulOperands& operands, void* workspace) const;
  double time(cudaStream_t stream, const Plan& plan, const cublasLtMatmulAlgo_t& algo,
              const MatmulOperands& operands, void* workspace, int repetitions);

  CudaDevice& device_;
  cublasLtHandle_t handle_ = nullptr;
  AlgoCache cache_;
  std::unordered_map<std::string, Plan> plans_;
};

}  // namespace pipemark::cuda
