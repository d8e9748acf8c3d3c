// main() of the tests that run under mpirun: one GoogleTest program on every rank, output of rank 0
// and of failing ranks only; fails when any rank does, and when no test ran. 77: all were skipped.
#include <gtest/gtest.h>

#define OMPI_SKIP_MPICXX 1  // the C bindings alone
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  testing::InitGoogleTest(&argc, argv);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
  }
  int failed = RUN_ALL_TESTS();
  const auto* tests = testing::UnitTest::GetInstance();
  if (tests->test_to_run_count() == 0) failed = 1;
  if (failed == 0 && tests->skipped_test_count() == tests->test_to_run_count()) failed = 77;
  int any_failed = 0;
  MPI_Allreduce(&failed, &any_failed, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return any_failed;
}
