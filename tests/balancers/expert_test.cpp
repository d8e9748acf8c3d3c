// Expert placements: plans equal to DeepSeek's own (golden), balance figures worked out by hand,
// and the placement that pays for moves.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "balancers/expert_moves.hpp"
#include "balancers/torch_order.hpp"
#include "kernels/check.hpp"

namespace pipemark {
namespace {

template <class T>
Matrix<T> matrix_of(const nlohmann::json& rows) {
  Matrix<T> matrix(static_cast<int>(rows.size()), static_cast<int>(rows[0].size()));
  for (int r = 0; r < matrix.rows; ++r) {
    for (int c = 0; c < matrix.columns; ++c) matrix.row(r)[c] = static_cast<T>(rows[r][c]);
  }
  return matrix;
}

Matrix<float> skewed_loads(int layers, int experts, unsigned seed) {
  std::mt19937 random(seed);
  std::lognormal_distribution<float> load(0, 1);
  Matrix<float> loads(layers, experts);
  for (float& value : loads.values) value = load(random);
  return loads;
}

TEST(ExpertEplb, EqualsThePublishedPlans) {
  std::ifstream in(PIPEMARK_GOLDEN_DIR "/eplb/plans.json");
  const auto cases = nlohmann::json::parse(in);
  ASSERT_GT(cases.size(), 30u);
  for (const auto& c : cases) {
    const auto loads = matrix_of<float>(c["loads"]);
    const auto& g = c["grid"];
    const ExpertPlacement plan = rebalance_experts(loads, {g[0], g[1], g[2], g[3]});
    EXPECT_EQ(plan.phy2log, matrix_of<int>(c["phy2log"])) << c["grid"];
    EXPECT_EQ(plan.counts, matrix_of<int>(c["counts"])) << c["grid"];
    ASSERT_EQ(plan.max_count, static_cast<int>(c["log2phy"][0][0].size()));
    std::vector<int> log2phy;
    for (const auto& layer : c["log2phy"]) {
      for (const auto& expert : layer) {
        for (const int p : expert) log2phy.push_back(p);
      }
    }
    EXPECT_EQ(plan.log2phy.values, log2phy) << c["grid"];
  }
}

TEST(ExpertEplb, ReadmeExample) {
  const auto loads = matrix_of<float>(nlohmann::json::parse(
      "[[90,132,40,61,104,165,39,4,73,56,183,86],[20,107,104,64,19,197,187,157,172,86,16,27]]"));
  const auto plan = rebalance_experts(loads, {16, 4, 2, 8});
  EXPECT_EQ(plan.phy2log,
            matrix_of<int>(nlohmann::json::parse("[[5,6,5,7,8,4,3,4,10,9,10,2,0,1,11,1],"
                                                 "[7,10,6,8,6,11,8,9,2,4,5,1,5,0,3,1]]")));
}

TEST(ExpertEplb, WhatDoesNotDivideIsTheUsersMistake) {
  const Matrix<float> loads(1, 12, 1.0f);
  EXPECT_THROW(rebalance_experts(loads, {8, 4, 2, 8}), UserError);   // fewer than experts
  EXPECT_THROW(rebalance_experts(loads, {18, 4, 2, 8}), UserError);  // 18 on 8 devices
  EXPECT_THROW(rebalance_experts(loads, {16, 8, 2, 8}), UserError);  // 12 experts in 8 groups
  EXPECT_THROW(rebalance_experts(loads, {14, 4, 2, 7}), UserError);  // 7 devices on 2 nodes
  EXPECT_NO_THROW(rebalance_experts(loads, {14, 3, 2, 7}));          // global: nodes don't matter
}

TEST(TorchOrder, SumsInCascades) {
  // 1 then many halves of an epsilon: a running sum loses every one, eight lanes keep most.
  std::vector<float> values(64, std::numeric_limits<float>::epsilon() / 2);
  values[0] = 1;
  float running = 0;
  for (const float v : values) running += v;
  EXPECT_EQ(running, 1.0f);
  EXPECT_GT(torch_sum(values.data(), 64), 1.0f);
  // Below eight values four chains: (v0 + v4) + v1 + v2 + v3.
  const float few[5] = {1e8f, 1, 1, 1, -1e8f};
  EXPECT_EQ(torch_sum(few, 5), 3.0f);
  std::vector<float> ones(5000, 1.0f);
  EXPECT_EQ(torch_sum(ones.data(), 5000), 5000.0f);
  EXPECT_EQ(torch_sum(ones.data(), 13), 13.0f);
}

// Two layers on two devices. Layer 0: 30 | 10, layer 1: 10 | 30. Over both layers each device has
// 40, so a metric of sums would call it even; but each layer waits for its slower device: 60
// against 40.
TEST(ExpertBalance, IsOverDevicesLayerByLayer) {
  const auto placement = ExpertPlacement::plain(2, 2, 2);
  Matrix<float> loads(2, 2);
  loads.values = {30, 10, 10, 30};
  const ExpertBalance balance = expert_balance(placement, loads, 2);
  EXPECT_EQ(balance.load.values, (std::vector<double>{30, 10, 10, 30}));
  EXPECT_EQ(balance.imbalance, (std::vector<double>{1.5, 1.5}));
  EXPECT_EQ(balance.slowest_sum, 60);
  EXPECT_EQ(balance.time_factor, 1.5);
}

// A layer of little load may be uneven at no price: 3/2 of 4 is 2, of 400 is nothing. Mean
// imbalance is 1.25, time 1.005.
TEST(ExpertBalance, TimeWeighsLayersByLoad) {
  const auto placement = ExpertPlacement::plain(2, 2, 2);
  Matrix<float> loads(2, 2);
  loads.values = {3, 1, 198, 198};
  const ExpertBalance balance = expert_balance(placement, loads, 2);
  EXPECT_EQ(balance.imbalance, (std::vector<double>{1.5, 1.0}));
  EXPECT_EQ(balance.time_factor, 201.0 / 200.0);
}

// Replicas share: 12 on three replicas is 4 each; a device of half speed takes twice the time.
TEST(ExpertBalance, CountsReplicasAndSpeeds) {
  Matrix<int> phy2log(1, 4);
  phy2log.values = {0, 1, 0, 0};
  const auto placement = ExpertPlacement::of(phy2log, 2);
  EXPECT_EQ(placement.counts.values, (std::vector<int>{3, 1}));
  EXPECT_EQ(placement.log2phy.values, (std::vector<int>{0, 2, 3, 1, -1, -1}));
  Matrix<float> loads(1, 2);
  loads.values = {12, 2};
  EXPECT_EQ(expert_balance(placement, loads, 2).load.values, (std::vector<double>{6, 8}));
  EXPECT_EQ(expert_balance(placement, loads, 2, {0.5, 1}).load.values,
            (std::vector<double>{12, 8}));
  EXPECT_THROW(ExpertPlacement::of(phy2log, 3), UserError);  // expert 2 nowhere
}

TEST(ExpertMoves, NeverCostsMoreThanStayingOrThanThePublishedPlan) {
  for (unsigned seed = 0; seed < 40; ++seed) {
    const ExpertGrid grid{16, 4, seed % 2 == 0 ? 2 : 3, 4};
    const auto before = skewed_loads(3, 12, seed), after = skewed_loads(3, 12, seed + 100);
    const auto current = rebalance_experts(before, grid);
    const MoveCosts costs{{}, 1, 10, static_cast<double>(seed % 4)};
    const auto adapted = adapt_experts(after, grid, current, costs);
    EXPECT_LE(adapted.cost_s, cost_of_change(after, 4, current, current, costs).cost_s);
    EXPECT_LE(adapted.cost_s,
              cost_of_change(after, 4, current, rebalance_experts(after, grid), costs).cost_s);
  }
}

TEST(ExpertMoves, StaysWhereMovingCostsTooMuchOrNothingChanged) {
  const ExpertGrid grid{16, 4, 2, 4};
  const auto loads = skewed_loads(2, 12, 1);
  const auto current = rebalance_experts(loads, grid);
  const auto stayed = adapt_experts(skewed_loads(2, 12, 2), grid, current, {{}, 1, 1, 1e9});
  EXPECT_EQ(stayed.moved, 0);
  EXPECT_EQ(expert_balance(stayed.placement, loads, 4).load.rows, 2);
  const auto moved = adapt_experts(skewed_loads(2, 12, 2), grid, current, {{}, 1, 1000, 0.001});
  EXPECT_GT(moved.moved, 0);
}

TEST(ExpertMoves, KeepsExpertsInTheirNode) {
  const ExpertGrid grid{16, 2, 2, 4};
  auto loads = skewed_loads(1, 12, 3);
  const auto current = rebalance_experts(loads, grid);
  // The two nodes' loads as a whole stay: only exchanges inside them pay.
  std::swap(loads.values[0], loads.values[3]);
  const auto next = adapt_experts(loads, grid, current, {{}, 1, 1000, 1}).placement;
  for (int p = 0; p < 16; ++p) {
    const int expert = next.phy2log.values[static_cast<std::size_t>(p)];
    const auto node = current.phy2log.values.begin() + p / 8 * 8;
    EXPECT_NE(std::find(node, node + 8, expert), node + 8) << "replica " << p;
  }
}

TEST(ExpertMoves, GivesASlowDeviceLess) {
  const auto loads = skewed_loads(4, 16, 5);
  const std::vector<double> speeds{1, 1, 1, 0.5};
  const ExpertGrid grid{24, 1, 1, 4};
  const auto equal = rebalance_experts(loads, grid);
  const auto aware = adapt_experts(loads, grid, equal, {speeds, 1, 1000, 0}).placement;
  const double time = expert_balance(aware, loads, 4, speeds).slowest_sum;
  EXPECT_LT(time, 0.75 * expert_balance(equal, loads, 4, speeds).slowest_sum);
}

/// The cheapest of all placements of one layer, by trying them all.
double cheapest_of_all(const Matrix<float>& loads, int replicas, int gpus,
                       const ExpertPlacement& current, const MoveCosts& costs) {
  double best = std::numeric_limits<double>::infinity();
  Matrix<int> phy2log(1, replicas);
  std::function<void(int)> fill = [&](int p) {
    if (p == replicas) {
      std::vector<bool> there(static_cast<std::size_t>(loads.columns), false);
      for (const int e : phy2log.values) there[static_cast<std::size_t>(e)] = true;
      if (std::count(there.begin(), there.end(), false) > 0) return;
      const auto next = ExpertPlacement::of(phy2log, loads.columns);
      best = std::min(best, cost_of_change(loads, gpus, current, next, costs).cost_s);
      return;
    }
    for (int e = 0; e < loads.columns; ++e) {
      phy2log.values[static_cast<std::size_t>(p)] = e;
      fill(p + 1);
    }
  };
  fill(0);
  return best;
}

TEST(ExpertMoves, IsNearTheCheapestOfAllPlacements) {
  double sum = 0, worst = 0;
  constexpr int kCases = 30;
  for (unsigned seed = 0; seed < kCases; ++seed) {
    const auto loads = skewed_loads(1, 4, seed);
    const auto current = rebalance_experts(skewed_loads(1, 4, seed + 50), {6, 1, 1, 3});
    const MoveCosts costs{{1, 1, 0.7}, 1, 4, 0.5};
    const double best = cheapest_of_all(loads, 6, 3, current, costs);
    const double gap = adapt_experts(loads, {6, 1, 1, 3}, current, costs).cost_s / best - 1;
    ASSERT_GE(gap, -1e-9);
    sum += gap;
    worst = std::max(worst, gap);
  }
  EXPECT_LT(sum / kCases, 0.03);
  EXPECT_LT(worst, 0.25);
  RecordProperty("mean_gap", std::to_string(sum / kCases));
}

}  // namespace
}  // namespace pipemark
