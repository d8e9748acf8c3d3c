// The table of cuts against figures worked out by hand, and its order: the simulator is the judge.
#include "balancers/partition_study.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "balancers/fingerprint.hpp"
#include "balancers/model_profile.hpp"
#include "kernels/check.hpp"
#include "schedules/catalogue.hpp"

namespace pipemark {
namespace {

Schedule schedule_of(const char* name, int ranks, int micro_batches) {
  ScheduleRequest request;
  request.ranks = ranks;
  request.micro_batches = micro_batches;
  return make_schedule(name, request);
}

PartitionStudy study_of(const std::vector<double>& seconds) {
  PartitionStudy study;
  for (const double s : seconds) study.layers.push_back({"layer", 1, s, s, s});
  return study;
}

const StudiedPartition& row_of(const std::vector<StudiedPartition>& rows, const std::string& name) {
  const auto at = std::find_if(rows.begin(), rows.end(), [&](auto& r) { return r.name == name; });
  check(at != rows.end(), "no row {}", name);
  return *at;
}

// GPipe, two ranks, one micro-batch: nothing overlaps, so a step is the sum of all work: 3 x 4 = 12
// units; rank 0 works 3 x 3 of them. busy 9 + 3 over 2 x 12: bubble 0.5, max/mean 9 / 6.
TEST(PartitionStudy, FiguresByHand) {
  const PartitionStudy study = study_of({1, 1, 1, 1});
  const auto row = study_partition(study, schedule_of("gpipe", 2, 1), "x", {{0, 3, 4}});
  EXPECT_DOUBLE_EQ(row.step_s, 12);
  EXPECT_DOUBLE_EQ(row.bubble_ratio, 0.5);
  EXPECT_DOUBLE_EQ(row.imbalance, 1.5);
}

// Rank 1 twice as fast: its unit layer takes half.
TEST(PartitionStudy, SpeedsAndMessages) {
  PartitionStudy study = study_of({1, 1, 1, 1});
  study.speeds = {1, 2};
  study.output_bytes = {10, 20, 30, 0};
  study.link_latency_s = 0.25;
  study.link_bytes_per_s = 40;
  const Schedule schedule = schedule_of("gpipe", 2, 1);
  const CostModel cost = cost_model(study, {{0, 3, 4}}, schedule.placement);
  EXPECT_DOUBLE_EQ(cost.of(0, 0).forward, 3);
  EXPECT_DOUBLE_EQ(cost.of(1, 1).forward, 0.5);
  EXPECT_DOUBLE_EQ(cost.message_time(0, 1), 0.25 + 30.0 / 40);
  // 9 + 1.5 of work and a message each way.
  EXPECT_DOUBLE_EQ(study_partition(study, schedule, "x", {{0, 3, 4}}).step_s, 12.5);
}

TEST(PartitionStudy, MemoryIsStatesAndLiveActivations) {
  PartitionStudy study = study_of({1, 1, 1, 1});
  study.activation_bytes = {5, 5, 5, 5};
  // 1F1B with 8 micro-batches: rank 0 of 2 has two live: 2 layers x (16 + 2 x 5) = 52.
  const Schedule schedule = schedule_of("1f1b", 2, 8);
  EXPECT_DOUBLE_EQ(study_partition(study, schedule, "x", {{0, 2, 4}}).peak_bytes, 52);
  study.memory_bytes = 51;
  EXPECT_FALSE(study_partition(study, schedule, "x", {{0, 2, 4}}).fits);
  // Only one layer on rank 0 and three on rank 1 (3 x 21 = 63) or the other way fit 63.
  study.memory_bytes = 53;
  EXPECT_TRUE(row_of(study_partitions(study, schedule), "optimal").fits);
  study.memory_bytes = 20;
  for (const auto& row : study_partitions(study, schedule)) EXPECT_FALSE(row.fits);
}

TEST(PartitionStudy, StepIsNeverSlowerThanAnyOtherRow) {
  const std::vector<double> seconds{5, 1, 1, 1, 2, 2, 7, 1, 1, 3, 1, 4};
  for (const char* name : {"gpipe", "1f1b", "zb-h1", "dualpipe", "zb-v"}) {
    for (const double slow : {1.0, 0.5}) {
      PartitionStudy study = study_of(seconds);
      study.speeds = {1, 1, slow, 1};
      const auto rows = study_partitions(study, schedule_of(name, 4, 16));
      const double step = row_of(rows, "step").step_s;
      for (const auto& row : rows) EXPECT_LE(step, row.step_s) << name << " " << row.name;
      const double optimal = row_of(rows, "optimal").imbalance;
      EXPECT_LE(optimal, row_of(rows, "static-even").imbalance * 1.0001) << name;
    }
  }
}

// An evenly cut chain on equal ranks can't be improved: the gain is 0 and is reported as 0.
TEST(PartitionStudy, NothingToGainIsZero) {
  PartitionStudy study = study_of({0, 1, 1, 1, 1, 1, 1, 1, 1, 0});  // eight equal blocks
  study.layers.front().parameters = study.layers.back().parameters = 0;
  const auto rows = study_partitions(study, schedule_of("1f1b", 4, 8));
  ASSERT_EQ(rows.size(), 5u);
  for (const auto& row : rows) {
    EXPECT_EQ(row.step_s, rows.front().step_s) << row.name;
    EXPECT_DOUBLE_EQ(row.imbalance, 1) << row.name;
  }
}

TEST(ModelProfile, TimesAreFlopsOverRate) {
  ModelProfile profile;
  profile.layers.push_back({"a", 10, 4e9, 2e9, 6e9, 0, 0});
  const auto layers = layer_costs(profile, 3, 1e9);
  EXPECT_DOUBLE_EQ(layers[0].forward_s, 12);
  EXPECT_DOUBLE_EQ(layers[0].input_grad_s, 6);
  EXPECT_DOUBLE_EQ(layers[0].weight_grad_s, 18);
  EXPECT_EQ(layers[0].parameters, 10);
}

TEST(Fingerprint, InterpolatesMeasuredProductsAndBoundsOthers) {
  Fingerprint device;
  device.name = "test";
  device.memory_bytes_per_s = 100;
  device.peaks = {{"bf16", 1000}};
  EXPECT_DOUBLE_EQ(device.gemm_s("bf16", 10, 10, 10, 50), 2);   // 2000 FLOPs at the peak
  EXPECT_DOUBLE_EQ(device.gemm_s("bf16", 10, 10, 10, 500), 5);  // bound by memory
  EXPECT_THROW(device.gemm_s("fp8", 10, 10, 10, 50), UserError);
  device.gemms = {{"bf16", 10, 10, 10, 100}, {"bf16", 100, 100, 10, 300}};
  EXPECT_DOUBLE_EQ(device.gemm_s("bf16", 10, 10, 10, 0), 20);
  EXPECT_DOUBLE_EQ(device.gemm_s("bf16", 10, 100, 10, 0), 20000 / 200.0);  // half-way by log FLOPs
  EXPECT_DOUBLE_EQ(device.gemm_s("bf16", 1, 10, 10, 0), 2);  // below the smallest: its rate
  EXPECT_DOUBLE_EQ(device.op_s("gelu", 1, 200), 2);
  device.ops = {{"gelu", 50, 0}, {"attention", 0, 10}};
  EXPECT_DOUBLE_EQ(device.op_s("gelu", 1, 200), 4);
  EXPECT_DOUBLE_EQ(device.op_s("attention", 30, 200), 3);
}

}  // namespace
}  // namespace pipemark
