// Whole runs over MPI against PyTorch: the gradient of every parameter under every schedule of the
// catalogue, and 20 losses against one rank's. Runs on 1, 2, 4 and 8 ranks.
#include <gtest/gtest.h>

#include <vector>

#include "schedules/catalogue.hpp"
#include "tests/trainer/golden.hpp"
#include "tests/trainer/gpt_chain.hpp"
#include "trainer/cluster.hpp"
#include "trainer/data.hpp"
#include "trainer/trainer.hpp"

namespace pipemark {
namespace {

constexpr const char* kBackend = "kokkos";

Cluster& cluster() {
  static Cluster instance(30);
  return instance;
}

RunConfig golden_run(const golden::Golden& golden, const std::string& schedule, int micro_batches) {
  RunConfig run = golden::run_of(golden, schedule, cluster().size());
  run.train.micro_batches = micro_batches;
  run.device.backend = kBackend;
  return run;
}

/// True where the catalogue lets this schedule run on that grid.
bool allowed(const CatalogueRow& row, const RunConfig& run) {
  ScheduleRequest request;
  request.ranks = run.parallel.pipeline;
  request.micro_batches = run.train.micro_batches;
  return row.refuse(request).empty();
}

void expect_golden(const RunConfig& run, const golden::Golden& golden) {
  SCOPED_TRACE(fmt::format("{} P {} data {} M {} tied {} checkpointing {}", run.schedule.name,
                           run.parallel.pipeline, run.parallel.data, run.train.micro_batches,
                           run.model.tied, run.train.checkpointing));
  Trainer trainer(cluster(), run);
  const auto gradients = trainer.gradients_of_step(0);
  if (cluster().rank() == 0) {
    EXPECT_EQ(golden::compare_gradients(gradients, golden), "");
  }
}

TEST(PipelineGradients, EverySchedulesEqualPyTorchs) {
  int ran = 0;
  for (const bool tied : {true, false}) {
    const auto golden = golden::load(tied);
    for (const CatalogueRow& row : catalogue()) {
      for (const int micro_batches : {1, 2, 4, 8, 16}) {
        RunConfig run = golden_run(golden, row.name, micro_batches);
        if (!allowed(row, run)) continue;
        // Tied, plain; untied, with activation checkpointing: both settings of each meet every
        // schedule, and the cross cases follow below.
        run.train.checkpointing = tied ? "none" : "full";
        expect_golden(run, golden);
        ++ran;
      }
    }
  }
  EXPECT_GE(ran, 10);
}

TEST(PipelineGradients, TiedWithCheckpointingOfSomeStages) {
  const auto golden = golden::load(true);
  for (const char* schedule : {"gpipe", "1f1b", "dualpipe"}) {
    RunConfig run = golden_run(golden, schedule, 16);
    if (!allowed(find_schedule(schedule), run)) continue;
    run.train.checkpointing = std::string("0");
    expect_golden(run, golden);
  }
}

TEST(PipelineGradients, DataParallelPipelines) {
  if (cluster().size() < 2) GTEST_SKIP() << "needs two ranks";
  const auto golden = golden::load(true);
  for (const char* schedule : {"gpipe", "1f1b", "dualpipe"}) {
    RunConfig run = golden_run(golden, schedule, 8);
    run.parallel.data = 2;
    run.parallel.pipeline = cluster().size() / 2;
    if (!allowed(find_schedule(schedule), run)) continue;
    expect_golden(run, golden);
  }
}

TEST(PipelineGradients, APerturbedGradientFails) {
  const auto golden = golden::load(true);
  Trainer trainer(cluster(), golden_run(golden, "gpipe", 4));
  auto gradients = trainer.gradients_of_step(0);
  if (cluster().rank() != 0) return;
  ASSERT_EQ(golden::compare_gradients(gradients, golden), "");
  for (auto& tensor : gradients) {
    const auto kept = tensor.values;
    const double size = golden::norm(kept) / std::sqrt(static_cast<double>(kept.size()));
    tensor.values[0] += static_cast<float>(0.1 * size);  // a tenth of a typical element
    EXPECT_NE(golden::compare_gradients(gradients, golden), "") << tensor.name;
    tensor.values = kept;
  }
}

/// Losses of one rank that runs the micro-batches one after the other, by no schedule at all.
std::vector<double> losses_of_one_rank(const RunConfig& run) {
  const auto ops = make_ops(kBackend);
  ChainConfig config{run.model, run.train, {0, run.model.layers + 2}, Order::full, false};
  GptChain chain(*ops, config);
  const Dataset data(run.data, run.model, run.train.seed);
  const auto size = static_cast<std::size_t>(run.train.batch) * run.model.context;
  std::vector<std::int32_t> tokens(size), targets(size);
  std::vector<double> losses;
  for (int step = 0; step < run.train.steps; ++step) {
    data.batch(step, run.train.batch, 0, run.train.batch, tokens, targets);
    losses.push_back(chain.gradients_of(tokens, targets));
    chain.apply(step + 1);
  }
  return losses;
}

TEST(PipelineLosses, TwentyStepsEqualOneRanks) {
  for (const bool tied : {true, false}) {
    const auto golden = golden::load(tied);
    for (const CatalogueRow& row : catalogue()) {
      RunConfig run = golden_run(golden, row.name, 16);
      if (!allowed(row, run)) continue;
      SCOPED_TRACE(row.name);
      const std::vector<double> expected = losses_of_one_rank(run);
      Trainer trainer(cluster(), run);
      const TrainReport report = trainer.fit();
      ASSERT_EQ(report.steps.size(), expected.size());
      const bool same_order = row.name == "gpipe" || row.name == "1f1b";
      for (std::size_t i = 0; i < expected.size(); ++i) {
        // Backwards run in the order of the micro-batches and every sum is the one of one rank.
        if (same_order) {
          EXPECT_EQ(report.steps[i].loss, expected[i]) << "step " << i;
        }
        EXPECT_NEAR(report.steps[i].loss, expected[i], golden::loss_bound(golden)) << "step " << i;
        EXPECT_NEAR(report.steps[i].loss, golden.losses[i], golden::loss_bound(golden));
      }
      for (const RankReport& rank : report.rank_reports) {
        EXPECT_EQ(rank.peak_live, rank.predicted_peak_live) << "rank " << rank.rank;
      }
    }
  }
}

}  // namespace
}  // namespace pipemark
