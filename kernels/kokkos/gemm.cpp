// dnnl_sgemm on one thread: a rank is one core, whatever OpenMP's default is.
#include "kernels/kokkos/gemm.hpp"

#include <dnnl.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>

#include "kernels/check.hpp"
#include "kernels/kokkos/runtime.hpp"

namespace pipemark::kokkos {
namespace {

constexpr std::int64_t kLeastRows = 128;  // below, oneDNN loses a tenth and more
constexpr std::int64_t kSumBlock = 512;   // of a transposed A

/// Rows of a block of outputs that takes half of a 1 MiB second cache, to be finished there.
std::int64_t row_block(std::int64_t columns) {
  constexpr std::int64_t kBlockFloats = (std::int64_t{512} << 10) / sizeof(float);
  return std::max(kBlockFloats / columns / 64 * 64, kLeastRows);
}

void sgemm(std::int64_t m, std::int64_t n, std::int64_t k, const Operand& a, const Operand& b,
           float beta, float* c, std::int64_t c_stride) {
#ifdef _OPENMP
  thread_local bool single = false;  // OpenMP keeps its thread count by calling thread
  if (!single) {
    omp_set_num_threads(1);
    single = true;
  }
#endif
  const dnnl_status_t status =
      dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', m, n, k, 1.0f, a.data,
                 a.stride, b.data, b.stride, beta, c, c_stride);
  check(status == dnnl_success, "dnnl_sgemm({} x {} x {}): status {}", m, n, k,
        static_cast<int>(status));
}

}  // namespace

void product_by_dnnl(std::int64_t m, std::int64_t n, std::int64_t k, Operand a, Operand b,
                     const Finish& finish, float* c, std::int64_t c_stride) {
  static const std::string label = "product/finish";
  if (m == 0 || n == 0) return;
  if (a.transposed) {  // a weight gradient: k is the rows of a micro-batch
    check(finish.kind == Finish::Kind::write || finish.kind == Finish::Kind::add,
          "product of a transposed matrix with a finish");
    for (std::int64_t i = 0; i < k; i += kSumBlock) {
      const std::int64_t first_b = b.transposed ? i : i * b.stride;
      sgemm(m, n, std::min(k - i, kSumBlock), {a.data + i * a.stride, a.stride, true},
            {b.data + first_b, b.stride, b.transposed},
            i > 0 || finish.kind == Finish::Kind::add ? 1.0f : 0.0f, c, c_stride);
    }
    return;
  }
  if (finish.kind == Finish::Kind::write || finish.kind == Finish::Kind::add) {
    return sgemm(m, n, k, a, b, finish.kind == Finish::Kind::add ? 1.0f : 0.0f, c, c_stride);
  }
  const std::int64_t block = row_block(n);
  for (std::int64_t r = 0; r < m; r += block) {
    const std::int64_t rows = std::min(m - r, block);
    sgemm(rows, n, k, {a.data + r * a.stride, a.stride, false}, b, 0, c + r * c_stride, c_stride);
    launch(
        label, rows, KOKKOS_LAMBDA(std::int64_t i) {
          const std::int64_t at = (r + i) * c_stride;
          finish_rows(finish, c + at, c_stride, false, 1, at, 0, static_cast<int>(n), c, c_stride);
        });
  }
}

void product(std::int64_t m, std::int64_t n, std::int64_t k, Operand a, Operand b,
             const Finish& finish, float* c, std::int64_t c_stride, Tensor workspace) {
  if constexpr (kWidth == 8) {
    product_by_tiles(m, n, k, a, b, finish, c, c_stride, workspace);
  } else {
    product_by_dnnl(m, n, k, a, b, finish, c, c_stride);
  }
}

}  // namespace pipemark::kokkos
