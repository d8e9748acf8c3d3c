// TransportIpc: boundary tensors between ranks of one machine, straight from the sender's buffer to
// the receiver's by a copy engine, all in stream order: no host waits and no multiprocessor is taken.
//
//   sender     compute stream:  writes its buffer | made := n      | wait taken >= n | writes it again
//   receiver   compute stream:  ... reads the buffer | event       | wait event      | reads it
//              receive stream:  wait event, wait made >= n, copy, taken := n, event
//
// `made` lies in the receiver's memory and `taken` in the sender's, so that each side polls its own. n
// counts the uses of a message, one a step. The receiver copies, in the order in which it reads: all
// copies of a device may share one queue of the hardware, where one that waits holds up those behind
// it, and those are read later. Addresses and flags are exchanged once a plan.
#pragma once

#include <string>
#include <vector>

#include "kernels/arena.hpp"
#include "trainer/peer_memory.hpp"
#include "trainer/transport_planned.hpp"

namespace pipemark {

class TransportIpc final : public PlannedTransport {
 public:
  /// Collective over the pipeline's group, whose ranks are on one machine. `memory` must outlive the
  /// transport.
  TransportIpc(Group& pipeline, Device& device, PeerMemory& memory,
               const TransportMpi::Options& options);
  ~TransportIpc() override;
  std::string name() const override { return "ipc"; }

 private:
  /// Of one rank: enough for 200 plans of 2000 messages, and a whole page of device memory.
  static constexpr std::int64_t kFlags = 512 * 1024;

  struct Receive {
    Tensor tensor;
    const void* remote = nullptr;    ///< the sender's buffer
    std::uint32_t* made = nullptr;   ///< own
    std::uint32_t* taken = nullptr;  ///< the sender's
    Event event;  ///< the tensor may be written, then it is
    std::uint32_t count = 0;
  };
  struct Send {
    std::uint32_t* made = nullptr;   ///< the receiver's
    std::uint32_t* taken = nullptr;  ///< own
    std::uint32_t count = 0;
  };
  struct Plan {
    std::vector<Receive> receives;
    std::vector<Send> sends;
  };
  struct Notice;  ///< what a rank tells another about a message

  void connect(int plan, std::span<const PlannedTransfer> receives,
               std::span<const PlannedTransfer> sends) override;
  void start_receive(int plan, int index) override;
  void await_received(int plan, int index, Stream stream) override;
  bool has_arrived(int plan, int index) override;
  void start_send(int plan, int index, Stream stream) override;
  void await_sent(int plan, int index, Stream stream) override;
  bool has_left(int plan, int index) override;

  std::vector<Notice> make_messages(Plan& plan, std::span<const PlannedTransfer> receives,
                                    std::span<const PlannedTransfer> sends);
  std::uint32_t take_flag();
  std::uint32_t* flag_of(int rank, std::uint32_t index);
  Receive& receive_of(int plan, int index);
  Send& send_of(int plan, int index);

  PeerMemory& memory_;
  Arena flags_memory_;
  std::vector<std::uint32_t*> flags_;  ///< by rank, as this process sees them
  std::uint32_t flags_taken_ = 0;
  std::vector<Plan> plans_;
};

}  // namespace pipemark
