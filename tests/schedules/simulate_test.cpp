// simulate against an independent simulation (tests/golden/simulate, made by
// scripts/golden/simulate_reference.py), both simulators against each other, and invariants over
// random schedules.
//
// New golden data: PIPEMARK_WRITE_ROWS=/tmp/rows.json ./schedules_simulate_test
//   --gtest_filter='*WritesRows*', then scripts/golden/simulate_reference.py /tmp/rows.json
//   tests/golden/simulate/schedules.json
#include "schedules/simulate.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/check.hpp"
#include "schedules/text.hpp"
#include "tests/schedules/requests.hpp"

namespace pipemark {

namespace {

using testing::draw_request;
using testing::is_cheap;
using testing::random_cost;
using testing::uneven_cost;

/// Sums of a few hundred doubles below 10^3, in two orders: off by n 2^-53 10^3, about 10^-10.
constexpr double kGoldenTolerance = 1e-9;

struct Case {
  std::string name;
  int ranks, micro_batches, chunks;
  std::string costs;
};

std::vector<Case> golden_cases() {
  std::vector<Case> cases;
  for (const CatalogueRow& row : catalogue()) {
    if (!is_cheap(row)) continue;
    for (const auto& [ranks, micro_batches, chunks] :
         {std::tuple{2, 4, 0}, {4, 8, 0}, {4, 14, 0}, {4, 10, 4}, {6, 12, 0}, {5, 11, 3}}) {
      ScheduleRequest request;
      request.ranks = ranks;
      request.micro_batches = micro_batches;
      request.chunks = chunks;
      if (!row.refuse(request).empty()) continue;
      for (const char* costs : {"uniform", "uneven"}) {
        cases.push_back({row.name, ranks, micro_batches, chunks, costs});
      }
    }
  }
  return cases;
}

Schedule schedule_of(const Case& c) {
  ScheduleRequest request;
  request.ranks = c.ranks;
  request.micro_batches = c.micro_batches;
  request.chunks = c.chunks;
  return make_schedule(c.name, request);
}

CostModel cost_of(const Case& c, const Schedule& schedule) {
  const int stages = schedule.placement.stages;
  return c.costs == "uniform" ? CostModel::uniform(c.ranks, stages, {1, 1, 1}, 0)
                              : uneven_cost(c.ranks, stages);
}

TEST(SimulateGolden, WritesRows) {
  const char* path = std::getenv("PIPEMARK_WRITE_ROWS");
  if (path == nullptr) GTEST_SKIP() << "PIPEMARK_WRITE_ROWS is not set";
  nlohmann::json all = nlohmann::json::array();
  for (const Case& c : golden_cases()) {
    const Schedule schedule = schedule_of(c);
    const CostModel cost = cost_of(c, schedule);
    nlohmann::json row = {{"name", c.name},
                          {"P", c.ranks},
                          {"M", c.micro_batches},
                          {"chunks", c.chunks},
                          {"costs", c.costs},
                          {"S", schedule.placement.stages},
                          {"rank", schedule.placement.rank},
                          {"overlap", cost.overlap}};
    std::vector<int> replica(static_cast<std::size_t>(c.micro_batches));
    for (int r = 0; r < c.ranks; ++r) {
      std::string text;
      for (const Action& a : schedule.ranks[r]) {
        text += to_text(a) + ' ';
        replica[static_cast<std::size_t>(a.micro_batch)] = a.replica;
      }
      row["rows"].push_back(text);
      for (int s = 0; s < schedule.placement.stages; ++s) {
        const StageCost& t = cost.of(r, s);
        row["cost"][r].push_back({t.forward, t.input_grad, t.weight_grad});
      }
      for (int to = 0; to < c.ranks; ++to) row["message"][r].push_back(cost.message_time(r, to));
    }
    row["replica"] = replica;
    all.push_back(row);
  }
  std::ofstream(path) << all;
}

TEST(SimulateGolden, EqualsIndependentSimulation) {
  std::ifstream file(PIPEMARK_GOLDEN_DIR "/simulate/schedules.json");
  ASSERT_TRUE(file) << "tests/golden/simulate/schedules.json is missing";
  const nlohmann::json golden = nlohmann::json::parse(file);
  const std::vector<Case> cases = golden_cases();
  ASSERT_EQ(golden.size(), cases.size()) << "make the golden data again (see the file's head)";
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const Case& c = cases[i];
    const Schedule schedule = schedule_of(c);
    const CostModel cost = cost_of(c, schedule);
    const Simulation result = simulate(schedule, cost);
    SCOPED_TRACE(fmt::format("{} P{} M{} chunks {} {}", c.name, c.ranks, c.micro_batches, c.chunks,
                             c.costs));
    ASSERT_EQ(golden[i]["name"], c.name);
    EXPECT_NEAR(result.makespan, golden[i]["makespan"].get<double>(), kGoldenTolerance);
    EXPECT_NEAR(result.bubble_ratio, golden[i]["bubble_ratio"].get<double>(), kGoldenTolerance);
    // Where two ranks have the longest span, either may be the one whose work counts.
    if (c.costs == "uniform") {
      EXPECT_NEAR(result.span_bubble_rate, golden[i]["span_bubble_rate"].get<double>(),
                  kGoldenTolerance);
    }
    CostModel slower = cost;  // a slower first stage must show: stage 0 is on every critical path
    for (StageCost& stage : slower.stage) stage.forward *= 1.001;
    EXPECT_GT(std::abs(simulate(schedule, slower).makespan - golden[i]["makespan"].get<double>()),
              kGoldenTolerance);
  }
}

TEST(Simulate, RandomSchedulesKeepTheInvariants) {
  std::mt19937 random(1);
  for (const CatalogueRow& row : catalogue()) {
    if (!is_cheap(row)) continue;
    for (int trial = 0; trial < 60; ++trial) {
      const ScheduleRequest request = draw_request(row, random, 8, 24);
      const Schedule schedule = row.generate(request);
      const CostModel cost = random_cost(random, request.ranks, schedule.placement.stages);
      const Simulation result = simulate(schedule, cost, true);
      SCOPED_TRACE(fmt::format("{} P{} M{} chunks {}", row.name, request.ranks,
                               request.micro_batches, request.chunks));
      // Busy is the work of the row, each action once.
      for (int r = 0; r < request.ranks; ++r) {
        double work = 0;
        for (const Action& a : schedule.ranks[r]) {
          const StageCost& t = cost.of(r, a.stage);
          switch (a.kind) {
            case Kind::F:
              work += t.forward;
              break;
            case Kind::B:
              work += t.backward();
              break;
            case Kind::I:
              work += t.input_grad;
              break;
            case Kind::W:
              work += t.weight_grad;
              break;
            case Kind::FB:
              work += cost.overlap * (t.forward + cost.of(r, a.stage_b).backward());
              break;
          }
        }
        ASSERT_NEAR(result.busy[r], work, kGoldenTolerance);
        ASSERT_NEAR(result.timeline.busy_s(r), work, kGoldenTolerance);
      }
      ASSERT_NEAR(result.timeline.makespan_s(), result.makespan, kGoldenTolerance);
      ASSERT_NEAR(result.timeline.bubble_ratio(), result.bubble_ratio, kGoldenTolerance);
      ASSERT_NEAR(result.timeline.span_bubble_rate(), result.span_bubble_rate, kGoldenTolerance);
      if (!row.program) continue;
      const Program program = row.program(request);
      const Simulation loops = simulate(program, PlacedCost::of(program.placement, cost));
      ASSERT_EQ(loops.makespan, result.makespan);  // the same sums in the same order
      ASSERT_EQ(loops.busy, result.busy);
      ASSERT_EQ(loops.peak_live, result.peak_live);
      ASSERT_EQ(loops.span_bubble_rate, result.span_bubble_rate);
    }
  }
}

TEST(Simulate, NamesTheActionThatCannotRun) {
  ScheduleRequest request;
  Schedule schedule = make_schedule("1f1b", request);
  schedule.ranks[1].erase(schedule.ranks[1].begin());  // 1F0
  const CostModel cost = CostModel::uniform(request.ranks, request.ranks, {}, 0);
  try {
    simulate(schedule, cost);
    FAIL() << "a schedule without 1F0 ran";
  } catch (const LogicError& error) {
    EXPECT_NE(std::string(error.what()).find("1B0"), std::string::npos) << error.what();
  }
}

TEST(Simulate, LoopsThatCannotRunAreNamed) {
  Program program = make_program("broken", 2, Placement::linear(2));
  program.rows[0].repeat(2, {steps::F(0), steps::B(0)});
  program.rows[1].repeat(2, {steps::F(1)}).repeat(2, {steps::B(1)});
  EXPECT_THROW(simulate(program, PlacedCost::uniform(program.placement, {}, 0)), LogicError);
}

TEST(Simulate, PeakOfHalfStagesIsCountedInHalves) {
  ScheduleRequest request;
  request.ranks = 4;
  request.micro_batches = 10;
  const Schedule schedule = make_schedule("dualpipev", request);
  const Simulation result = simulate(schedule, CostModel::uniform(4, 8, {1, 1, 1}, 0));
  for (int r = 0; r < 4; ++r) EXPECT_EQ(result.peak_activations[r], 0.5 * result.peak_live[r]);
}

TEST(SlotNeeds, AgreesWithThePeaks) {
  std::mt19937 random(2);
  for (const CatalogueRow& row : catalogue()) {
    if (!is_cheap(row)) continue;
    for (int trial = 0; trial < 20; ++trial) {
      const ScheduleRequest request = draw_request(row, random, 8, 24);
      const Schedule schedule = row.generate(request);
      const auto needs = slot_needs(schedule);
      const Simulation result =
          simulate(schedule, CostModel::uniform(request.ranks, schedule.placement.stages, {}, 0));
      for (int r = 0; r < request.ranks; ++r) {
        const auto held = schedule.placement.held_by(r);
        ASSERT_EQ(needs[r].size(), held.size());
        int most = 0, sum = 0;
        for (const SlotNeeds& need : needs[r]) {
          most = std::max(most, need.activations);
          sum += need.activations;
          EXPECT_LE(need.deferred_weights, need.activations);
          if (!row.splits_backward) {
            EXPECT_EQ(need.deferred_weights, 0);
          }
        }
        // All at once at most; each on its own at least.
        EXPECT_LE(result.peak_live[r], sum) << row.name;
        EXPECT_GE(result.peak_live[r], most) << row.name;
        if (held.size() == 1) {
          EXPECT_EQ(result.peak_live[r], sum) << row.name;
        }
      }
    }
  }
}

}  // namespace

}  // namespace pipemark
