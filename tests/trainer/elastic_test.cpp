// The elastic balancer in a running, paced job: a device slows down, layers leave it, the losses
// stay those of a run that was not balanced. And the modes of gradient_synchronization. On 4 ranks.
#include "trainer/elastic.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/trainer/golden.hpp"
#include "trainer/cluster.hpp"
#include "trainer/trainer.hpp"

namespace pipemark {
namespace {

Cluster& cluster() {
  static auto* instance = new Cluster(30);  // MPI is ended by main()
  return *instance;
}

RunConfig run_of(const golden::Golden& golden, const std::string& schedule) {
  RunConfig run = golden::run_of(golden, schedule, cluster().size());
  run.model.layers = 14;
  run.train.batch = 16;
  run.train.micro_batches = 8;
  return run;
}

constexpr int kSlowFrom = 10;

PaceProfile pace() {
  PaceProfile profile;
  profile.source = "test.toml";
  profile.layers =
      PaceProfile::LayerTimes{{1e-4, 0, 1e-4}, {1e-3, 1e-3, 1e-3}, {1e-3, 1e-3, 1e-3}, 3e-4, 2};
  profile.changes = {{kSlowFrom, -1, 1, 2.0}};
  return profile;
}

/// Of the schedule's actions, steps [first, last).
double pipeline_s(const TrainReport& report, int first, int last) {
  std::vector<double> times;
  for (int i = first; i < last; ++i) {
    times.push_back(report.steps[static_cast<std::size_t>(i)].pipeline_s);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

TEST(Elastic, ASlowedDeviceLosesLayersAndTheLossesStay) {
  const auto golden = golden::load(true);
  RunConfig config = run_of(golden, "1f1b");
  config.train.steps = 40;
  const PaceProfile profile = pace();
  config.balancer.name = "optimal";
  const TrainReport still = Trainer(cluster(), config, &profile).fit();
  config.balancer.name = "elastic";
  const TrainReport moved = Trainer(cluster(), config, &profile).fit();
  if (cluster().rank() != 0) return;
  const auto after = std::find_if(moved.decisions.begin(), moved.decisions.end(),
                                  [](const DecisionReport& d) { return d.step >= kSlowFrom; });
  ASSERT_NE(after, moved.decisions.end()) << "the slow device was not seen";
  EXPECT_LE(after->step, kSlowFrom + 5);
  EXPECT_TRUE(after->applied) << after->refusal;
  EXPECT_LT(after->expected_step_s, after->present_step_s);
  EXPECT_GT(after->moved_bytes, 0);
  EXPECT_LE(moved.decisions.size(), 5u) << "no thrash";
  EXPECT_LT(pipeline_s(moved, 30, 40), 0.9 * pipeline_s(still, 30, 40));
  for (std::size_t i = 0; i < still.steps.size(); ++i) {
    EXPECT_NEAR(moved.steps[i].loss, still.steps[i].loss, golden::loss_bound(golden, 40)) << i;
  }
}

TEST(Elastic, DevicesThatStayAlikeAreLeftAlone) {
  const auto golden = golden::load(true);
  RunConfig config = run_of(golden, "1f1b");
  config.train.steps = 12;
  config.train.micro_batches = 16;  // the most there are: the best without much overhead
  config.balancer.name = "elastic";
  PaceProfile profile = pace();
  profile.changes.clear();
  profile.layers->overhead_s = 0;
  const TrainReport report = Trainer(cluster(), config, &profile).fit();
  if (cluster().rank() != 0) return;
  EXPECT_EQ(report.decisions.size(), 0u);
}

std::vector<double> losses_of(RunConfig config, const std::string& mode) {
  config.balancer.gradient_synchronization = mode;
  std::vector<double> losses;
  for (const StepReport& step : Trainer(cluster(), config).fit().steps) losses.push_back(step.loss);
  return losses;
}

TEST(GradientSynchronization, BucketsGiveTheBitsOfOneSumAtTheEnd) {
  for (const bool tied : {true, false}) {
    const auto golden = golden::load(tied);
    RunConfig config = run_of(golden, "dualpipe");
    config.train.steps = 6;
    EXPECT_EQ(losses_of(config, "bucket"), losses_of(config, "step"));
    config.parallel.data = 2;
    config.parallel.pipeline = cluster().size() / 2;
    config.train.micro_batches = 4;
    for (const char* schedule : {"dualpipe", "1f1b"}) {
      config.schedule.name = schedule;
      EXPECT_EQ(losses_of(config, "bucket"), losses_of(config, "step")) << schedule;
    }
  }
}

TEST(GradientSynchronization, OffTrainsTwoModels) {
  const auto golden = golden::load(true);
  RunConfig config = run_of(golden, "dualpipe");
  config.train.steps = 6;
  const auto on = losses_of(config, "step"), off = losses_of(config, "off");
  EXPECT_EQ(on[0], off[0]) << "before the first update both replicas are the same";
  EXPECT_GT(std::abs(on[5] - off[5]), 100 * golden::loss_bound(golden));
}

TEST(LayerBytes, AreWhatAStageTakes) {
  ModelConfig model;
  const double C = model.channels, T = model.context;
  EXPECT_DOUBLE_EQ(layer_bytes(model, 1, 4).state, 16 * (12 * C * C + 13 * C));
  EXPECT_DOUBLE_EQ(layer_bytes(model, 1, 4).activation, T * (64 * C + 16 + 4 * model.heads));
  EXPECT_DOUBLE_EQ(layer_bytes(model, 1, 2).state, 18 * (12 * C * C + 13 * C));
  EXPECT_DOUBLE_EQ(layer_bytes(model, 0, 4).activation, 0);
}

}  // namespace
}  // namespace pipemark
