// ExpertExchange: the all-to-alls of a mixture of experts among the ranks of an expert group, as
// point-to-point messages that never block: rows of a forward and of a backward may be under way at
// once (an FB pair), each on its own Channel.
//
// A link can be emulated for paced runs: an exchange's rows are there `latency + bytes received /
// bandwidth` after the last message was seen to arrive.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "trainer/task.hpp"
#include "trainer/transport_mpi.hpp"

namespace pipemark {

struct ExpertLink {
  double latency_s = 0;
  double bytes_per_s = 0;  ///< 0: as fast as messages come
};

class ExpertExchange {
 public:
  /// Of a step. exposed: nothing else could run; flight: from an exchange's start until its rows
  /// are there, summed over exchanges.
  struct Times {
    double exposed_s = 0, flight_s = 0;
    std::int64_t bytes = 0;  ///< received
  };

  /// Collective over the group. `device` must outlive the exchange.
  ExpertExchange(Group& group, Device& device, const TransportMpi::Options& options,
                 const ExpertLink& link = {});

  class Channel final : public Pending {
   public:
    explicit Channel(ExpertExchange& owner) : owner_(owner) {}
    /// Starts an exchange; waits until the messages of the one before have left.
    void begin(int layer, int micro_batch);
    /// Empty messages must not be posted on either side.
    void send(Tensor rows, int peer, int tag, Stream stream);
    void receive(Tensor into, int peer, int tag);
    bool ready() override;
    /// Counts as exposed.
    void wait() override;
    double ready_s() const override { return last_s_; }
    /// When ready: work on `stream` from now on may read what came. More may be received then.
    void finish(Stream stream);

   private:
    ExpertExchange& owner_;
    WaitContext context_;
    std::vector<MessageId> sends_, receives_;
    std::size_t seen_ = 0;  ///< receives known to be there
    double begin_s_ = 0, last_s_ = 0;
    std::int64_t bytes_ = 0;
  };
  Channel& forward() { return forward_; }
  Channel& backward() { return backward_; }

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }
  void add_exposed(double seconds) { times_.exposed_s += seconds; }
  /// Since the last call.
  Times take_times() { return std::exchange(times_, Times{}); }
  /// Moves messages on and sees when they come.
  void poll() {
    forward_.ready();
    backward_.ready();
  }
  double timeout_s() const { return timeout_s_; }
  WaitPolicy wait_policy() const { return wait_; }

 private:
  TransportMpi transport_;
  int rank_, ranks_;
  double timeout_s_;
  WaitPolicy wait_;
  ExpertLink link_;
  Times times_;
  Channel forward_, backward_;
};

}  // namespace pipemark
