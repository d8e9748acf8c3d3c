#include "trainer/message_time.hpp"

#include <algorithm>
#include <vector>

namespace pipemark {

namespace {

constexpr int kWarmUps = 2, kRounds = 9, kTag = 0;

/// One of the two ranks; rank 0 sends first.
class Ping {
 public:
  Ping(Transport& transport, Device& device, int rank, Tensor out, Tensor in)
      : transport_(transport),
        device_(device),
        stream_(device.stream(StreamRole::compute)),
        rank_(rank),
        out_(out),
        in_(in) {}

  void round() {
    const MessageId receive = transport_.post_receive(in_, 1 - rank_, kTag);
    MessageId send = -1;
    if (rank_ == 0) send = transport_.post_send(out_, 1, kTag, stream_);
    transport_.wait_received(receive, stream_, kContext);
    if (!transport_.stream_ordered()) device_.synchronize(stream_);
    if (rank_ == 1) send = transport_.post_send(out_, 0, kTag, stream_);
    transport_.wait_sent(send, stream_, kContext);
  }

  double by_host() {
    std::vector<double> times;
    for (int i = 0; i < kWarmUps + kRounds; ++i) {
      const double start = now_s();
      round();
      if (i >= kWarmUps) times.push_back((now_s() - start) / 2);
    }
    std::nth_element(times.begin(), times.begin() + kRounds / 2, times.end());
    return times[kRounds / 2];
  }

  double by_device() {
    const Event first = device_.make_event(), last = device_.make_event();
    for (int i = 0; i < kWarmUps; ++i) round();
    device_.record(first, stream_);
    for (int i = 0; i < kRounds; ++i) round();
    device_.record(last, stream_);
    transport_.await(last);
    const double time_s = device_.elapsed_s(first, last) / (2 * kRounds);
    device_.destroy(first);
    device_.destroy(last);
    return time_s;
  }

 private:
  static constexpr WaitContext kContext{-1, "message time", -1, -1};
  Transport& transport_;
  Device& device_;
  Stream stream_;
  int rank_;
  Tensor out_, in_;
};

}  // namespace

double measure_message_time(Group& pipeline, Transport& transport, Device& device, Tensor out,
                            Tensor in) {
  if (pipeline.size() == 1) return 0;
  const int rank = pipeline.rank();
  std::vector<PlannedTransfer> receives, sends;
  if (rank < 2) {
    receives.push_back({in, 1 - rank, kTag, 0});
    sends.push_back({out, 1 - rank, kTag, 0});
  }
  transport.use(transport.prepare(receives, sends));
  double time_s = 0;
  if (rank < 2) {
    Ping ping(transport, device, rank, out, in);
    time_s = transport.stream_ordered() ? ping.by_device() : ping.by_host();
  }
  transport.use(Transport::kNoPlan);
  return pipeline.allreduce_sum(rank == 0 ? time_s : 0.0, "message time");
}

}  // namespace pipemark
