// Matmul: see matmul.hpp. cuBLASLt is column-major, so the row-major product d = op(a) op(b) is
// asked for as d^T = op(b)^T op(a)^T: its A is our b, its B is our a, its m is our n and its n our
// m.
#include "kernels/cuda/matmul.hpp"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

#include "kernels/cuda/cuda_check.hpp"

namespace pipemark::cuda {
namespace {

constexpr int kCandidates = 48;
constexpr int kShortRepetitions = 3;  // of every candidate
constexpr int kLongRepetitions = 12;  // of the best kFinalists
constexpr std::size_t kFinalists = 6;
constexpr double kWorthWidening = 20e-6;
constexpr double kWidenSeconds = 0.5;  // of trial runs, a problem

cublasLtEpilogue_t to_cublas(Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::none:
      return CUBLASLT_EPILOGUE_DEFAULT;
    case Epilogue::bias:
      return CUBLASLT_EPILOGUE_BIAS;
    case Epilogue::gelu_aux_bias:
      return CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    case Epilogue::dgelu:
      return CUBLASLT_EPILOGUE_DGELU;
    case Epilogue::bias_gradient:
      return CUBLASLT_EPILOGUE_BGRADB;  // our a is its B
  }
  return CUBLASLT_EPILOGUE_DEFAULT;
}

bool capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  PIPEMARK_CUDA(cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

std::string cache_name(const CudaDevice& device) {
  return fmt::format("cublaslt-{}-{}sm-{}", device.properties().name,
                     device.properties().multiProcessorCount, cublasLtGetVersion());
}

}  // namespace

std::string MatmulProblem::key() const {
  const auto bucket = [&](std::int64_t rows, bool varies) {
    return varies ? static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(rows)))
                  : rows;
  };
  return fmt::format("matmul/{}x{}x{}/{}{}/{}{}/e{}{}", bucket(m, varying_rows && !a_transposed), n,
                     bucket(k, varying_rows && a_transposed), a_transposed ? 't' : 'n',
                     b_transposed ? 't' : 'n', fp32_out ? "f32" : "bf16", accumulate ? "+=" : "=",
                     static_cast<int>(epilogue), varying_rows ? "/v" : "");
}

struct Matmul::Plan {
  MatmulProblem problem;
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;  // in cuBLASLt's order
  bool supported = false;
  bool settled = false;  // tuned, from the cache, or hopeless
  double seconds = 0;
  cublasLtMatmulAlgo_t algo{};

  explicit Plan(const MatmulProblem& p);
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  Plan(Plan&& other) noexcept
      : problem(other.problem),
        operation(std::exchange(other.operation, nullptr)),
        a(std::exchange(other.a, nullptr)),
        b(std::exchange(other.b, nullptr)),
        d(std::exchange(other.d, nullptr)) {}
  ~Plan() {
    if (operation != nullptr) cublasLtMatmulDescDestroy(operation);
    for (cublasLtMatrixLayout_t layout : {a, b, d}) {
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
    }
  }
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    PIPEMARK_CUBLAS(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)));
  }
};

Matmul::Plan::Plan(const MatmulProblem& p) : problem(p) {
  PIPEMARK_CUBLAS(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  set(CUBLASLT_MATMUL_DESC_TRANSA, p.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_TRANSB, p.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, to_cublas(p.epilogue));
  if (p.epilogue == Epilogue::bias || p.epilogue == Epilogue::gelu_aux_bias) {
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_16BF);
  } else if (p.epilogue == Epilogue::bias_gradient) {
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F);
  }
  if (p.epilogue == Epilogue::gelu_aux_bias || p.epilogue == Epilogue::dgelu) {
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.n);
  }
  const auto layout = [](cublasLtMatrixLayout_t& at, cudaDataType_t type, std::int64_t rows,
                         std::int64_t columns) {  // row-major rows x columns
    PIPEMARK_CUBLAS(cublasLtMatrixLayoutCreate(&at, type, static_cast<std::uint64_t>(columns),
                                               static_cast<std::uint64_t>(rows), columns));
  };
  layout(a, CUDA_R_16BF, p.b_transposed ? p.n : p.k, p.b_transposed ? p.k : p.n);
  layout(b, CUDA_R_16BF, p.a_transposed ? p.k : p.m, p.a_transposed ? p.m : p.k);
  layout(d, p.fp32_out ? CUDA_R_32F : CUDA_R_16BF, p.m, p.n);
}

Matmul::Matmul(CudaDevice& device) : device_(device), cache_(cache_name(device)) {
  PIPEMARK_CUBLAS(cublasLtCreate(&handle_));
}

Matmul::~Matmul() {
  plans_.clear();
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

std::vector<cublasLtMatmulHeuristicResult_t> Matmul::candidates(const Plan& plan) const {
  cublasLtMatmulPreference_t preference = nullptr;
  PIPEMARK_CUBLAS(cublasLtMatmulPreferenceCreate(&preference));
  const std::size_t workspace = kWorkspaceBytes;
  PIPEMARK_CUBLAS(cublasLtMatmulPreferenceSetAttribute(
      preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof(workspace)));
  std::vector<cublasLtMatmulHeuristicResult_t> found(kCandidates);
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_, plan.operation, plan.a, plan.b, plan.d, plan.d,
                                     preference, kCandidates, found.data(), &count);
  cublasLtMatmulPreferenceDestroy(preference);
  found.resize(status == CUBLAS_STATUS_SUCCESS ? static_cast<std::size_t>(count) : 0);
  std::erase_if(found, [](const auto& one) { return one.state != CUBLAS_STATUS_SUCCESS; });
  return found;
}

cublasStatus_t Matmul::execute(cudaStream_t stream, const Plan& plan,
                               const cublasLtMatmulAlgo_t& algo, const MatmulOperands& operands,
                               void* workspace) const {
  const float one = 1.0f;
  const float beta = plan.problem.accumulate ? 1.0f : 0.0f;
  // The pointers live in the descriptor; only the calling thread of this Ops touches it.
  const auto set_pointer = [&](cublasLtMatmulDescAttributes_t attribute, const void* pointer) {
    PIPEMARK_CUBLAS(
        cublasLtMatmulDescSetAttribute(plan.operation, attribute, &pointer, sizeof(pointer)));
  };
  if (operands.bias != nullptr) set_pointer(CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.bias);
  if (operands.aux != nullptr) {
    set_pointer(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, operands.aux);
  }
  return cublasLtMatmul(handle_, plan.operation, &one, operands.b, plan.a, operands.a, plan.b,
                        &beta, operands.d, plan.d, operands.d, plan.d, &algo, workspace,
                        kWorkspaceBytes, stream);
}

double Matmul::time(cudaStream_t stream, const Plan& plan, const cublasLtMatmulAlgo_t& algo,
                    const MatmulOperands& operands, void* workspace, int repetitions) {
  constexpr double kFailed = std::numeric_limits<double>::infinity();
  if (execute(stream, plan, algo, operands, workspace) != CUBLAS_STATUS_SUCCESS) return kFailed;
  const Event from = device_.make_event();
  const Event to = device_.make_event();
  device_.record(from, {stream});
  for (int i = 0; i < repetitions; ++i) {
    static_cast<void>(execute(stream, plan, algo, operands, workspace));
  }
  device_.record(to, {stream});
  const bool good = cudaStreamSynchronize(stream) == cudaSuccess;
  const double seconds = good ? device_.elapsed_s(from, to) / repetitions : kFailed;
  device_.destroy(from);
  device_.destroy(to);
  return seconds;
}

/// cuBLASLt proposes at most eight; its best one is varied by hand: first the tile, then cluster
/// and order of blocks of the best tiles. Single runs, within kWidenSeconds of them.
void Matmul::widen(const Plan& plan, std::vector<Timed>& timed, const Measure& measure) const {
  const double best = timed.front().seconds;
  if (!(best > kWorthWidening)) return;  // infinite or tiny
  double spent = 0;
  const auto attempt = [&](const cublasLtMatmulAlgo_t& algo) {
    cublasLtMatmulHeuristicResult_t result{};
    if (spent > kWidenSeconds ||
        cublasLtMatmulAlgoCheck(handle_, plan.operation, plan.a, plan.b, plan.d, plan.d, &algo,
                                &result) != CUBLAS_STATUS_SUCCESS ||
        result.workspaceSize > kWorkspaceBytes) {
      return;
    }
    const double seconds = measure(algo, 1);
    if (seconds < 10) spent += 2 * seconds;  // with the warm-up
    if (seconds < 1.2 * best) timed.push_back({seconds, algo});
  };
  const auto set = [](cublasLtMatmulAlgo_t& algo, cublasLtMatmulAlgoConfigAttributes_t attribute,
                      auto value) {
    return cublasLtMatmulAlgoConfigSetAttribute(&algo, attribute, &value, sizeof(value)) ==
           CUBLAS_STATUS_SUCCESS;
  };
  std::size_t bytes = 0;
  const cublasLtMatmulAlgo_t start = timed.front().algo;
  if (cublasLtMatmulAlgoCapGetAttribute(&start, CUBLASLT_ALGO_CAP_TILE_IDS, nullptr, 0, &bytes) !=
      CUBLAS_STATUS_SUCCESS) {
    return;
  }
  std::vector<std::uint32_t> tiles(bytes / sizeof(std::uint32_t));
  cublasLtMatmulAlgoCapGetAttribute(&start, CUBLASLT_ALGO_CAP_TILE_IDS, tiles.data(), bytes,
                                    &bytes);
  for (std::uint32_t tile : tiles) {
    cublasLtMatmulAlgo_t algo = start;
    if (set(algo, CUBLASLT_ALGO_CONFIG_TILE_ID, tile)) attempt(algo);
  }
  std::sort(timed.begin(), timed.end());
  const std::vector<Timed> bases(
      timed.begin(),
      timed.begin() + std::min<std::ptrdiff_t>(3, static_cast<std::ptrdiff_t>(timed.size())));
  for (const Timed& base : bases) {
    for (std::uint16_t cluster = CUBLASLT_CLUSTER_SHAPE_1x1x1;
         cluster <= CUBLASLT_CLUSTER_SHAPE_2x4x1; ++cluster) {
      for (std::uint32_t swizzle : {0u, 1u}) {
        cublasLtMatmulAlgo_t algo = base.algo;
        if (set(algo, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, cluster) &&
            set(algo, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, swizzle)) {
          attempt(algo);
        }
      }
    }
  }
  std::sort(timed.begin(), timed.end());
}

void Matmul::tune(cudaStream_t stream, Plan& plan, const MatmulOperands& operands,
                  void* workspace) {
  std::vector<cublasLtMatmulHeuristicResult_t> found = candidates(plan);
  plan.supported = !found.empty();
  if (found.empty()) {
    plan.settled = true;
    return;
  }
  plan.algo = found.front().algo;
  if (capturing(stream)) return;
  // Outputs of the trials go to memory of their own: d may be accumulated to, aux and bias be
  // somebody's. Where that memory is not to be had, the first proposal stands.
  const MatmulProblem& p = plan.problem;
  const std::size_t d_bytes = static_cast<std::size_t>(p.m * p.n) * (p.fp32_out ? 4 : 2);
  const bool own_aux = p.epilogue == Epilogue::gelu_aux_bias;
  const bool own_bias = p.epilogue == Epilogue::bias_gradient;
  const std::size_t aux_bytes = own_aux ? static_cast<std::size_t>(p.m * p.n) * 2 : 0;
  void* scratch = nullptr;
  if (cudaMalloc(&scratch, d_bytes + aux_bytes + static_cast<std::size_t>(p.m) * 4) !=
      cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return;
  }
  PIPEMARK_CUDA(cudaMemsetAsync(scratch, 0, d_bytes, stream));
  MatmulOperands trial = operands;
  trial.d = scratch;
  if (own_aux) trial.aux = static_cast<std::byte*>(scratch) + d_bytes;
  if (own_bias) trial.bias = static_cast<std::byte*>(scratch) + d_bytes + aux_bytes;
  std::vector<Timed> timed;
  const auto measure = [&](const cublasLtMatmulAlgo_t& algo, int repetitions) {
    return time(stream, plan, algo, trial, workspace, repetitions);
  };
  for (const auto& one : found) timed.push_back({measure(one.algo, kShortRepetitions), one.algo});
  std::sort(timed.begin(), timed.end());
  const double proposed = timed.front().seconds;
  widen(plan, timed, measure);
  timed.resize(std::min(timed.size(), kFinalists));
  for (Timed& one : timed) one.seconds = measure(one.algo, kLongRepetitions);
  std::sort(timed.begin(), timed.end());
  if (std::getenv("PIPEMARK_TUNE_LOG") != nullptr) {
    fmt::print(stderr, "{}: proposed {:.1f} us, chosen {:.1f} us\n", p.key(), proposed * 1e6,
               timed.front().seconds * 1e6);
  }
  PIPEMARK_CUDA(cudaFree(scratch));
  plan.settled = true;
  plan.supported = timed.front().seconds < std::numeric_limits<double>::infinity();
  if (!plan.supported) return;
  plan.algo = timed.front().algo;
  plan.seconds = timed.front().seconds;
  AlgoCache::Entry entry{plan.seconds, {}};
  static_assert(sizeof(entry.words) == sizeof(plan.algo.data));
  std::memcpy(entry.words.data(), plan.algo.data, sizeof(entry.words));
  cache_.put(p.key(), entry);
}

/// The plan's layouts for another problem of its bucket. Row-major rows are cuBLASLt's columns, and
/// no leading dimension follows from them.
void Matmul::resize(Plan& plan, const MatmulProblem& problem) {
  plan.problem = problem;
  const auto set_rows = [](cublasLtMatrixLayout_t layout, std::int64_t rows) {
    const auto columns = static_cast<std::uint64_t>(rows);
    PIPEMARK_CUBLAS(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_COLS, &columns,
                                                     sizeof(columns)));
  };
  if (problem.a_transposed) {
    set_rows(plan.a, problem.k);
    set_rows(plan.b, problem.k);
  } else {
    set_rows(plan.b, problem.m);
    set_rows(plan.d, problem.m);
  }
  cublasLtMatmulHeuristicResult_t result{};
  if (!plan.supported ||
      (cublasLtMatmulAlgoCheck(handle_, plan.operation, plan.a, plan.b, plan.d, plan.d, &plan.algo,
                               &result) == CUBLAS_STATUS_SUCCESS &&
       result.workspaceSize <= kWorkspaceBytes)) {
    return;
  }
  const auto found = candidates(plan);
  plan.supported = !found.empty();
  if (plan.supported) plan.algo = found.front().algo;
}

Matmul::Plan& Matmul::plan(cudaStream_t stream, const MatmulProblem& problem,
                           const MatmulOperands& operands, void* workspace) {
  const std::string key = problem.key();
  auto at = plans_.find(key);
  if (at == plans_.end()) {
    at = plans_.try_emplace(key, problem).first;
    if (const auto entry = cache_.find(key)) {
      Plan& plan = at->second;
      std::memcpy(plan.algo.data, entry->words.data(), sizeof(plan.algo.data));
      plan.seconds = entry->seconds;
      cublasLtMatmulHeuristicResult_t result{};
      plan.supported = plan.settled =
          cublasLtMatmulAlgoCheck(handle_, plan.operation, plan.a, plan.b, plan.d, plan.d,
                                  &plan.algo, &result) == CUBLAS_STATUS_SUCCESS &&
          result.workspaceSize <= kWorkspaceBytes;
    }
  }
  if (at->second.problem != problem) resize(at->second, problem);
  if (!at->second.settled) tune(stream, at->second, operands, workspace);
  return at->second;
}

bool Matmul::run(cudaStream_t stream, const MatmulProblem& problem, const MatmulOperands& operands,
                 void* workspace) {
  const Plan& chosen = plan(stream, problem, operands, workspace);
  if (!chosen.supported) return false;
  PIPEMARK_CUBLAS(execute(stream, chosen, chosen.algo, operands, workspace));
  return true;
}

double Matmul::seconds(cudaStream_t stream, const MatmulProblem& problem,
                       const MatmulOperands& operands, void* workspace) {
  const Plan& chosen = plan(stream, problem, operands, workspace);
  return chosen.supported ? chosen.seconds : std::numeric_limits<double>::infinity();
}

}  // namespace pipemark::cuda
