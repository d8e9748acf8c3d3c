// From action times to means and to the cost model that predicts the step they came from.
#include "trainer/monitor.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "schedules/simulate.hpp"
#include "tests/trainer/executor_fakes.hpp"
#include "trainer/cluster.hpp"

namespace pipemark {
namespace {

using testing::request_of;

Cluster& cluster() {
  static auto* instance = new Cluster(30);  // MPI is ended by main()
  return *instance;
}

/// Unequal times by stage: powers of two, so that sums and means are exact.
CostModel truth(const Placement& placement, double overlap) {
  CostModel cost = CostModel::uniform(placement.ranks, placement.stages, {1, 1, 1}, 0);
  for (int r = 0; r < cost.ranks; ++r) {
    for (int s = 0; s < cost.stages; ++s) {
      cost.stage[static_cast<std::size_t>(r * cost.stages + s)] = {s % 2 == 0 ? 1.0 : 2.0, 4, 4};
    }
  }
  cost.overlap = overlap;
  return cost;
}

/// This rank's row as simulated, as if it had been measured, beginning `late_s` after the others.
ActionTimes measured(const Schedule& schedule, const CostModel& cost, double late_s) {
  ActionTimes times;
  times.zero_s = 100 + late_s;
  times.actions =
      simulate(schedule, cost, true).timeline.ranks[static_cast<std::size_t>(cluster().rank())];
  for (TimedAction& action : times.actions) {
    action.start_s -= late_s;
    action.end_s -= late_s;
  }
  return times;
}

class MonitorTest : public ::testing::TestWithParam<const char*> {};

TEST_P(MonitorTest, MeansPredictTheStepTheyCameFrom) {
  const int ranks = cluster().size();
  const Schedule schedule = make_schedule(GetParam(), request_of(ranks, 4 * ranks));
  const CostModel cost = truth(schedule.placement, 0.875);
  ActionMeans means;
  for (int step = 0; step < 2; ++step) means.add(measured(schedule, cost, 0));
  const CostModel found = gather_cost_model(cluster().world(), schedule.placement, means);
  for (const auto& [replica, stage] : schedule.placement.held_by(cluster().rank())) {
    const StageCost& a = found.of(cluster().rank(), stage);
    const StageCost& b = cost.of(cluster().rank(), stage);
    EXPECT_NEAR(a.forward, b.forward, 1e-12);
    EXPECT_NEAR(a.input_grad, b.input_grad, 1e-12);
    EXPECT_NEAR(a.weight_grad, b.weight_grad, 1e-12);
  }
  EXPECT_NEAR(simulate(schedule, found).makespan, simulate(schedule, cost).makespan, 1e-9);
  const CostModel other = truth(schedule.placement, 1.5);
  if (std::string(GetParam()) == "dualpipe") {
    EXPECT_NEAR(found.overlap, 0.875, 1e-12);
    EXPECT_NE(simulate(schedule, other).makespan, simulate(schedule, cost).makespan);
  }
}

TEST_P(MonitorTest, TimelineHasOneZeroWhateverTheRanksClocks) {
  const int ranks = cluster().size(), me = cluster().rank();
  const Schedule schedule = make_schedule(GetParam(), request_of(ranks, 2 * ranks));
  const CostModel cost = truth(schedule.placement, 1);
  // Each rank begins later and has a clock that is off; the offset puts it right.
  ActionTimes times = measured(schedule, cost, 0.25 * me);
  times.zero_s -= 1000.0 * me;
  const Timeline timeline = gather_timeline(cluster().world(), times, 1000.0 * me);
  if (me != 0) return;
  const Timeline expected = simulate(schedule, cost, true).timeline;
  ASSERT_EQ(timeline.ranks.size(), expected.ranks.size());
  for (std::size_t r = 0; r < expected.ranks.size(); ++r) {
    ASSERT_EQ(timeline.ranks[r].size(), expected.ranks[r].size());
    for (std::size_t k = 0; k < expected.ranks[r].size(); ++k) {
      EXPECT_EQ(timeline.ranks[r][k].action, expected.ranks[r][k].action);
      EXPECT_NEAR(timeline.ranks[r][k].start_s, expected.ranks[r][k].start_s, 1e-9);
      EXPECT_NEAR(timeline.ranks[r][k].end_s, expected.ranks[r][k].end_s, 1e-9);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Schedules, MonitorTest, ::testing::Values("gpipe", "1f1b", "dualpipe"),
                         [](const auto& info) {
                           return std::string(info.param) == "1f1b" ? "OneFOneB" : info.param;
                         });

}  // namespace
}  // namespace pipemark
