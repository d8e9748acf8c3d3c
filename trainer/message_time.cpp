#include "trainer/message_time.hpp"

#include <algorithm>
#include <vector>

namespace pipemark {

double measure_message_time(Group& pipeline, Transport& transport, Device& device, Tensor buffer) {
  constexpr int kWarmUps = 2, kRounds = 9, kTag = 0;
  if (pipeline.size() == 1) return 0;
  const Stream stream = device.stream(StreamRole::compute);
  const WaitContext context{-1, "message time", -1, -1};
  double median = 0;
  if (pipeline.rank() < 2) {
    const int peer = 1 - pipeline.rank();
    const auto receive = [&] {
      transport.wait_received(transport.post_receive(buffer, peer, kTag), stream, context);
      device.synchronize(stream);
    };
    const auto send = [&] {
      transport.wait_sent(transport.post_send(buffer, peer, kTag, stream), context);
    };
    std::vector<double> times;
    for (int round = 0; round < kWarmUps + kRounds; ++round) {
      const double start = now_s();
      if (pipeline.rank() == 0) {
        send();
        receive();
      } else {
        receive();
        send();
      }
      if (round >= kWarmUps) times.push_back((now_s() - start) / 2);
    }
    std::nth_element(times.begin(), times.begin() + kRounds / 2, times.end());
    if (pipeline.rank() == 0) median = times[kRounds / 2];
  }
  return pipeline.allreduce_sum(median, "message time");
}

}  // namespace pipemark
