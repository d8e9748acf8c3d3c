// DeviceLinks: how the devices of a job's ranks reach each other: which backend and GPU a rank has,
// and by which transport boundary tensors and sums of gradients go.
//
//   auto   one machine, all ranks on GPUs                  ipc
//          several machines, all ranks on GPUs of their own    nccl, where its library is found
//          else (hosts, mixed pipelines, paced runs)       mpi
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/ops.hpp"
#include "trainer/cluster.hpp"
#include "trainer/config.hpp"
#include "trainer/device_sum.hpp"
#include "trainer/peer_memory.hpp"
#include "trainer/transport_mpi.hpp"

namespace pipemark {

/// The backend of each pipeline rank. UserError when a list has another length than the pipeline.
std::vector<std::string> backends_of(const DeviceConfig& device, int pipeline);

/// Which backend and GPU this rank has. A rank takes the GPU whose index is its number among this
/// machine's ranks with a GPU; all slices are of GPU 0 (CUDA_VISIBLE_DEVICES says which that is).
struct RankDevice {
  std::string backend;
  int gpu = 0;
};
/// Collective over the world.
RankDevice choose_device(Cluster& cluster, const RunConfig& config);

class DeviceLinks {
 public:
  /// Collective over the world: all ranks decide alike. UserError where the transport asked for
  /// can't serve these devices.
  DeviceLinks(Cluster& cluster, const DeviceConfig& config, Ops& ops, bool paced);
  ~DeviceLinks();

  /// Collective over the pipeline's group, which must outlive the transport.
  std::unique_ptr<Transport> make_transport(Group& pipeline, TransportMpi::Options options);
  /// Collective over the group, which must outlive the sum. Null: sums go by MPI.
  std::unique_ptr<DeviceSum> make_sum(Group& group);
  /// Enqueues a = b = a + b, both fp32 and of this rank; false: this device can't.
  bool sum_at_home(Stream stream, Tensor a, Tensor b);
  const std::string& chosen() const { return chosen_; }  ///< "mpi", "ipc" or "nccl"

 private:
  DeviceConfig config_;
  Device& device_;
  DType dtype_;
  std::string chosen_;
  std::unique_ptr<PeerMemory> memory_;  ///< ipc and nccl
};

}  // namespace pipemark
