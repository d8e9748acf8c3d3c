// The executor over stages that tell a wrong, early or overwritten buffer: every schedule there is
// now, P = ranks, M = P, 2P, 4P, host and deferred device, several steps; live activations and
// slots as simulate() and slot_needs() predict.
#include "trainer/executor.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "schedules/catalogue.hpp"
#include "schedules/simulate.hpp"
#include "schedules/text.hpp"
#include "tests/trainer/executor_fakes.hpp"
#include "tests/trainer/fake_peer_memory.hpp"
#include "trainer/cluster.hpp"
#include "trainer/transport_ipc.hpp"

namespace pipemark {
namespace {

using ::testing::ElementsAre;
using testing::FakeDevice;
using ::testing::IsEmpty;
using testing::request_of;
using testing::Rig;

Cluster& cluster() {
  static auto* instance = new Cluster(30);  // MPI is ended by main()
  return *instance;
}

/// Schedules of the catalogue that take this many ranks and micro-batches.
std::vector<Schedule> schedules_for(int ranks, int micro_batches) {
  std::vector<Schedule> schedules;
  const ScheduleRequest request = request_of(ranks, micro_batches);
  for (const CatalogueRow& row : catalogue()) {
    if (row.name == "zb-auto" || !row.refuse(request).empty()) continue;
    schedules.push_back(row.generate(request));
  }
  return schedules;
}

CostModel ones(const Placement& placement) {
  return CostModel::uniform(placement.ranks, placement.stages, {1, 1, 1}, 0);
}

enum class Way { host, deferred, ipc };
std::string name_of(Way way) {
  return way == Way::host ? "host" : way == Way::deferred ? "deferred" : "ipc";
}

class ExecutorTest : public ::testing::TestWithParam<Way> {
 protected:
  ExecutorTest() : device(GetParam() != Way::host), memory(device) {
    if (GetParam() != Way::ipc) device.allocator = nullptr;
    const TransportMpi::Options options{30, cluster().wait_policy()};
    if (GetParam() == Way::ipc) {
      transport = std::make_unique<TransportIpc>(cluster().world(), device, memory, options);
    } else {
      transport = std::make_unique<TransportMpi>(cluster().world(), device, options);
    }
  }
  FakeDevice device;
  testing::FakePeerMemory memory;
  std::unique_ptr<Transport> transport;
};

TEST_P(ExecutorTest, RunsEverySchedule) {
  const int ranks = cluster().size(), me = cluster().rank();
  int count = 0;
  for (int times : {1, 2, 4}) {
    for (const Schedule& schedule : schedules_for(ranks, times * ranks)) {
      SCOPED_TRACE(fmt::format("{} P={} M={} rank {}", schedule.name, ranks, times * ranks, me));
      Rig rig(schedule, me, device, transport.get(), 321);
      for (int step = 0; step < 3; ++step) {
        rig.run(step);
        EXPECT_EQ(
            rig.times.peak_live,
            simulate(schedule, ones(schedule.placement)).peak_live[static_cast<std::size_t>(me)]);
      }
      EXPECT_THAT(rig.faults(), IsEmpty());
      int forwards = 0;
      for (const auto& stage : rig.stages) forwards += stage->forwards;
      const int own =
          static_cast<int>(rig.stages.size()) * times * ranks / schedule.placement.replicas;
      EXPECT_EQ(cluster().world().allreduce_sum(double(forwards)), 3.0 * own * ranks);
      ++count;
    }
  }
  EXPECT_GE(count, 7) << "GPipe and 1F1B at three sizes, DualPipe at two, and more";
}

TEST_P(ExecutorTest, ForwardOnlyRunsReplicaZeroBetweenSteps) {
  const int ranks = cluster().size(), me = cluster().rank();
  for (const Placement& placement :
       {Placement::linear(ranks), Placement::v_shape(ranks), Placement::looped(ranks, 3),
        Placement::bidirectional(ranks)}) {
    Schedule schedule;  // GPipe order on this placement, all F then all B
    schedule.name = "all-forward-all-backward";
    schedule.micro_batches = 2 * ranks;
    schedule.placement = placement;
    schedule.ranks.resize(static_cast<std::size_t>(ranks));
    for (int m = 0; m < schedule.micro_batches; ++m) {
      for (int s = 0; s < placement.stages; ++s) {
        schedule.ranks[static_cast<std::size_t>(placement.rank_of(0, s))].push_back(
            {Kind::F, 0, static_cast<std::int16_t>(s), m});
      }
    }
    for (int m = 0; m < schedule.micro_batches; ++m) {
      for (int s = placement.stages - 1; s >= 0; --s) {
        schedule.ranks[static_cast<std::size_t>(placement.rank_of(0, s))].push_back(
            {Kind::B, 0, static_cast<std::int16_t>(s), m});
      }
    }
    Rig rig(schedule, me, device, transport.get(), 33);
    rig.run(0);
    for (auto& stage : rig.stages) {
      stage->keeps = false;
      stage->step = 9;
    }
    rig.executor->run_forward(9, rig.forward);
    for (auto& stage : rig.stages) stage->keeps = true;
    rig.run(1);
    EXPECT_THAT(rig.faults(), IsEmpty());
    int forwards = 0;
    for (const auto& stage : rig.stages) forwards += stage->forwards;
    EXPECT_EQ(cluster().world().allreduce_sum(double(forwards)),
              3.0 * placement.stages * schedule.micro_batches);
  }
}

TEST_P(ExecutorTest, TimesAreOfTheRightOrder) {
  const int ranks = cluster().size(), me = cluster().rank();
  const Schedule schedule = make_schedule("1f1b", request_of(ranks, 2 * ranks));
  Rig rig(schedule, me, device, transport.get(), 64);
  rig.run(0);
  const Timeline timeline =
      gather_timeline(cluster().world(), rig.times, cluster().clock_offset().offset_s);
  ASSERT_EQ(timeline.ranks.size(), me == 0 ? static_cast<std::size_t>(ranks) : 0);
  for (std::size_t r = 0; r < timeline.ranks.size(); ++r) {
    const auto& row = timeline.ranks[r];
    ASSERT_EQ(row.size(), schedule.ranks[r].size());
    for (std::size_t k = 0; k < row.size(); ++k) {
      EXPECT_EQ(row[k].action, schedule.ranks[r][k]);
      EXPECT_LE(row[k].start_s, row[k].end_s);
      if (k > 0) {
        EXPECT_LE(row[k - 1].end_s, row[k].start_s);
      }
      // Cause before effect, across ranks: the clocks share a zero.
      if (row[k].action.kind == Kind::F && r > 0) {
        const auto& before = timeline.ranks[r - 1];
        for (const TimedAction& other : before) {
          if (other.action.kind != Kind::F) continue;
          if (other.action.micro_batch == row[k].action.micro_batch) {
            EXPECT_LE(other.end_s, row[k].start_s);
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, ExecutorTest,
                         ::testing::Values(Way::host, Way::deferred, Way::ipc),
                         [](const auto& info) { return name_of(info.param); });

TEST(ExecutorPlan, SlotsAreThePredictedOnesAndBuffersAreBounded) {
  for (int ranks : {2, 4, 8}) {
    for (int times : {1, 2, 4}) {
      for (const Schedule& schedule : schedules_for(ranks, times * ranks)) {
        SCOPED_TRACE(fmt::format("{} P={} M={}", schedule.name, ranks, times * ranks));
        const auto needs = slot_needs(schedule);
        for (int rank = 0; rank < ranks; ++rank) {
          const ExecutorPlan plan = plan_step(schedule, rank);
          int bound = 2 * (kLookAhead + kSendAhead + 1) + 2;
          for (std::size_t k = 0; k < plan.held.size(); ++k) {
            const SlotNeeds& need = needs[static_cast<std::size_t>(rank)][k];
            EXPECT_EQ(plan.held[k].activation_slots, need.activations);
            EXPECT_EQ(plan.held[k].weight_slots, need.deferred_weights);
            bound += need.activations + need.deferred_weights;
          }
          EXPECT_LE(plan.buffers, bound);
          EXPECT_EQ(plan.peak_live, simulate(schedule, ones(schedule.placement))
                                        .peak_live[static_cast<std::size_t>(rank)]);
        }
      }
    }
  }
}

TEST(ExecutorPlan, SendersAndReceiversAgreeOnTags) {
  const Schedule schedule = make_schedule("dualpipe", request_of(4, 8));
  std::vector<std::tuple<int, int, int>> sent, received;
  for (int rank = 0; rank < 4; ++rank) {
    const ExecutorPlan plan = plan_step(schedule, rank);
    for (const PlanMessage& m : plan.sends) sent.emplace_back(rank, m.peer, m.tag);
    for (const PlanMessage& m : plan.receives) received.emplace_back(m.peer, rank, m.tag);
  }
  std::sort(sent.begin(), sent.end());
  std::sort(received.begin(), received.end());
  EXPECT_EQ(sent, received);
  EXPECT_EQ(std::unique(sent.begin(), sent.end()), sent.end());
}

TEST(ExecutorPlan, ARowThatCannotBeLaidOutNamesItsPlace) {
  Schedule schedule = make_schedule("1f1b", request_of(2, 2));
  schedule.ranks[1].erase(schedule.ranks[1].begin());  // the first F
  try {
    plan_step(schedule, 1);
    FAIL() << "laid out";
  } catch (const LogicError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("rank 1"));
  }
}

TEST(Executor, SeveralStagesOnOneRankHandOverWithoutMessages) {
  const Schedule schedule = make_schedule("gpipe", request_of(1, 3));
  Schedule four = schedule;
  four.placement = Placement::looped(1, 4);
  four.ranks.assign(1, {});
  for (int m = 0; m < 3; ++m) {
    for (std::int16_t s = 0; s < 4; ++s) four.ranks[0].push_back({Kind::F, 0, s, m});
  }
  for (int m = 0; m < 3; ++m) {
    for (std::int16_t s = 3; s >= 0; --s) four.ranks[0].push_back({Kind::I, 0, s, m});
  }
  for (int m = 0; m < 3; ++m) {
    for (std::int16_t s = 0; s < 4; ++s) four.ranks[0].push_back({Kind::W, 0, s, m});
  }
  FakeDevice device;
  Rig rig(four, 0, device, nullptr, 50);
  EXPECT_THAT(rig.plan.sends, IsEmpty());
  for (int step = 0; step < 2; ++step) rig.run(step);
  EXPECT_THAT(rig.faults(), IsEmpty());
  EXPECT_EQ(rig.times.peak_live, 12);
  EXPECT_EQ(rig.plan.held[0].weight_slots, 3);
}

}  // namespace
}  // namespace pipemark
