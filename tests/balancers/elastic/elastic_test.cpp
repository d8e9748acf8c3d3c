// The elastic balancer with its shipped policy against the bounds that it is to hold on held-out
// clusters and traces; its parts on small cases with a known answer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "balancers/elastic/training.hpp"
#include "kernels/check.hpp"

namespace pipemark {
namespace {

struct Sums {
  double even = 0, cost = 0, start = 0, greedy = 0, elastic = 0, hindsight = 0;
  void add(const Verdict& v) {
    even += v.even_s / v.hindsight_s;
    cost += v.cost_s / v.hindsight_s;
    start += v.start_s / v.hindsight_s;
    greedy += v.greedy_s / v.hindsight_s;
    elastic += v.elastic_s / v.hindsight_s;
    hindsight += 1;
  }
};

TEST(Elastic, HeldOutRunsAreWithinThreePercentOfHindsight) {
  Sums sums;
  int quiet_moves = 0, quiet = 0;
  for (const Verdict& verdict : judge_held_out(3, Policy::shipped())) {
    EXPECT_GE(verdict.elastic_s, verdict.hindsight_s * (1 - 1e-9)) << "hindsight is the bound";
    if (verdict.homogeneous) {
      EXPECT_EQ(verdict.elastic_moves, 0);
      EXPECT_EQ(verdict.elastic_s, verdict.start_s) << "the gain is 0";
      continue;
    }
    if (verdict.kind == TraceKind::quiet) {
      quiet_moves += verdict.elastic_moves;
      ++quiet;
    }
    sums.add(verdict);
  }
  const double n = sums.hindsight;
  std::printf("  of hindsight: even %.3f cost %.3f start %.3f greedy %.3f elastic %.4f\n",
              sums.even / n, sums.cost / n, sums.start / n, sums.greedy / n, sums.elastic / n);
  EXPECT_LE(sums.elastic / n, 1.03);
  EXPECT_LT(sums.elastic, sums.greedy);
  EXPECT_LT(sums.elastic, sums.start);
  EXPECT_LT(sums.elastic, sums.cost);
  EXPECT_LT(sums.elastic, sums.even);
  EXPECT_LE(quiet_moves, quiet) << "noise alone: at most one move a run";
}

TEST(Elastic, AnUntrainedPolicyDoesNotPass) {
  double trained = 0, untrained = 0;
  for (const TraceKind kind : {TraceKind::step, TraceKind::failure}) {
    trained += judge(kHeldOutSeed, kind, false, Policy::shipped(), 0).elastic_s;
    untrained += judge(kHeldOutSeed, kind, false, Policy(7), 0).elastic_s;
  }
  EXPECT_LT(trained, untrained);
}

/// Three devices, eight equal layers: every cut, every number of micro-batches.
TEST(Hindsight, OfferedPlansAreAsGoodAsAllPlans) {
  PipelineModel model;
  model.ranks = 3;
  model.layers.assign(8, {{1, 1, 1}, {0, 0, 0}, 1, 0});
  model.sequences = 12;
  model.overhead = {0.1, 0.1, 0.1};
  model.migration_fixed_s = 40;
  model.migration_bytes_per_s = 0.05;
  Episode episode;
  episode.simulator = PipelineSimulator(model);
  episode.nominal = {1, 1, 1};
  episode.start = {{{0, 3, 6, 8}}, 12, {0, 1, 2}};
  for (int t = 0; t < 60; ++t) {
    episode.level.push_back({1, t < 20 ? 1.0 : 2.0, t < 40 ? 1.0 : 1.5});
  }
  episode.factor = episode.level;
  std::vector<PipelinePlan> all{episode.start};
  for (int a = 1; a < 7; ++a) {
    for (int b = a + 1; b < 8; ++b) {
      for (const int m : episode.simulator.micro_batch_choices(3)) {
        const PipelinePlan plan{{{0, a, b, 8}}, m, {0, 1, 2}};
        if (!(plan == episode.start)) all.push_back(plan);
      }
    }
  }
  for (int a = 1; a < 8; ++a) {
    for (const int m : episode.simulator.micro_batch_choices(2)) {
      for (const auto& ranks : {std::vector<int>{0, 1}, {0, 2}, {1, 2}}) {
        all.push_back({{{0, a, 8}}, m, ranks});
      }
    }
  }
  const double least = hindsight_over_s(episode, all), offered = hindsight_s(episode, {});
  EXPECT_GE(offered, least * (1 - 1e-12));
  EXPECT_LE(offered, least * 1.005);
  EXPECT_LT(least, run_episode(episode, nullptr).total_s);
}

TEST(PipelineSimulator, StepMemoryAndMigrationOfASmallPipeline) {
  PipelineModel model;
  model.ranks = 2;
  model.layers.assign(4, {{1, 1, 1}, {0, 0, 0}, 10, 1});
  model.sequences = 4;
  model.other_s = 5;
  model.migration_fixed_s = 2;
  model.migration_bytes_per_s = 4;
  model.capacity_bytes = {23, 23};
  const PipelineSimulator simulator(model);
  const PipelinePlan even{{{0, 2, 4}}, 4, {0, 1}};
  // 1F1B of 2 ranks, M 4, F 2, B 4: (M + P - 1) (F + B).
  EXPECT_DOUBLE_EQ(simulator.step_s(even, {1, 1}), 5 * 6 + 5);
  EXPECT_DOUBLE_EQ(simulator.step_s(even, {2, 2}), 2 * 5 * 6 + 5);
  // Rank 0 holds 2 layers of 10 and at most 2 activations of 2 layers: 24.
  EXPECT_FALSE(simulator.fits(even));
  EXPECT_TRUE(simulator.best_partition(4, {0, 1}, {1, 1}).first.empty() ||
              !simulator.fits({simulator.best_partition(4, {0, 1}, {1, 1}), 4, {0, 1}}));
  const PipelinePlan moved{{{0, 1, 4}}, 4, {0, 1}};
  EXPECT_DOUBLE_EQ(simulator.migration_s(even, moved), 2 + 10.0 / 4);
  EXPECT_EQ(simulator.migration_s(even, even), 0);
  EXPECT_EQ(simulator.micro_batch_choices(2), (std::vector<int>{1, 2, 4}));
}

TEST(Candidates, OfferTheExactCutAndLeaveADeadDeviceOut) {
  PipelineModel model;
  model.ranks = 4;
  model.layers.assign(16, {{1, 1, 1}, {0, 0, 0}, 1, 0});
  model.sequences = 16;
  const PipelineSimulator simulator(model);
  const PipelinePlan even{{{0, 4, 8, 12, 16}}, 16, {0, 1, 2, 3}};
  const auto alike = candidates(simulator, even, {1, 1, 1, 1});
  for (const Candidate& option : alike)
    EXPECT_GE(option.step_s, alike.front().step_s * (1 - 1e-12));
  const auto dead = candidates(simulator, even, {1, 20, 1, 1});
  const auto best = std::min_element(
      dead.begin(), dead.end(), [](const auto& a, const auto& b) { return a.step_s < b.step_s; });
  EXPECT_EQ(best->kind, "evict");
  EXPECT_EQ(best->plan.ranks, (std::vector<int>{0, 2, 3}));
}

TEST(Policy, LearnsAndComesBackFromItsText) {
  Policy policy(3);
  std::vector<Policy::Sample> samples;
  for (int i = 0; i < 64; ++i) {
    CandidateView view;
    view.gain = 0.01 * (i % 8);
    view.cost_steps = i / 8;
    view.remaining = 100;
    samples.push_back({features_of(view), 100 * view.gain - view.cost_steps});
  }
  const double before = policy.loss(samples);
  for (int i = 0; i < 500; ++i) policy.learn(samples, 5e-3);
  EXPECT_LT(policy.loss(samples), 0.1 * before);
  const Policy back = Policy::parse(policy.text(), "test");
  EXPECT_NEAR(back.saving(samples[7].x), policy.saving(samples[7].x), 1e-4);
  EXPECT_THROW(Policy::parse("1 2 3", "test"), UserError);
  EXPECT_THROW(Policy::parse(policy.text() + " x", "test"), UserError);
}

TEST(Elastic, LearnsOnLineEveryUpdate) {
  const Episode episode = random_episode(5, TraceKind::step);
  ElasticBalancer still = elastic_for(episode, Policy::shipped(), 0);
  ElasticBalancer learns = elastic_for(episode, Policy::shipped(), 20);
  run_episode(episode, &still);
  run_episode(episode, &learns);
  EXPECT_EQ(still.policy().text(), Policy::shipped().text());
  EXPECT_NE(learns.policy().text(), Policy::shipped().text());
}

TEST(Training, ASmallOneBeatsStayingAndIsTheSameAgain) {
  TrainingOptions options;
  options.rounds = 1;
  options.episodes = 6;
  options.looks = 3;
  options.horizon = 40;
  options.epochs = 5;
  double loss = 0, before = 0;
  const Policy once = train_policy(options, [&](const TrainingRound& round) {
    before = round.loss_before;
    loss = round.loss;
  });
  EXPECT_LT(loss, before);
  EXPECT_EQ(train_policy(options, [](const TrainingRound&) {}).text(), once.text());
}

}  // namespace
}  // namespace pipemark
