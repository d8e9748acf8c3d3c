// TransportMpi: boundary tensors by MPI_Irecv and MPI_Isend on a communicator of its own. Host
// memory is sent as it lies; a GPU's goes through page-locked staging buffers:
//
//   post_send     event on compute stream -> copy on the send stream -> event -> MPI_Isend
//   post_receive  MPI_Irecv into staging -> copy on the receive stream -> event -> the reader waits
//
// where the host only starts the next part once it sees the last one done (progress()). Between a
// host's fp32 and a GPU's bf16 the wire has bf16, and the host converts. Staging
// buffers and message records are made in the first step and kept.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "trainer/clock.hpp"
#include "trainer/transport.hpp"

namespace pipemark {

class Group;

class TransportMpi final : public Transport {
 public:
  struct Options {
    double timeout_s = 60;
    WaitPolicy wait = WaitPolicy::own_core;
    std::vector<DType> dtypes = {};  ///< of the tensors of each rank; empty: all alike
  };
  /// Collective over the pipeline's group. `device` must outlive the transport.
  TransportMpi(Group& pipeline, Device& device, const Options& options);
  ~TransportMpi() override;

  std::string name() const override { return "mpi"; }
  MessageId post_receive(Tensor into, int peer, int tag) override;
  bool received(MessageId id) override;
  void wait_received(MessageId id, Stream stream, const WaitContext& context) override;
  MessageId post_send(Tensor tensor, int peer, int tag, Stream stream) override;
  bool sent(MessageId id) override;
  void wait_sent(MessageId id, Stream stream, const WaitContext& context) override;
  void progress() override;

  std::size_t staging_bytes() const;  ///< page-locked memory taken
  int outstanding() const;            ///< messages not yet waited for

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pipemark
