// dnnl_sgemm on one thread: a rank is one core, whatever OpenMP's default is.
#include "kernels/kokkos/gemm.hpp"

#include <dnnl.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "kernels/check.hpp"

namespace pipemark::kokkos {

void gemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
          const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c,
          std::int64_t ldc) {
#ifdef _OPENMP
  thread_local bool single = false;  // OpenMP keeps its thread count by calling thread
  if (!single) {
    omp_set_num_threads(1);
    single = true;
  }
#endif
  if (m == 0 || n == 0) return;
  const dnnl_status_t status = dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k,
                                          1.0f, a, lda, b, ldb, beta, c, ldc);
  check(status == dnnl_success, "dnnl_sgemm({} x {} x {}): status {}", m, n, k,
        static_cast<int>(status));
}

}  // namespace pipemark::kokkos
