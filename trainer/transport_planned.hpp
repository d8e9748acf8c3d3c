// PlannedTransport: what the stream-ordered transports share. The messages of a plan are announced
// once, found by peer and tag, and enqueued on the device; the host waits in await() only, and there
// with a time-out that names the message which did not come. Messages outside of plans go by MPI.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "trainer/transport_mpi.hpp"

namespace pipemark {

class PlannedTransport : public Transport {
 public:
  /// Collective over the pipeline's group, which must outlive the transport, as `device` must.
  PlannedTransport(Group& pipeline, Device& device, const TransportMpi::Options& options);
  ~PlannedTransport() override;

  bool stream_ordered() const override { return true; }
  int prepare(std::span<const PlannedTransfer> receives,
              std::span<const PlannedTransfer> sends) final;
  void use(int plan) final;
  MessageId post_receive(Tensor into, int peer, int tag) final;
  bool received(MessageId id) final;
  void wait_received(MessageId id, Stream stream, const WaitContext& context) final;
  MessageId post_send(Tensor tensor, int peer, int tag, Stream stream) final;
  bool sent(MessageId id) final;
  void wait_sent(MessageId id, Stream stream, const WaitContext& context) final;
  void progress() final { others_.progress(); }
  void await(Event event) final;

 protected:
  /// Collective: makes what the messages of a new plan need; they are numbered as given.
  virtual void connect(int plan, std::span<const PlannedTransfer> receives,
                       std::span<const PlannedTransfer> sends) = 0;
  /// The message into a buffer that the compute stream is done with so far may come.
  virtual void start_receive(int plan, int index) = 0;
  virtual void await_received(int plan, int index, Stream stream) = 0;
  virtual bool has_arrived(int plan, int index) = 0;
  virtual void start_send(int plan, int index, Stream stream) = 0;
  virtual void await_sent(int plan, int index, Stream stream) = 0;
  virtual bool has_left(int plan, int index) = 0;

  Group& group_;
  Device& device_;

 private:
  using Index = std::unordered_map<std::int64_t, int>;
  struct Plan {
    std::vector<PlannedTransfer> receives, sends;
    Index receive_of, send_of;          ///< by key(peer, tag)
    std::vector<WaitContext> contexts;  ///< of each receive's last wait, for await()
  };

  static std::int64_t key(int peer, int tag) { return (std::int64_t{peer} << 32) | tag; }
  static Index index_of(const std::vector<PlannedTransfer>& transfers);
  int find(const std::vector<PlannedTransfer>& transfers, const Index& index, int peer, int tag,
           const Tensor& tensor) const;
  Plan& current() { return *plans_[static_cast<std::size_t>(plan_)]; }
  [[noreturn]] void fail(double waited_s);

  TransportMpi::Options options_;
  TransportMpi others_;
  std::vector<std::unique_ptr<Plan>> plans_;
  int plan_ = kNoPlan;
};

}  // namespace pipemark
