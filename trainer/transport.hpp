// Transport: boundary tensors between the ranks of one pipeline, and the collectives at a step's
// end. Receives are posted ahead, sends never block, and every wait has an end: after the time-out
// it throws TransportError with rank, peer, action and step. Backends: MPI (this), NCCL and CUDA
// IPC.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kernels/check.hpp"
#include "kernels/device.hpp"
#include "kernels/tensor.hpp"

namespace pipemark {

class TransportError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Whom and what a wait is for; formatted only when it fails.
struct WaitContext {
  std::int64_t step = -1;
  const char* what = "";  ///< "activation" or "gradient"
  int stage = -1, micro_batch = -1;
};

using MessageId = std::int32_t;  ///< index of an outstanding message of this transport

class Transport {
 public:
  Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;
  virtual ~Transport() = default;

  virtual std::string name() const = 0;  ///< "mpi", "nccl", "ipc"
  /// Peers are pipeline ranks (0..P-1). Tags are below 2^20 and unique among a step's messages of a
  /// (sender, receiver) pair; messages of one pair and tag arrive in order.
  virtual MessageId post_receive(Tensor into, int peer, int tag) = 0;
  /// True once received; makes progress on all messages.
  virtual bool received(MessageId id) = 0;
  /// Returns when work enqueued on `stream` from now on may read the tensor: at once with a
  /// stream-ordered transport, after the host has waited with MPI. Frees the id.
  virtual void wait_received(MessageId id, Stream stream, const WaitContext& context) = 0;
  /// Sends what `tensor` holds once the work enqueued on `stream` so far is done. The tensor must
  /// stay untouched until sent(id).
  virtual MessageId post_send(Tensor tensor, int peer, int tag, Stream stream) = 0;
  virtual bool sent(MessageId id) = 0;
  /// Waits (with the time-out) and frees the id.
  virtual void wait_sent(MessageId id, const WaitContext& context) = 0;
  /// Pushes outstanding messages on; called while a rank is held by pacing.
  virtual void progress() = 0;
};

}  // namespace pipemark
