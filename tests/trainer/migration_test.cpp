// A pipeline that is changed between steps trains as one that never was: moved layers bring their
// weights and moments, losses and gradient norms stay bitwise the same. On 2, 4 and 8 ranks.
#include "trainer/migration.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "schedules/catalogue.hpp"
#include "tests/trainer/golden.hpp"
#include "trainer/cluster.hpp"
#include "trainer/trainer.hpp"

namespace pipemark {
namespace {

using ::testing::HasSubstr;

Cluster& cluster() {
  static auto* instance = new Cluster(30);  // MPI is ended by main()
  return *instance;
}

/// Gives the plan written down for a step.
class Script final : public RunningBalancer {
 public:
  std::map<std::int64_t, PipelinePlan> plans;
  std::vector<std::string> refusals;
  int done = 0;
  StepObservation last;

  std::optional<Decision> after_step(const StepObservation& seen) override {
    last = seen;
    const auto found = plans.find(seen.step);
    if (found == plans.end()) return {};
    return Decision{found->second, "boundaries", "as written", 1, 2, 3};
  }
  void applied(const Decision&, double migration_s) override {
    EXPECT_GT(migration_s, 0);
    ++done;
  }
  void refused(const Decision&, const std::string& why) override { refusals.push_back(why); }
};

RunConfig run_of(const golden::Golden& golden, const std::string& schedule) {
  RunConfig run = golden::run_of(golden, schedule, cluster().size());
  run.model.layers = 8;
  run.train.steps = 8;
  run.train.batch = 16;
  run.train.micro_batches = 16;
  return run;
}

std::vector<int> all_ranks() {
  std::vector<int> ranks(static_cast<std::size_t>(cluster().size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

/// S + 1 rising numbers from 0 to `layers`: stage `heavy` has what the others leave.
Partition skewed(int layers, int stages, int heavy) {
  Partition partition{{0}};
  for (int s = 0; s < stages; ++s) {
    partition.first.push_back(partition.first.back() + (s == heavy ? layers - stages + 1 : 1));
  }
  return partition;
}

TrainReport run(const RunConfig& config, Script& script) {
  return Trainer(cluster(), config, nullptr, &script).fit();
}

void expect_same(const TrainReport& moved, const TrainReport& still) {
  ASSERT_EQ(moved.steps.size(), still.steps.size());
  for (std::size_t i = 0; i < still.steps.size(); ++i) {
    EXPECT_EQ(moved.steps[i].loss, still.steps[i].loss) << "step " << i;
    EXPECT_EQ(moved.steps[i].gradient_norm, still.steps[i].gradient_norm) << "step " << i;
  }
}

void expect_memory_as_predicted(const TrainReport& report) {
  for (const RankReport& rank : report.rank_reports) {
    EXPECT_EQ(rank.peak_live, rank.predicted_peak_live) << "rank " << rank.rank;
  }
}

TEST(Migration, LossesAreThoseOfARunThatNeverMoved) {
  const int ranks = cluster().size();
  for (const bool tied : {true, false}) {
    const auto golden = golden::load(tied);
    for (const char* schedule : {"1f1b", "dualpipe", "interleaved-1f1b"}) {
      RunConfig config = run_of(golden, schedule);
      if (std::string(schedule) == "interleaved-1f1b" && ranks == 8) continue;  // 10 layers
      SCOPED_TRACE(fmt::format("{} tied {}", schedule, tied));
      const int layers = config.model.layers + 2;
      const int stages = std::string(schedule) == "interleaved-1f1b" ? 2 * ranks : ranks;
      Script none, script;
      const TrainReport still = run(config, none);
      script.plans[1] = {skewed(layers, stages, stages - 1), 16, all_ranks()};
      script.plans[3] = {skewed(layers, stages, 0), 16, all_ranks()};
      script.plans[4] = {skewed(layers, stages, stages / 2), 16, all_ranks()};
      const TrainReport moved = run(config, script);
      if (cluster().rank() != 0) continue;
      EXPECT_EQ(script.done, 3);
      expect_same(moved, still);
      ASSERT_EQ(moved.decisions.size(), 3u);
      for (const DecisionReport& decision : moved.decisions) {
        EXPECT_TRUE(decision.applied) << decision.refusal;
        // DualPipe on two ranks has every layer on both.
        const bool everywhere = std::string(schedule) == "dualpipe" && ranks == 2;
        EXPECT_EQ(decision.moved_bytes == 0, everywhere);
      }
      expect_memory_as_predicted(moved);
    }
  }
}

TEST(Migration, AChangedWeightWouldShow) {
  const auto golden = golden::load(true);
  RunConfig config = run_of(golden, "1f1b");
  Script none;
  const TrainReport still = run(config, none);
  config.train.learning_rate *= 1 + 1e-6;
  const TrainReport other = run(config, none);
  if (cluster().rank() != 0) return;
  EXPECT_NE(still.steps.back().loss, other.steps.back().loss);
}

TEST(Migration, ADeviceLeavesAndComesBack) {
  const int ranks = cluster().size();
  const auto golden = golden::load(true);
  const RunConfig config = run_of(golden, "1f1b");
  const int layers = config.model.layers + 2;
  Script none, script;
  const TrainReport still = run(config, none);
  for (const int gone : {0, ranks - 1, ranks / 2}) {
    std::vector<int> left = all_ranks();
    left.erase(left.begin() + gone);
    script.plans[1] = {skewed(layers, ranks - 1, 0), 16, left};
    script.plans[5] = {skewed(layers, ranks, 0), 16, all_ranks()};
    script.done = 0;
    const TrainReport moved = run(config, script);
    if (cluster().rank() != 0) continue;
    EXPECT_EQ(script.done, 2);
    expect_same(moved, still);
    expect_memory_as_predicted(moved);
  }
}

TEST(Migration, MicroBatchesChangeWithinTheRoundingOfTheirSums) {
  const auto golden = golden::load(false);
  const RunConfig config = run_of(golden, "1f1b");
  const Partition even = skewed(config.model.layers + 2, cluster().size(), 0);
  Script none, script;
  const TrainReport still = run(config, none);
  script.plans[1] = {even, 8, all_ranks()};
  script.plans[3] = {even, 4, all_ranks()};
  script.plans[5] = {even, 16, all_ranks()};
  const TrainReport changed = run(config, script);
  if (cluster().rank() != 0) return;
  ASSERT_EQ(script.done, 3);
  for (std::size_t i = 0; i < still.steps.size(); ++i) {
    EXPECT_NEAR(changed.steps[i].loss, still.steps[i].loss, golden::loss_bound(golden)) << i;
  }
}

TEST(Migration, WhatDoesNotFitIsRefusedAndTheRunGoesOn) {
  const int ranks = cluster().size();
  const auto golden = golden::load(true);
  const RunConfig config = run_of(golden, "dualpipe");
  const int layers = config.model.layers + 2;
  Script none, script;
  const TrainReport still = run(config, none);
  std::vector<int> one_less = all_ranks();
  one_less.pop_back();
  script.plans[0] = {skewed(layers, ranks, 0), 3, all_ranks()};       // 16 / 3
  script.plans[1] = {skewed(layers, ranks - 1, 0), 16, one_less};     // an odd number of ranks
  script.plans[2] = {skewed(layers + 1, ranks, 0), 16, all_ranks()};  // too many layers
  const TrainReport refused = run(config, script);
  if (cluster().rank() != 0) return;
  EXPECT_EQ(script.done, 0);
  ASSERT_EQ(script.refusals.size(), 3u);
  EXPECT_THAT(script.refusals[0], HasSubstr("16"));
  EXPECT_THAT(script.refusals[1], HasSubstr("dualpipe"));
  EXPECT_THAT(script.refusals[2], HasSubstr("does not fit"));
  expect_same(refused, still);
}

TEST(Migration, TheBalancerSeesEveryStage) {
  const auto golden = golden::load(true);
  Script script;
  run(run_of(golden, "dualpipe"), script);
  if (cluster().rank() != 0) return;
  EXPECT_EQ(script.last.step, 6) << "asked after each step but the last";
  ASSERT_EQ(script.last.stages.size(), 2u * static_cast<std::size_t>(cluster().size()));
  for (const StageTimes& stage : script.last.stages) {
    EXPECT_EQ(stage.micro_batches, 8);
    EXPECT_GT(stage.total_s(), 0);
  }
  for (const double bytes : script.last.memory_bytes) EXPECT_GT(bytes, 0);
}

TEST(ListMoves, EveryTensorOfTheNewPlanOnceAndOnlyMovedOnesTravel) {
  ModelConfig model;
  RunConfig config;
  config.parallel.pipeline = 4;
  config.train.micro_batches = 4;
  config.balancer.partition = {0, 2, 3, 4, 6};
  const RunPlan from = make_run_plan(config, layer_parameter_costs(model));
  const RunPlan to = change_run_plan(config, {{{0, 1, 3, 4, 6}}, 4, {0, 1, 2, 3}});
  int travelling = 0;
  const auto moves = list_moves(model, from, to);
  for (const Move& move : moves) {
    if (move.from_rank == move.to_rank) continue;
    EXPECT_EQ(move.layer, 1);
    EXPECT_EQ(move.from_rank, 0);
    EXPECT_EQ(move.to_rank, 1);
    ++travelling;
  }
  EXPECT_EQ(travelling, 12);
  EXPECT_EQ(moves.size(), model_parameters(model).size() + 1);  // and the tied copy
}

}  // namespace
}  // namespace pipemark
