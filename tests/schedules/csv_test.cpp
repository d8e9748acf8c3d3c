// The CSV of torch.distributed.pipelining: files made by torch (tests/golden/torch_csv, by
// scripts/golden/torch_csv.py) are read, judged and simulated; ours come back as they were; what is
// no cell of theirs is named with its place.
#include "schedules/csv.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/check.hpp"
#include "schedules/simulate.hpp"
#include "schedules/validate.hpp"
#include "tests/schedules/requests.hpp"

namespace pipemark {
namespace {

using testing::draw_request;
using ::testing::HasSubstr;
using testing::is_cheap;
using testing::uneven_cost;

/// Sums of some hundred times below 10^2, in two orders: off by n 2^-53 10^2, below 10^-11.
constexpr double kGoldenTolerance = 1e-9;

const std::string kFolder = PIPEMARK_GOLDEN_DIR "/torch_csv/";

nlohmann::json index_of_goldens() {
  std::ifstream file(kFolder + "index.json");
  EXPECT_TRUE(file) << kFolder << "index.json is missing";
  return nlohmann::json::parse(file);
}

std::vector<Fault> faults_of(const Schedule& schedule) {
  ValidateOptions buffered;  // torch's sends may rely on buffers
  buffered.rendezvous = false;
  return validate(schedule, buffered);
}

TEST(TorchCsv, FilesOfTorchAreJudgedAndSimulatedAsTheyAre) {
  int sound = 0, faulty = 0;
  for (const auto& golden : index_of_goldens()) {
    const std::string file = golden["file"];
    SCOPED_TRACE(file);
    const CsvSchedule read = read_torch_csv(kFolder + file);
    const Schedule& schedule = read.schedule;
    EXPECT_EQ(schedule.rank_count(), golden["ranks"]);
    EXPECT_EQ(schedule.placement.stages, golden["stages"]);
    if (golden["torch"] != "accepted") {
      ++faulty;
      EXPECT_FALSE(faults_of(schedule).empty());
      continue;
    }
    ++sound;
    EXPECT_EQ(schedule.micro_batches, golden["micro_batches"]);
    const auto faults = faults_of(schedule);
    ASSERT_TRUE(faults.empty()) << format_faults(schedule, faults);
    const Simulation made =
        simulate(schedule, uneven_cost(schedule.rank_count(), schedule.placement.stages));
    EXPECT_NEAR(made.makespan, golden["makespan"].get<double>(), kGoldenTolerance);
    EXPECT_NEAR(made.bubble_ratio, golden["bubble_ratio"].get<double>(), kGoldenTolerance);
    EXPECT_NEAR(made.span_bubble_rate, golden["span_bubble_rate"].get<double>(), kGoldenTolerance);
  }
  EXPECT_GE(sound, 24);
  EXPECT_GE(faulty, 2);
}

// torch's 1F1B begins the last rank with micro-batch 1: it has no F0, and an F of a micro-batch M.
TEST(TorchCsv, FaultOfTheir1F1BIsNamedAtItsPlace) {
  const CsvSchedule read = read_torch_csv(kFolder + "1F1B_3_5_1_compute_only.csv");
  const auto faults = faults_of(read.schedule);
  ASSERT_FALSE(faults.empty());
  EXPECT_THAT(faults[0].what, HasSubstr("2F0 is missing before here"));
  EXPECT_EQ(faults[0].rank, 2);
  const CsvSchedule::Place place = read.places[2][static_cast<std::size_t>(faults[0].index)];
  EXPECT_EQ(place.line, 3);
  std::ifstream file(kFolder + "1F1B_3_5_1_compute_only.csv");
  std::string line;
  for (int i = 0; i < place.line; ++i) std::getline(file, line);
  EXPECT_EQ(line.substr(static_cast<std::size_t>(place.column - 1), 3), "2B0");
}

TEST(TorchCsv, BothFormsOfAScheduleAreTheSame) {
  int pairs = 0;
  for (const auto& golden : index_of_goldens()) {
    const std::string file = golden["file"];
    const auto at = file.find("compute_comms");
    if (at == std::string::npos) continue;
    ++pairs;
    const Schedule with = read_torch_csv(kFolder + file).schedule;
    const Schedule without =
        read_torch_csv(kFolder + file.substr(0, at) + "compute_only.csv").schedule;
    EXPECT_EQ(with.ranks, without.ranks) << file;
    EXPECT_EQ(with.placement.rank, without.placement.rank) << file;
  }
  EXPECT_GE(pairs, 12);
}

TEST(TorchCsv, EveryScheduleComesBackAsItWasWritten) {
  std::mt19937 random(5);
  for (const CatalogueRow& row : catalogue()) {
    if (!is_cheap(row)) continue;
    for (int trial = 0; trial < 40; ++trial) {
      const ScheduleRequest request = draw_request(row, random, 8, 24);
      const Schedule schedule = row.generate(request);
      SCOPED_TRACE(fmt::format("{} P{} M{}", row.name, request.ranks, request.micro_batches));
      // With one micro-batch the second replica is never seen.
      if (schedule.placement.replicas > 1 && request.micro_batches < 2) continue;
      const Schedule back = parse_torch_csv(to_torch_csv(schedule), "x.csv").schedule;
      ASSERT_EQ(back.micro_batches, schedule.micro_batches);
      ASSERT_EQ(back.placement.rank, schedule.placement.rank);
      ASSERT_EQ(back.ranks, schedule.ranks);
    }
  }
}

TEST(TorchCsv, EmptyCellsAndCommunicationArePassedOver) {
  const Schedule schedule =
      parse_torch_csv(
          "0UNSHARD,0F0, ,0SEND_F0,0RECV_B0,0I0,0W0,0REDUCE_GRAD,0WAIT_REDUCE_GRAD\r\n"
          ",1RECV_F0,1F0,1B0,1SEND_B0,1WAIT_SEND_B0,1RESHARD,,\r\n",
          "x.csv")
          .schedule;
  EXPECT_EQ(schedule.ranks[0].size(), 3u);
  EXPECT_EQ(schedule.ranks[1].size(), 2u);
  EXPECT_TRUE(faults_of(schedule).empty());
}

TEST(TorchCsv, WhatIsNoCellIsNamedWithItsPlace) {
  const auto refused = [](const char* text, const char* place, const char* token) {
    try {
      parse_torch_csv(text, "x.csv");
      ADD_FAILURE() << "'" << text << "' was taken";
    } catch (const UserError& error) {
      EXPECT_THAT(error.what(), HasSubstr(place));
      EXPECT_THAT(error.what(), HasSubstr(token));
      EXPECT_FALSE(error.hint().empty());
    }
  };
  refused("0F0,0B0\n1F0,1X0\n", "x.csv:2:5", "'1X0'");
  refused("0F0,0B0,0SEND_F\n", "x.csv:1:9", "'0SEND_F'");
  refused("0F0,0B0,0REDUCE_GRAD3\n", "x.csv:1:9", "'0REDUCE_GRAD3'");
  refused("0F0,(0F1;0B0)\n", "x.csv:1:5", "'(0F1;0B0)'");
  refused("0F0,(0F1;0B0)OVERLAP\n", "x.csv:1:5", "OVERLAP");
  refused("0F0,0B0\n2F0,2B0\n", "x.csv", "stage 1 runs on no rank");
  refused("0F0,0B0\n0F1,0B1\n1F0,1B0,1F1,1B1\n", "x.csv:2:1",
          "stage 0 runs on rank 0 and on rank 1");
  refused("0F0,0B0\n,,\n", "x.csv:2:1", "rank 1 has no F, B, I or W");
  refused("", "x.csv", "no actions");
}

}  // namespace
}  // namespace pipemark
