// zb-auto: the published table, exact optima of small cases, bounds, memory, determinism, refusals.
#include "schedules/synthesis/synthesis.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/check.hpp"
#include "schedules/simulate.hpp"
#include "schedules/text.hpp"
#include "schedules/validate.hpp"
#include "tests/schedules/synthesis_search.hpp"
#include "tests/schedules/zero_bubble_table.hpp"

namespace pipemark {
namespace {

// Sums of some hundred times of order 1 to 100 in another order: n eps sum < 1e-9.
constexpr double kRounding = 1e-9;

CostModel even_cost(int ranks, int stages, StageCost stage, double message) {
  return {ranks, stages, std::vector<StageCost>(ranks * stages, stage),
          std::vector<double>(ranks * ranks, message), 1};
}

/// Memory in activations of one stage, counted here from the IR alone.
double peak_of(const std::vector<Action>& row, double share) {
  double held = 0, peak = 0;
  for (const Action& action : row) {
    held += action.kind == Kind::F ? 1 : action.kind == Kind::I ? share - 1 : -share;
    peak = std::max(peak, held);
  }
  return peak;
}

/// What every synthesis must satisfy.
void expect_sound(const ScheduleRequest& request, const Synthesis& made) {
  const Schedule& schedule = made.schedule;
  ASSERT_EQ(schedule.micro_batches, request.micro_batches);
  const double per_share = 1.0 * schedule.placement.stages / request.ranks;
  ValidateOptions options;
  options.rendezvous = made.rendezvous;
  options.memory_limit = request.memory_limit;
  options.deferred_share = request.deferred_share;
  const auto faults = validate(schedule, options);
  ASSERT_TRUE(faults.empty()) << format_faults(schedule, faults);
  for (int r = 0; r < request.ranks; ++r) {
    const double limit =
        request.memory_limits.empty() ? request.memory_limit : request.memory_limits[r];
    const double peak = peak_of(schedule.ranks[r], request.deferred_share) / per_share;
    if (limit > 0) {
      EXPECT_LE(peak, limit + kRounding) << "rank " << r;
    }
    EXPECT_NEAR(peak, made.peak_memory[r], kRounding);
  }
  if (!request.cost) return;
  const Simulation simulation = simulate(schedule, *request.cost);
  EXPECT_NEAR(simulation.makespan, made.makespan, kRounding * made.makespan);
  EXPECT_GE(made.makespan, made.lower_bound * (1 - kRounding));
  EXPECT_GE(made.span, made.span_lower_bound * (1 - kRounding));
}

double to_4_digits(double x) { return std::round(x * 1e4) / 1e4; }

class PublishedTable : public ::testing::TestWithParam<ZeroBubbleLine> {};

TEST_P(PublishedTable, SpanBubbleRateIsNoWorse) {
  const ZeroBubbleLine& row = GetParam();
  const StageCost stage{row.forward, row.input_grad, row.weight_grad};
  for (int times = 1; times <= 2; ++times) {
    ScheduleRequest request;
    request.ranks = row.ranks, request.micro_batches = row.micro_batches;
    request.memory_limit = times * row.ranks;
    request.cost = even_cost(row.ranks, row.ranks, stage, row.message);
    const Synthesis made = synthesize(request);
    expect_sound(request, made);
    const double work = row.micro_batches * (stage.forward + stage.backward());
    EXPECT_NEAR(simulate(made.schedule, *request.cost).span_bubble_rate,
                (made.span - work) / made.span, kRounding);
    EXPECT_LE(to_4_digits((made.span - work) / made.span), times == 1 ? row.zb_1p : row.zb_2p);
    // ZB-1p is solved to the bound; ZB-2p to half a per cent of it.
    EXPECT_LE(made.span_gap(), times == 1 ? 1e-6 : 0.005);
  }
}

INSTANTIATE_TEST_SUITE_P(Qi2023, PublishedTable,
                         ::testing::ValuesIn(read_zero_bubble_table(PIPEMARK_GOLDEN_DIR)));

// The published ZB-2p value is below the bound when activations are whole until W: the reason for
// deferred_share.
TEST(Synthesis, PublishedZeroBubbleNeedsThePapersMemory) {
  ScheduleRequest request;
  request.ranks = 8, request.micro_batches = 24, request.memory_limit = 16;
  request.cost = even_cost(8, 8, {18.522, 18.086, 9.337}, 0.601);
  request.deferred_share = 1;
  const Synthesis made = synthesize(request);
  const double work = 24 * (18.522 + 18.086 + 9.337);
  EXPECT_GT((made.span_lower_bound - work) / made.span_lower_bound, 0.0433 + 0.05);
  EXPECT_LE(made.span_gap(), 1e-6);
}

struct Shape {
  std::string placement;
  int ranks, micro_batches;
};

ScheduleRequest random_request(const Shape& shape, std::mt19937& random) {
  const auto uniform = [&](double low, double high) {
    return low + (high - low) * static_cast<double>(random() % 1000) / 999.0;
  };
  ScheduleRequest request;
  request.ranks = shape.ranks, request.micro_batches = shape.micro_batches;
  request.placement = shape.placement;
  const int stages = shape.placement == "v" ? 2 * shape.ranks : shape.ranks;
  CostModel cost = even_cost(shape.ranks, stages, {}, 0);
  for (StageCost& stage : cost.stage) {
    stage = {uniform(0.5, 2), uniform(0.5, 2), uniform(0.2, 2)};
  }
  for (double& message : cost.message) message = uniform(0, 0.5);
  request.cost = cost;
  request.deferred_share = random() % 2 == 0 ? 1 : uniform(0.2, 1);
  const int least = shape.placement == "bidirectional" ? 2 : 1;
  for (int r = 0; r < shape.ranks; ++r) {
    request.memory_limits.push_back(random() % 3 == 0 ? 0 : least + uniform(0, 2));
  }
  return request;
}

std::vector<double> capacities(const ScheduleRequest& request, const Placement& placement) {
  std::vector<double> limit;
  for (const double l : request.memory_limits) {
    limit.push_back(l > 0 ? l * placement.stages / placement.ranks : 1e9);
  }
  return limit;
}

struct Tally {
  int cases = 0, optimal = 0, undecided = 0;
  double worst = 0;  ///< gap to the optimum, as a part of the makespan
};

/// Compares with the exact optimum of the same objective: the larger excess over the two bounds.
void compare_with_exact(const Shape& shape, int cases, long nodes, bool rendezvous, Tally& tally) {
  std::mt19937 random(1000 * shape.ranks + shape.micro_batches);
  for (int i = 0; i < cases; ++i) {
    ScheduleRequest request = random_request(shape, random);
    if (rendezvous) request.rendezvous = true;
    SynthesisOptions options;
    options.evaluations = 3000;
    const Synthesis made = synthesize(request, options);
    ASSERT_NO_FATAL_FAILURE(expect_sound(request, made));
    const double value =
        std::max(made.makespan - made.lower_bound, made.span - made.span_lower_bound);
    ExactSearch exact(made.schedule.placement, request.micro_batches, *request.cost,
                      capacities(request, made.schedule.placement), request.deferred_share,
                      made.lower_bound, made.span_lower_bound);
    const auto accepts = [&](const Schedule& s) { return !rendezvous || validate(s).empty(); };
    const double optimum = exact.minimum(value - kRounding, nodes, accepts);
    ++tally.cases;
    tally.undecided += exact.complete() ? 0 : 1;
    const double gap = optimum < value - kRounding ? (value - optimum) / made.makespan : 0;
    tally.optimal += exact.complete() && gap == 0 ? 1 : 0;
    tally.worst = std::max(tally.worst, gap);
    // The bounds hold: nothing that the exact search found lies below them.
    EXPECT_GE(optimum, -kRounding * made.makespan);
  }
}

// Linear and V placements without the rendezvous model: every case optimal. The known weak places,
// rendezvous with M > 3 and unequal bidirectional counts, have a bounded share and gap.
TEST(Synthesis, SmallCasesAgainstExhaustiveSearch) {
  struct Plan {
    Shape shape;
    int cases;
    double share[2], worst[2];  ///< [rendezvous]: least part optimal, largest gap
  };
  const Plan plans[] = {{{"linear", 2, 3}, 60, {1, 1}, {0, 0}},
                        {{"linear", 2, 4}, 60, {1, 0.9}, {0, 0.05}},
                        {{"linear", 3, 2}, 60, {1, 1}, {0, 0}},
                        {{"linear", 3, 3}, 60, {1, 1}, {0, 0}},
                        {{"linear", 4, 2}, 40, {1, 1}, {0, 0}},
                        {{"v", 2, 1}, 20, {1, 1}, {0, 0}},
                        {{"v", 2, 2}, 20, {1, 1}, {0, 0}},
                        {{"bidirectional", 2, 2}, 40, {1, 1}, {0, 0}},
                        {{"bidirectional", 2, 3}, 20, {0.8, 0.8}, {0.1, 0.1}}};
  for (const Plan& plan : plans) {
    for (const bool rendezvous : {false, true}) {
      SCOPED_TRACE(fmt::format("{} P {} M {} rendezvous {}", plan.shape.placement, plan.shape.ranks,
                               plan.shape.micro_batches, rendezvous));
      Tally tally;
      compare_with_exact(plan.shape, plan.cases, 2'000'000, rendezvous, tally);
      EXPECT_EQ(tally.undecided, 0);
      EXPECT_GE(tally.optimal, plan.share[rendezvous] * tally.cases);
      EXPECT_LE(tally.worst, plan.worst[rendezvous]);
    }
  }
}

// The exact search can refute: it finds better than one micro-batch at a time.
TEST(Synthesis, ExactSearchBeatsASlowSchedule) {
  const CostModel cost = even_cost(2, 2, {}, 0);
  ExactSearch exact(Placement::linear(2), 3, cost, {3, 3}, 1, 0, 0);
  EXPECT_LT(exact.minimum(3 * 6, 1'000'000, [](const Schedule&) { return true; }), 3 * 6);
}

TEST(Synthesis, SameRequestSameSchedule) {
  std::mt19937 random(7);
  const ScheduleRequest request = random_request({"v", 4, 8}, random);
  EXPECT_EQ(to_text(synthesize(request).schedule), to_text(synthesize(request).schedule));
}

TEST(Synthesis, RefusesWhatCannotBeMet) {
  ScheduleRequest request;
  request.placement = "spiral";
  EXPECT_THROW(synthesize(request), UserError);
  request.placement = "bidirectional", request.memory_limit = 1;
  EXPECT_THROW(synthesize(request), UserError);
  request.placement = "linear", request.memory_limits = {4, 4};
  EXPECT_THROW(synthesize(request), UserError);
  request.memory_limits.clear(), request.cost = even_cost(4, 8, {}, 0);
  EXPECT_THROW(synthesize(request), UserError);
}

}  // namespace
}  // namespace pipemark
