// TransportIpc and IpcSum over shared host memory and a device that does its work late: nothing waits
// on the host, a buffer is not written before its reader is done with it, sums have the ranks' order,
// and a peer that never comes is named.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/trainer/fake_peer_memory.hpp"
#include "trainer/cluster.hpp"
#include "trainer/message_time.hpp"
#include "trainer/transport_ipc.hpp"
#include "trainer/transport_ipc_sum.hpp"

namespace pipemark {
namespace {

using testing::FakeDevice;
using testing::FakePeerMemory;

Cluster& cluster() {
  static auto* instance = new Cluster(30);  // MPI is ended by main()
  return *instance;
}

class IpcTest : public ::testing::Test {
 protected:
  IpcTest() : device(true), memory(device), arena(device, MemoryKind::device, 1 << 16) {}
  int me() const { return cluster().rank(); }
  int next() const { return (me() + 1) % cluster().size(); }
  int previous() const { return (me() + cluster().size() - 1) % cluster().size(); }
  Tensor take(std::int64_t size) { return arena.take(size, DType::f32, "test"); }

  void drain(Transport& transport, Stream stream) {
    const Event event = device.make_event();
    device.record(event, stream);
    transport.await(event);
  }

  FakeDevice device;
  FakePeerMemory memory;
  Arena arena;
};

TEST_F(IpcTest, OneBufferServesManyMessagesInStreamOrder) {
  TransportIpc ring(cluster().world(), device, memory, {30, cluster().wait_policy()});
  const Stream compute = device.stream(StreamRole::compute);
  const Tensor in = take(1000), out = take(1000);
  const std::vector<PlannedTransfer> receives{{in, previous(), 7, 0}}, sends{{out, next(), 7, 0}};
  ring.use(ring.prepare(receives, sends));
  int read = 0;
  for (int round = 0; round < 20; ++round) {  // all enqueued before anything runs
    const MessageId receive = ring.post_receive(in, previous(), 7);
    device.enqueue(compute, [=, me = me()] {
      for (int i = 0; i < 1000; ++i) out.f32()[i] = float(100 * me + round + i);
    });
    const MessageId send = ring.post_send(out, next(), 7, compute);
    ring.wait_received(receive, compute, {round, "activation", 0, 0});
    device.enqueue(compute, [=, &read, from = previous()] {
      for (int i = 0; i < 1000; ++i) EXPECT_EQ(in.f32()[i], float(100 * from + round + i));
      ++read;
    });
    ring.wait_sent(send, compute, {});
  }
  EXPECT_EQ(read, 0) << "the host waited for the device";
  drain(ring, compute);
  EXPECT_EQ(read, 20);
  cluster().world().barrier();
}

TEST_F(IpcTest, MessagesOutsideOfAPlanGoByMpi) {
  TransportIpc ring(cluster().world(), device, memory, {30, cluster().wait_policy()});
  const Stream compute = device.stream(StreamRole::compute);
  const Tensor in = take(10), out = take(10);
  for (int i = 0; i < 10; ++i) out.f32()[i] = float(me());
  const MessageId receive = ring.post_receive(in, previous(), 3);
  const MessageId send = ring.post_send(out, next(), 3, compute);
  ring.wait_received(receive, compute, {});
  ring.wait_sent(send, compute, {});
  device.synchronize(compute);
  device.synchronize(device.stream(StreamRole::receive));
  EXPECT_EQ(in.f32()[9], float(previous()));
}

TEST_F(IpcTest, ALateSenderIsNamed) {
  TransportIpc hurried(cluster().world(), device, memory, {0.3, WaitPolicy::shared_core});
  const Stream compute = device.stream(StreamRole::compute);
  const Tensor in = take(8), out = take(8);
  const std::vector<PlannedTransfer> receives{{in, previous(), 5, 0}}, sends{{out, next(), 5, 0}};
  hurried.use(hurried.prepare(receives, sends));
  hurried.wait_received(hurried.post_receive(in, previous(), 5), compute, {17, "activation", 3, 5});
  try {
    drain(hurried, compute);
    ADD_FAILURE() << "received from nobody";
  } catch (const TransportError& error) {
    EXPECT_THAT(error.what(), ::testing::MatchesRegex(
                                  fmt::format("rank {} waited 0\\.[3-9] s for activation of "
                                              "stage 3, micro-batch 5 from rank {} in step 17",
                                              me(), previous())));
  }
  cluster().world().barrier();
}

TEST_F(IpcTest, SumsHaveTheRanksOrderAndTheSameBitsEverywhere) {
  IpcSum sum(cluster().world(), device, memory);
  const Stream compute = device.stream(StreamRole::compute);
  const int n = cluster().size();
  const auto value = [](int rank, int i) { return std::ldexp(1.0f + float(i % 5), 9 * rank - 20); };
  constexpr int kSize = 1003;
  const Tensor unused = take(17 * (me() + 1)), values = take(kSize);  // elsewhere on each rank
  const int number = sum.prepare(values);
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < kSize; ++i) values.f32()[i] = value(me(), i);
    const std::int64_t first = round == 1 ? 400 : 0;  // a bucket of it
    cluster().world().barrier();
    sum.run(compute, number, first, kSize - first);
    device.synchronize(compute);
    for (int i = 0; i < kSize; ++i) {
      float expected = value(0, i);
      for (int rank = 1; rank < n; ++rank) expected += value(rank, i);
      if (i < first) expected = value(me(), i);
      ASSERT_EQ(values.f32()[i], expected) << i;
    }
    cluster().world().barrier();
  }
}

TEST_F(IpcTest, MessageTimeIsMeasuredWithoutTheHost) {
  TransportIpc ring(cluster().world(), device, memory, {30, cluster().wait_policy()});
  const double time_s =
      measure_message_time(cluster().world(), ring, device, take(64), take(64));
  EXPECT_GT(time_s, 0);
  EXPECT_LT(time_s, 1);
  EXPECT_EQ(time_s, cluster().world().allreduce_max(time_s));
}

}  // namespace
}  // namespace pipemark
