// Transport: boundary tensors between the ranks of one pipeline, and the collectives at a step's
// end. Receives are posted ahead, sends never block, and every wait has an end: after the time-out
// it throws TransportError with rank, peer, action and step. Backends: MPI (the host moves messages
// on), NCCL and CUDA IPC (all is enqueued on the device; the host waits in await() only).
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

/// A message that will be posted step after step, with the same memory. Messages of one sender,
/// receiver and lane are sent in the order in which they are received.
struct PlannedTransfer {
  Tensor tensor;
  int peer = -1, tag = 0;
  int lane = 0;  ///< the same number on both sides
};

class Transport {
 public:
  Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;
  virtual ~Transport() = default;

  virtual std::string name() const = 0;  ///< "mpi", "nccl", "ipc"
  /// True where waits are enqueued on the stream and the host runs ahead of the device.
  virtual bool stream_ordered() const { return false; }

  /// Collective over the pipeline: announces all messages of a plan, whose peers and tags are then
  /// unique. Gives the number by which use() names them; other messages may be posted all the same.
  virtual int prepare(std::span<const PlannedTransfer> receives,
                      std::span<const PlannedTransfer> sends) {
    (void)receives, (void)sends;
    return 0;
  }
  /// The messages from here on are of this plan, or of none. No message is outstanding.
  static constexpr int kNoPlan = -1;
  virtual void use(int plan) { (void)plan; }

  /// Peers are pipeline ranks (0..P-1). Tags are below 2^20 and unique among a step's messages of a
  /// (sender, receiver) pair; messages of one pair and tag arrive in order.
  /// What is enqueued on the compute stream so far may still use the memory of `into`.
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
  /// Returns when work enqueued on `stream` from now on may write the tensor: at once with a
  /// stream-ordered transport, after the host has waited with MPI. Frees the id.
  virtual void wait_sent(MessageId id, Stream stream, const WaitContext& context) = 0;
  /// Returns when `event`, of a stream that waits for messages, is done. Throws TransportError when
  /// it waits for one that does not come. For stream-ordered transports.
  virtual void await(Event event) { (void)event; }
  /// Pushes outstanding messages on; called while a rank is held by pacing.
  virtual void progress() = 0;
};

}  // namespace pipemark
