// Paced devices hold what simulate() predicts: 4 and 8 ranks on two cores, small real compute, each
// action's time long against a process's wake-up. Also what a profile means, and what an overrun
// is.
#include "trainer/pace.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "schedules/catalogue.hpp"
#include "schedules/simulate.hpp"
#include "tests/trainer/executor_fakes.hpp"
#include "trainer/cluster.hpp"
#include "trainer/transport_mpi.hpp"

namespace pipemark {
namespace {

using testing::FakeDevice;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::request_of;
using testing::Rig;

Cluster& cluster() {
  static auto* instance = new Cluster(30);  // MPI is ended by main()
  return *instance;
}

/// The bound for paced against predicted bubble_ratio.
constexpr double kBubbleTolerance = 0.01;
/// F = I = W; real compute of a call stays below 5 % of it.
constexpr double kActionS = 10e-3, kWorkS = 0.2e-3;

PaceProfile profile() {
  PaceProfile p;
  p.source = "test.toml";
  p.whole = {kActionS, kActionS, kActionS};
  return p;
}

struct Paced {
  Timeline timeline;  ///< on rank 0
  int peak_live = 0;
  std::vector<std::string> faults;
  PaceCounts counts;
};

Paced run_paced(const Schedule& schedule, const CostModel& cost, double work_s) {
  FakeDevice device;
  TransportMpi transport(cluster().world(), device, {30, WaitPolicy::shared_core});
  Pacer pacer(cost, cluster().rank(), cluster().clock_offset().offset_s);
  Rig rig(schedule, cluster().rank(), device, &transport, 256, &pacer);
  for (auto& stage : rig.stages) stage->work_s = work_s;
  pacer.begin_step(cluster().world());
  rig.run(0);
  return {gather_timeline(cluster().world(), rig.times, cluster().clock_offset().offset_s),
          rig.times.peak_live, rig.faults(), pacer.counts()};
}

double overruns_of(const Paced& paced) {
  return cluster().world().allreduce_sum(double(paced.counts.overruns));
}

/// A step in which no action overran its time: where the machine took the cores away, the timeline
/// is not the pace's, and the step is run again, kAttempts times in all. Collective.
Paced run_undisturbed(const Schedule& schedule, const CostModel& cost) {
  constexpr int kAttempts = 8;
  Paced paced = run_paced(schedule, cost, kWorkS);
  for (int attempt = 1; attempt < kAttempts && overruns_of(paced) > 0; ++attempt) {
    paced = run_paced(schedule, cost, kWorkS);
  }
  EXPECT_EQ(overruns_of(paced), 0);
  return paced;
}

TEST(Paced, BubbleIsThePredictedOneAndTheClosedForms) {
  const int ranks = cluster().size();
  for (const char* name : {"gpipe", "1f1b", "dualpipe"}) {
    for (int times : {1, 2, 4}) {
      const ScheduleRequest request = request_of(ranks, times * ranks);
      const CatalogueRow& row = find_schedule(name);
      if (!row.refuse(request).empty()) {
        EXPECT_EQ(times, 1) << name << " refused " << row.refuse(request);
        continue;
      }
      SCOPED_TRACE(fmt::format("{} P={} M={}", name, ranks, request.micro_batches));
      const Schedule schedule = row.generate(request);
      const CostModel cost = profile().cost_model(ranks, schedule.placement.stages);
      const Paced paced = run_undisturbed(schedule, cost);
      const Simulation predicted = simulate(schedule, cost);
      EXPECT_THAT(paced.faults, IsEmpty());
      EXPECT_EQ(paced.peak_live, predicted.peak_live[static_cast<std::size_t>(cluster().rank())]);
      const double actions = cluster().world().allreduce_sum(double(paced.counts.actions));
      if (cluster().rank() != 0) continue;
      EXPECT_NEAR(paced.timeline.bubble_ratio(), predicted.bubble_ratio, kBubbleTolerance);
      const double bubble_s = row.closed_form.bubble(request, kActionS, kActionS, kActionS);
      const double work_s = 3 * kActionS * request.micro_batches;
      EXPECT_NEAR(paced.timeline.bubble_ratio(), bubble_s / (bubble_s + work_s), kBubbleTolerance);
      std::printf("  %-9s P=%d M=%-2d bubble_ratio %.4f predicted %.4f, %g actions\n", name, ranks,
                  request.micro_batches, paced.timeline.bubble_ratio(), predicted.bubble_ratio,
                  actions);
    }
  }
}

TEST(Paced, ASlowRankShowsAndIsPredicted) {
  const int ranks = cluster().size();
  const Schedule schedule = make_schedule("1f1b", request_of(ranks, 2 * ranks));
  PaceProfile slow = profile();
  slow.speed.assign(static_cast<std::size_t>(ranks), 1.0);
  slow.speed[1] = 0.7;
  const CostModel cost = slow.cost_model(ranks, ranks);
  const Paced paced = run_undisturbed(schedule, cost);
  if (cluster().rank() != 0) return;
  const double even = simulate(schedule, profile().cost_model(ranks, ranks)).bubble_ratio;
  EXPECT_NEAR(paced.timeline.bubble_ratio(), simulate(schedule, cost).bubble_ratio,
              kBubbleTolerance);
  EXPECT_GT(std::abs(paced.timeline.bubble_ratio() - even), 5 * kBubbleTolerance)
      << "a wrong prediction would pass";
}

TEST(Paced, MessageTimesDelayTheReceiver) {
  const int ranks = cluster().size();
  const Schedule schedule = make_schedule("gpipe", request_of(ranks, ranks));
  CostModel cost = profile().cost_model(ranks, ranks);
  cost.message = CostModel::uniform(ranks, ranks, {1, 1, 1}, kActionS / 2).message;
  const Paced paced = run_undisturbed(schedule, cost);
  if (cluster().rank() != 0) return;
  const double predicted = simulate(schedule, cost).makespan;
  EXPECT_NEAR(paced.timeline.makespan_s() / predicted, 1, kBubbleTolerance);
  EXPECT_GT(predicted, 1.1 * simulate(schedule, profile().cost_model(ranks, ranks)).makespan);
}

TEST(Paced, ComputeLongerThanItsTimeIsAnOverrun) {
  const int ranks = cluster().size();
  const Schedule schedule = make_schedule("1f1b", request_of(ranks, ranks));
  PaceProfile fast = profile();
  fast.whole = {0.5e-3, 0.5e-3, 0.5e-3};
  const Paced paced = run_paced(schedule, fast.cost_model(ranks, ranks), 1e-3);
  EXPECT_EQ(paced.counts.actions, 2 * ranks);
  // Each call works 1 ms: F (0.5 ms) overruns, B (two halves of 1 ms against 1 ms) too.
  EXPECT_EQ(paced.counts.overruns, 2 * ranks);
  EXPECT_GT(paced.counts.worst_overrun_s, 0.4e-3);
  EXPECT_GT(paced.counts.busiest, 1.0);
}

TEST(PaceProfile, AStageTakesItsShareOfTheModel) {
  PaceProfile p = profile();
  p.whole = {1, 2, 3};
  EXPECT_DOUBLE_EQ(p.cost_model(4, 8).of(2, 5).input_grad, 1);  // P/S = 1/2
  p.speed = {1, 0.5, 1, 1};
  EXPECT_DOUBLE_EQ(p.cost_model(4, 8).of(1, 0).weight_grad, 3);
  p.stages = {{1, 1, 1}, {4, 5, 6}};
  EXPECT_DOUBLE_EQ(p.cost_model(4, 2).of(1, 1).forward, 8);  // stated by stage: no share
}

TEST(PaceProfile, WrongSizesAndTimesNameTheFileAndTheKey) {
  const auto message = [](const PaceProfile& p) -> std::string {
    try {
      p.cost_model(4, 4);
    } catch (const UserError& error) {
      EXPECT_FALSE(error.hint().empty());
      return error.what();
    }
    return "accepted";
  };
  PaceProfile p = profile();
  p.stages.resize(3);
  EXPECT_EQ(message(p), "test.toml: stages has 3 entries, but the schedule has 4 stages");
  p = profile();
  p.speed = {1, 1};
  EXPECT_EQ(message(p), "test.toml: speed has 2 entries, but the pipeline has 4 ranks");
  p.speed = {1, 0, 1, 1};
  EXPECT_THAT(message(p), HasSubstr("speed = 0 is not a positive number"));
  p.speed.clear();
  p.whole.forward = -1;
  EXPECT_THAT(message(p), HasSubstr("forward = -1"));
}

}  // namespace
}  // namespace pipemark
