// TransportMpi on host memory and through staging buffers (a fake device that does its work late):
// right data in order, no growth after the first step, and a wait that ends with who, what and
// where.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/trainer/executor_fakes.hpp"
#include "trainer/cluster.hpp"
#include "trainer/transport_mpi.hpp"

namespace pipemark {
namespace {

using testing::FakeDevice;

Cluster& cluster() {
  static auto* instance = new Cluster(30);  // MPI is ended by main()
  return *instance;
}

class TransportMpiTest : public ::testing::TestWithParam<bool> {
 protected:
  TransportMpiTest()
      : device_(GetParam()),
        transport_(cluster().world(), device_, {30, cluster().wait_policy()}) {}
  int me() const { return cluster().rank(); }
  int next() const { return (me() + 1) % cluster().size(); }
  int previous() const { return (me() + cluster().size() - 1) % cluster().size(); }
  static Tensor tensor(std::vector<float>& v) {
    return {v.data(), static_cast<std::int64_t>(v.size()), DType::f32};
  }

  FakeDevice device_;
  TransportMpi transport_;
};

TEST_P(TransportMpiTest, RingOfMessagesArrivesInOrderAndStopsGrowing) {
  const Stream compute = device_.stream(StreamRole::compute);
  int allocations = 0;
  for (int step = 0; step < 3; ++step) {
    // Small (eager) and large (rendezvous) messages; two of each share a tag.
    for (std::size_t size : {std::size_t{1}, std::size_t{1000}, std::size_t{200000}}) {
      std::vector<std::vector<float>> in(4, std::vector<float>(size)), out = in;
      std::vector<MessageId> receives, sends;
      for (int k = 0; k < 4; ++k) {
        receives.push_back(transport_.post_receive(tensor(in[k]), previous(), k / 2));
      }
      for (int k = 0; k < 4; ++k) {
        float* data = out[k].data();
        device_.enqueue(compute, [=, me = me()] {  // the sender's work, enqueued before the send
          for (std::size_t i = 0; i < size; ++i) data[i] = float(100 * me + 10 * step + k);
        });
        sends.push_back(transport_.post_send(tensor(out[k]), next(), k / 2, compute));
      }
      for (int k = 0; k < 4; ++k) {
        transport_.wait_received(receives[k], compute, {step, "activation", 0, k});
        const float* data = in[k].data();
        device_.enqueue(compute, [=, from = previous()] {  // work that reads what was received
          EXPECT_EQ(data[0], float(100 * from + 10 * step + k));
          EXPECT_EQ(data[size - 1], float(100 * from + 10 * step + k));
        });
      }
      for (MessageId id : sends) transport_.wait_sent(id, compute, {});
      device_.synchronize(compute);
    }
    while (transport_.outstanding() > 0) transport_.progress();
    if (step == 0) allocations = device_.allocations;
  }
  EXPECT_EQ(device_.allocations, allocations) << "staging grew after the first step";
  EXPECT_EQ(transport_.staging_bytes() > 0, GetParam());
}

TEST_P(TransportMpiTest, ASendDoesNotBlockAndIsNotDoneBeforeItsReceive) {
  std::vector<float> out(1 << 20, float(me())), in(1 << 20);  // 4 MB: rendezvous
  const Stream compute = device_.stream(StreamRole::compute);
  const MessageId send = transport_.post_send(tensor(out), next(), 7, compute);
  for (int i = 0; i < 50; ++i) transport_.progress();
  EXPECT_FALSE(transport_.sent(send));
  cluster().world().barrier();
  const MessageId receive = transport_.post_receive(tensor(in), previous(), 7);
  while (!transport_.received(receive)) {
    transport_.progress();
    sched_yield();
  }
  transport_.wait_received(receive, compute, {});
  transport_.wait_sent(send, compute, {});
  EXPECT_EQ(in.back(), float(previous()));
}

TEST_P(TransportMpiTest, APeerThatNeverSendsIsNamed) {
  TransportMpi hurried(cluster().world(), device_, {0.3, WaitPolicy::shared_core});
  std::vector<float> in(8);
  const double begin_s = now_s();
  try {
    const MessageId id = hurried.post_receive(tensor(in), previous(), 3);
    hurried.wait_received(id, device_.stream(StreamRole::compute), {17, "activation", 3, 5});
    ADD_FAILURE() << "received from nobody";
  } catch (const TransportError& error) {
    EXPECT_THAT(error.what(), ::testing::MatchesRegex(
                                  fmt::format("rank {} waited 0\\.[3-9] s for activation of "
                                              "stage 3, micro-batch 5 from rank {} in step 17",
                                              me(), previous())));
  }
  EXPECT_GE(now_s() - begin_s, 0.3) << "gave up before the time-out";
  cluster().world().barrier();
}

INSTANTIATE_TEST_SUITE_P(Devices, TransportMpiTest, ::testing::Values(false, true),
                         [](const auto& info) { return info.param ? "staged" : "host"; });

}  // namespace
}  // namespace pipemark
