// A mixture of experts over grids of pipeline x expert x data ranks, against PyTorch: the gradient
// of every parameter, and 20 losses. Runs on 1, 2 and 4 ranks.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "schedules/catalogue.hpp"
#include "tests/trainer/golden.hpp"
#include "trainer/cluster.hpp"
#include "trainer/trainer.hpp"

namespace pipemark {
namespace {

Cluster& cluster() {
  static Cluster instance(30);
  return instance;
}

struct GridSize {
  int pipeline, data, expert;
};

/// All grids of this job's ranks.
std::vector<GridSize> grids() {
  std::vector<GridSize> all;
  const int ranks = cluster().size();
  for (const int expert : {1, 2, 4}) {
    for (const int data : {1, 2}) {
      if (ranks % (expert * data) == 0) all.push_back({ranks / (expert * data), data, expert});
    }
  }
  return all;
}

RunConfig moe_run(const golden::Golden& golden, const std::string& schedule, GridSize grid,
                  int micro_batches) {
  RunConfig run = golden::run_of(golden, schedule, grid.pipeline);
  run.train.micro_batches = micro_batches;
  run.parallel.data = grid.data;
  run.parallel.expert = grid.expert;
  run.device.backend = "kokkos";
  return run;
}

bool allowed(const RunConfig& run) {
  ScheduleRequest request;
  request.ranks = run.parallel.pipeline;
  request.micro_batches = run.train.micro_batches;
  const int parts = run.train.micro_batches * run.parallel.data * run.parallel.expert;
  return find_schedule(run.schedule.name).refuse(request).empty() && run.train.batch % parts == 0;
}

std::string describe(const RunConfig& run) {
  return fmt::format("{} pipeline {} data {} expert {} + {} M {} router {} top {} overlap {}",
                     run.schedule.name, run.parallel.pipeline, run.parallel.data,
                     run.parallel.expert, run.parallel.redundant_experts, run.train.micro_batches,
                     run.model.router, run.model.top_k, run.schedule.overlap);
}

void expect_golden(const RunConfig& run, const golden::Golden& golden) {
  SCOPED_TRACE(describe(run));
  Trainer trainer(cluster(), run);
  const auto gradients = trainer.gradients_of_step(0);
  if (cluster().rank() == 0) {
    EXPECT_EQ(golden::compare_gradients(gradients, golden), "");
  }
}

TEST(MoeGradients, EveryGridEqualsPyTorchs) {
  int ran = 0;
  for (const char* name : {"bias", "auxiliary", "top1"}) {
    const auto golden = golden::load_moe(name);
    for (const GridSize& grid : grids()) {
      // All routers meet the expert dimension at its largest, one meets every grid.
      if (std::string(name) != "bias" && grid.expert != std::min(4, cluster().size())) continue;
      const char* schedule = grid.pipeline % 2 == 0 ? "dualpipe" : "1f1b";
      const RunConfig run = moe_run(golden, schedule, grid, grid.pipeline % 2 == 0 ? 4 : 2);
      if (!allowed(run)) continue;
      expect_golden(run, golden);
      ++ran;
    }
  }
  EXPECT_GE(ran, 3);
}

TEST(MoeGradients, EveryScheduleEqualsPyTorchs) {
  const auto golden = golden::load_moe("bias");
  const int expert = cluster().size() > 1 ? 2 : 1;
  const GridSize grid{cluster().size() / expert, 1, expert};
  int ran = 0;
  for (const CatalogueRow& row : catalogue()) {
    for (const int micro_batches : {8, 4, 2}) {
      const RunConfig run = moe_run(golden, row.name, grid, micro_batches);
      if (!allowed(run)) continue;
      expect_golden(run, golden);
      ++ran;
      break;
    }
  }
  EXPECT_GE(ran, 3);
}

TEST(MoeGradients, PairsRunInTurnOrTogether) {
  if (cluster().size() < 4) GTEST_SKIP() << "needs four ranks";
  const auto golden = golden::load_moe("auxiliary");
  for (const bool overlap : {false, true}) {
    RunConfig run = moe_run(golden, "dualpipe", {2, 1, 2}, 4);
    run.schedule.overlap = overlap;
    run.train.checkpointing = std::string(overlap ? "none" : "0");
    expect_golden(run, golden);
  }
}

TEST(MoeGradients, ReplicasOfExpertsAddUp) {
  const auto golden = golden::load_moe("bias");
  for (const GridSize& grid : grids()) {
    RunConfig run = moe_run(golden, "1f1b", grid, 2);
    run.parallel.redundant_experts = 4;  // each expert twice; with one rank both on it
    if (allowed(run)) expect_golden(run, golden);
  }
}

TEST(MoeGradients, CapacityDropsWhatPyTorchDrops) {
  const auto golden = golden::load_moe("capacity");
  for (const GridSize& grid : grids()) {
    // A rank's micro-batch is the group of sequences that share an expert's capacity.
    const int parts = golden.train.batch / golden.capacity_group / (grid.data * grid.expert);
    RunConfig run = moe_run(golden, "1f1b", grid, parts);
    if (allowed(run)) expect_golden(run, golden);
  }
}

TEST(MoeGradients, APerturbedGradientFails) {
  const auto golden = golden::load_moe("bias");
  Trainer trainer(cluster(), moe_run(golden, "gpipe", {1, 1, cluster().size()}, 4));
  auto gradients = trainer.gradients_of_step(0);
  if (cluster().rank() != 0) return;
  for (auto& tensor : gradients) {
    const auto kept = tensor.values;
    const double size = golden::norm(kept) / std::sqrt(static_cast<double>(kept.size()));
    if (size == 0) continue;  // the routers' biases have none
    tensor.values[0] += static_cast<float>(0.1 * size);
    EXPECT_NE(golden::compare_gradients(gradients, golden), "") << tensor.name;
    tensor.values = kept;
  }
}

/// Of the first steps: `run.train.steps` stays, for the learning rates follow from it.
TrainReport expect_losses(const RunConfig& run, const golden::Golden& golden) {
  SCOPED_TRACE(describe(run));
  Trainer trainer(cluster(), run);
  const TrainReport report = trainer.fit();
  EXPECT_EQ(report.steps.size(), golden.losses.size());
  for (std::size_t i = 0; i < golden.losses.size(); ++i) {
    EXPECT_NEAR(report.steps[i].loss, golden.losses[i], golden::loss_bound(golden)) << "step " << i;
  }
  return report;
}

TEST(MoeLosses, TwentyStepsEqualPyTorchs) {
  for (const char* name : {"bias", "auxiliary", "top1"}) {
    const auto golden = golden::load_moe(name);
    const int expert = std::min(2, cluster().size());
    expect_losses(moe_run(golden, "1f1b", {cluster().size() / expert, 1, expert}, 2), golden);
  }
}

TEST(MoeLosses, StayWhenExpertsMove) {
  const auto golden = golden::load_moe("bias");
  const int expert = std::min(4, cluster().size());
  RunConfig run = moe_run(golden, "1f1b", {cluster().size() / expert, 1, expert}, 2);
  run.parallel.redundant_experts = 4;
  run.balancer.experts = "eplb";
  run.balancer.expert_interval = 3;
  const TrainReport report = expect_losses(run, golden);
  std::int64_t moved = 0;
  for (const StepReport& step : report.steps) moved += step.expert_moved_bytes;
  if (expert > 1) {
    EXPECT_GT(moved, 0) << "no expert moved, so nothing was proved";
  }
}

TEST(MoeLosses, SkewedChoicesAreEvenedOutByReplicas) {
  const int expert = cluster().size();
  if (expert < 2) GTEST_SKIP() << "needs two ranks";
  const auto golden = golden::load_moe("bias");
  RunConfig run = moe_run(golden, "gpipe", {1, 1, expert}, 1);
  run.train.steps = 4;
  run.model.router_skew = 1.5;
  run.parallel.redundant_experts = 4;
  run.balancer.experts = "eplb";
  run.balancer.expert_interval = 2;
  Trainer trainer(cluster(), run);
  const TrainReport moving = trainer.fit();
  run.balancer.experts = "none";
  run.parallel.redundant_experts = 0;
  Trainer still(cluster(), run);
  const TrainReport staying = still.fit();
  EXPECT_LT(moving.steps[3].expert_imbalance, staying.steps[3].expert_imbalance);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(moving.steps[i].loss, staying.steps[i].loss, golden::loss_bound(golden)) << i;
  }
}

TEST(MoeErrors, TooLittleRoomNamesTheKey) {
  const auto golden = golden::load_moe("bias");
  RunConfig run = moe_run(golden, "gpipe", {1, 1, cluster().size()}, 4);
  run.model.expert_room = 0.01;
  Trainer trainer(cluster(), run);
  try {
    trainer.gradients_of_step(0);
    FAIL() << "no error";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("model.expert_room"), std::string::npos);
  }
}

}  // namespace
}  // namespace pipemark
