// TransportNccl: boundary tensors and sums of gradients by NCCL, for GPUs that don't share a machine
// or where it is asked for. Each sender, receiver and lane have a communicator of two ranks and a
// stream of their own, so that messages of one direction never wait for those of another and a
// communicator's messages come in one order. A message takes `channels` multiprocessors on each side
// from when its receive is enqueued. The library is loaded when it is asked for.
#pragma once

#include <memory>

#include "trainer/device_sum.hpp"
#include "trainer/transport_mpi.hpp"

namespace pipemark {

/// True where this build can use NCCL and its library loads.
bool find_nccl();

/// Collective over the pipeline's group. The name tells the settings, for the record.
std::unique_ptr<Transport> make_nccl_transport(Group& pipeline, Device& device,
                                               const TransportMpi::Options& options, int channels);
/// Collective over the group. With two ranks the sum is that of the ranks' order; with more NCCL
/// chooses an order, the same in each step.
std::unique_ptr<DeviceSum> make_nccl_sum(Group& group, Device& device, int channels);

}  // namespace pipemark
