// Inside trainer/cluster* and trainer/transport_mpi only: the MPI call check, a group's
// communicator, and the polling wait that all MPI waits of Pipemark go through.
#pragma once

// The C bindings alone: the C++ ones left the standard, and Open MPI 5 does not have them.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <span>
#include <string>
#include <vector>

#include "trainer/cluster.hpp"
#include "trainer/transport.hpp"

namespace pipemark {

/// Throws TransportError with the call, MPI's name of the error, place and rank.
void check_mpi(int code, const char* call, const char* file, int line);

struct Group::Impl {
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0, size = 1;
  std::string name;
  double timeout_s = 60;
  WaitPolicy wait_policy = WaitPolicy::own_core;
  std::vector<int> world_ranks;
  std::vector<std::byte> scratch;     ///< of the ordered sums; grows in the first call
  std::vector<MPI_Request> requests;  ///< likewise

  ~Impl();
  /// Returns when all are complete; throws TransportError "rank 2 waited 60.0 s in WHAT (data group
  /// of 4)" after the time-out. `peers`: for each request the group's rank to name, or empty.
  void wait(std::span<MPI_Request> requests, const std::string& what,
            std::span<const int> peers = {});
};

/// True once a wait of this process has timed out or a call has failed: MPI_Finalize would hang.
bool mpi_failed();
void set_mpi_failed();

}  // namespace pipemark

#define PIPEMARK_MPI_CHECK(call) ::pipemark::check_mpi((call), #call, __FILE__, __LINE__)
