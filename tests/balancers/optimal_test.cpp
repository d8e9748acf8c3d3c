// The exact partition against every partition: all cuts, all orders, all placements of small cases.
#include "balancers/optimal.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <random>

#include "balancers/balancer.hpp"
#include "kernels/check.hpp"

namespace pipemark {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Case {
  ChainCosts costs;
  LiveActivations live;
};

/// Whole numbers, so that sums are exact whatever their order. Half the cases have memory limits,
/// half of the devices differ by layer and not only by a factor.
Case random_case(std::mt19937& random, int layers, int devices, std::size_t entries) {
  const auto below = [&](unsigned n) { return static_cast<double>(random() % n); };
  Case made;
  ChainCosts& costs = made.costs;
  const bool unlike = random() % 2 == 0, limited = random() % 2 == 0;
  std::vector<double> base;
  for (int l = 0; l < layers; ++l) base.push_back(below(20));
  for (int d = 0; d < devices; ++d) {
    const double factor = 1 + below(3);
    std::vector<double> row;
    for (const double t : base) row.push_back(unlike ? below(20) : factor * t);
    costs.seconds.push_back(row);
  }
  if (limited) {
    double total = 0;
    for (int l = 0; l < layers; ++l) {
      costs.state_bytes.push_back(below(8));
      costs.activation_bytes.push_back(below(4));
      total += costs.state_bytes.back() + 2 * costs.activation_bytes.back();
    }
    const double copies = static_cast<double>(entries) / devices;
    for (int d = 0; d < devices; ++d) {
      costs.capacity_bytes.push_back(total * copies / devices * (0.75 + below(8) / 8) + 4);
    }
    for (std::size_t e = 0; e < entries; ++e)
      made.live.push_back(1 + static_cast<int>(random() % 3));
  }
  return made;
}

/// The objective written out from its definition: layer by layer.
double slowest_rank(const Case& c, const Placement& placement, const std::vector<int>& first,
                    const std::vector<int>& device) {
  double slowest = 0;
  for (int rank = 0; rank < placement.ranks; ++rank) {
    double seconds = 0, bytes = 0;
    const int d = device[rank];
    for (int replica = 0; replica < placement.replicas; ++replica) {
      for (int s = 0; s < placement.stages; ++s) {
        if (placement.rank_of(replica, s) != rank) continue;
        for (int l = first[s]; l < first[s + 1]; ++l) {
          seconds += c.costs.seconds[d][l];
          if (c.live.empty()) continue;
          bytes += c.costs.state_bytes[l] +
                   c.live[replica * placement.stages + s] * c.costs.activation_bytes[l];
        }
      }
    }
    if (!c.costs.capacity_bytes.empty() && bytes > c.costs.capacity_bytes[d]) return kInfinity;
    slowest = std::max(slowest, seconds / placement.replicas);
  }
  return slowest;
}

double best_of_all_cuts(const Case& c, const Placement& placement, const std::vector<int>& device) {
  const int layers = c.costs.layers(), stages = placement.stages;
  std::vector<int> first(stages + 1, 0);
  first[stages] = layers;
  double best = kInfinity;
  std::function<void(int)> cut = [&](int stage) {
    if (stage == stages) {
      best = std::min(best, slowest_rank(c, placement, first, device));
      return;
    }
    for (int at = first[stage - 1] + 1; at <= layers - (stages - stage); ++at) {
      first[stage] = at;
      cut(stage + 1);
    }
  };
  cut(1);
  return best;
}

std::vector<int> identity(int n) {
  std::vector<int> order(n);
  std::iota(order.begin(), order.end(), 0);
  return order;
}

/// The plan is sound, its figures are its own, and it is `best`; the bound holds.
void expect_optimal(const Case& c, const Placement& placement, double best,
                    const std::function<ChainPlan()>& solve) {
  if (best == kInfinity) {
    EXPECT_THROW(solve(), UserError);
    return;
  }
  const ChainPlan plan = solve();
  const auto& first = plan.partition.first;
  ASSERT_EQ(plan.partition.stages(), placement.stages);
  ASSERT_EQ(plan.partition.layers(), c.costs.layers());
  ASSERT_TRUE(std::adjacent_find(first.begin(), first.end(), std::greater_equal<>()) ==
              first.end());
  ASSERT_TRUE(std::is_permutation(plan.device.begin(), plan.device.end(),
                                  identity(placement.ranks).begin()));
  ASSERT_EQ(plan.bottleneck_s, slowest_rank(c, placement, first, plan.device));
  const auto seconds = rank_seconds(c.costs, placement, plan.partition, plan.device);
  ASSERT_EQ(plan.bottleneck_s, *std::max_element(seconds.begin(), seconds.end()));
  ASSERT_EQ(plan.bottleneck_s, best);
  ASSERT_TRUE(plan.exact());
}

TEST(Optimal, LinearEqualsEveryCut) {
  std::mt19937 random(1);
  int infeasible = 0;
  for (int round = 0; round < 4000; ++round) {
    const int devices = 1 + static_cast<int>(random() % 5);
    const int layers = devices + static_cast<int>(random() % 7);
    const Placement placement = Placement::linear(devices);
    const Case c = random_case(random, layers, devices, placement.rank.size());
    const double best = best_of_all_cuts(c, placement, identity(devices));
    infeasible += best == kInfinity;
    expect_optimal(c, placement, best,
                   [&] { return optimal_partition(c.costs, placement, c.live); });
    if (HasFatalFailure()) FAIL() << "round " << round;
  }
  EXPECT_GT(infeasible, 100);
}

TEST(Optimal, AnyOrderEqualsEveryOrderOfEveryCut) {
  std::mt19937 random(2);
  for (int round = 0; round < 1500; ++round) {
    const int devices = 1 + static_cast<int>(random() % 5);
    const int layers = devices + static_cast<int>(random() % 5);
    const Placement placement = Placement::linear(devices);
    const Case c = random_case(random, layers, devices, placement.rank.size());
    double best = kInfinity;
    auto order = identity(devices);
    do {
      best = std::min(best, best_of_all_cuts(c, placement, order));
    } while (std::next_permutation(order.begin(), order.end()));
    expect_optimal(c, placement, best, [&] { return optimal_order(c.costs, c.live); });
    if (HasFatalFailure()) FAIL() << "round " << round;
  }
}

TEST(Optimal, BidirectionalEqualsEveryCut) {
  std::mt19937 random(3);
  for (int round = 0; round < 3000; ++round) {
    const int devices = 2 * (1 + static_cast<int>(random() % 3));
    const int layers = devices + static_cast<int>(random() % 6);
    const Placement placement = Placement::bidirectional(devices);
    const Case c = random_case(random, layers, devices, placement.rank.size());
    const double best = best_of_all_cuts(c, placement, identity(devices));
    expect_optimal(c, placement, best,
                   [&] { return optimal_partition(c.costs, placement, c.live); });
    if (HasFatalFailure()) FAIL() << "round " << round;
  }
}

TEST(Optimal, VEqualsEveryCut) {
  std::mt19937 random(4);
  for (int round = 0; round < 3000; ++round) {
    const int devices = 1 + static_cast<int>(random() % 3);
    const int layers = 2 * devices + static_cast<int>(random() % 6);
    const Placement placement = Placement::v_shape(devices);
    const Case c = random_case(random, layers, devices, placement.rank.size());
    const double best = best_of_all_cuts(c, placement, identity(devices));
    expect_optimal(c, placement, best,
                   [&] { return optimal_partition(c.costs, placement, c.live); });
    if (HasFatalFailure()) FAIL() << "round " << round;
  }
}

// Equal layers on equal ranks: every deal of 4 layers to a pair is as good for the slowest rank,
// but a step fills through single stages, so they are to be even.
TEST(Optimal, FoldedStagesAreEvenWhereRanksAllowIt) {
  std::vector<LayerCost> layers(16);
  for (auto& layer : layers) layer.forward_s = 1;
  const auto costs = ChainCosts::of(layers, std::vector<double>(8, 1.0));
  const ChainPlan plan = optimal_partition(costs, Placement::bidirectional(8));
  EXPECT_EQ(plan.bottleneck_s, 2);
  EXPECT_EQ(plan.partition.first, (std::vector<int>{0, 2, 4, 6, 8, 10, 12, 14, 16}));
}

TEST(Optimal, LoopedChunksKeepTheirBound) {
  std::mt19937 random(5);
  double worst_gap = 0;
  for (int round = 0; round < 500; ++round) {
    const int devices = 2 + static_cast<int>(random() % 2);
    const Placement placement = Placement::looped(devices, 2);
    Case c = random_case(random, 2 * devices + 3, devices, placement.rank.size());
    c.costs.state_bytes.clear();
    c.costs.activation_bytes.clear();
    c.costs.capacity_bytes.clear();
    c.live.clear();
    const double best = best_of_all_cuts(c, placement, identity(devices));
    const ChainPlan plan = optimal_partition(c.costs, placement);
    ASSERT_EQ(plan.bottleneck_s, slowest_rank(c, placement, plan.partition.first, plan.device));
    ASSERT_LE(plan.lower_bound_s, best);
    ASSERT_GE(plan.bottleneck_s, best);
    if (best > 0) worst_gap = std::max(worst_gap, plan.bottleneck_s / best - 1);
  }
  EXPECT_LT(worst_gap, 0.5);  // of tiny cases, where one layer is much
}

TEST(Optimal, BeyondTwelveDevicesTheBoundIsProvenAndNear) {
  std::mt19937 random(6);
  std::uniform_real_distribution<double> layer_s(1, 4), speed(0.5, 2);
  std::vector<LayerCost> layers(64);
  for (auto& layer : layers) layer.forward_s = layer_s(random);
  std::vector<double> speeds(16);
  for (double& s : speeds) s = speed(random);
  const ChainCosts costs = ChainCosts::of(layers, speeds);
  const ChainPlan plan = optimal_order(costs);
  double best = kInfinity;  // of some orders: none may beat the bound
  auto order = identity(16);
  for (int trial = 0; trial < 300; ++trial) {
    std::shuffle(order.begin(), order.end(), random);
    ChainCosts ordered;
    for (const int d : order) ordered.seconds.push_back(costs.seconds[d]);
    best = std::min(best, optimal_partition(ordered, Placement::linear(16)).bottleneck_s);
  }
  EXPECT_LE(plan.lower_bound_s, best);
  EXPECT_LE(plan.bottleneck_s, best);
  EXPECT_LT(plan.gap(), 0.25);
  EXPECT_FALSE(plan.exact());
}

TEST(Optimal, ThirtyTwoDevicesOfTwoKindsAreExact) {
  std::vector<LayerCost> layers(96);
  for (auto& layer : layers) layer.forward_s = 1;
  std::vector<double> speeds(32, 1.0);
  std::fill(speeds.begin() + 16, speeds.end(), 2.0);
  const ChainPlan plan = optimal_order(ChainCosts::of(layers, speeds));
  EXPECT_TRUE(plan.exact());
  EXPECT_EQ(plan.bottleneck_s, 2);  // 16 x 2 + 16 x 4 = 96
}

TEST(Optimal, TheTrainersBalancerTakesSpeedsAndPlacements) {
  std::vector<LayerCost> layers(8);
  for (auto& layer : layers) layer.forward_s = 1;
  EXPECT_EQ(make_partition("optimal", layers, Placement::linear(2), {{3.0, 1.0}}).first,
            (std::vector<int>{0, 6, 8}));
  // In a V rank 0 holds both ends, rank 1 the middle: the slow one takes 2 of 8.
  const Partition v = make_partition("optimal", layers, Placement::v_shape(2), {{1.0, 3.0}});
  EXPECT_EQ(v.first[1], 1);
  EXPECT_EQ(v.first[3], 7);
  EXPECT_THROW(make_partition("optimal", layers, Placement::linear(9)), UserError);
}

}  // namespace
}  // namespace pipemark
