#include "balancers/static.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "balancers/balancer.hpp"
#include "kernels/check.hpp"

namespace pipemark {
namespace {

double largest_stage(const std::vector<double>& w, const Partition& p) {
  double largest = 0;
  for (int s = 0; s < p.stages(); ++s) {
    double sum = 0;
    for (int l = p.first[s]; l < p.first[s + 1]; ++l) sum += w[l];
    largest = std::max(largest, sum);
  }
  return largest;
}

// Every way to cut, by recursion.
double best_by_brute_force(const std::vector<double>& w, int from, int stages) {
  const int n = static_cast<int>(w.size());
  if (stages == 1) {
    double sum = 0;
    for (int l = from; l < n; ++l) sum += w[l];
    return sum;
  }
  double best = 1e300, sum = 0;
  for (int cut = from + 1; cut <= n - (stages - 1); ++cut) {
    sum += w[cut - 1];
    best = std::min(best, std::max(sum, best_by_brute_force(w, cut, stages - 1)));
  }
  return best;
}

TEST(Static, EvenDealsBlocksAndKeepsEmbeddingAndHeadAtTheEnds) {
  EXPECT_EQ(partition_even(10, 4).first,
            (std::vector<int>{0, 3, 5, 7, 10}));                       // 8 blocks, 2 a stage
  EXPECT_EQ(partition_even(7, 2).first, (std::vector<int>{0, 4, 7}));  // 5 blocks: 3 and 2
  EXPECT_EQ(partition_even(5, 5).first, (std::vector<int>{0, 1, 2, 3, 4, 5}));
}

TEST(Static, FewerLayersThanStagesIsTheUsersMistake) {
  EXPECT_THROW(partition_even(3, 4), UserError);
  EXPECT_THROW(partition_by_weight({1, 2, 3}, 4), UserError);
}

TEST(Static, ByWeightEqualsBruteForce) {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    const int layers = 1 + static_cast<int>(random() % 9);
    const int stages = 1 + static_cast<int>(random() % layers);
    std::vector<double> w;
    for (int l = 0; l < layers; ++l) w.push_back(static_cast<double>(random() % 20));
    const Partition p = partition_by_weight(w, stages);
    ASSERT_EQ(p.stages(), stages);
    ASSERT_EQ(p.layers(), layers);
    ASSERT_TRUE(std::adjacent_find(p.first.begin(), p.first.end(), std::greater_equal<>()) ==
                p.first.end());
    ASSERT_EQ(largest_stage(w, p), best_by_brute_force(w, 0, stages));
  }
}

TEST(Static, ByWeightAndSpeedGivesTheFasterStageMore) {
  EXPECT_EQ(partition_by_weight({1, 1, 1, 1, 1, 1}, {2.0, 1.0}).first, (std::vector<int>{0, 4, 6}));
  EXPECT_EQ(partition_by_weight({1, 1, 1, 1, 1, 1}, {1.0, 1.0}).first, (std::vector<int>{0, 3, 6}));
}

TEST(Static, MakePartitionRefusesUnknownNamesAndMissingTimes) {
  const std::vector<LayerCost> layers{{"embedding", 10, 0, 0, 0}, {"head", 10, 0, 0, 0}};
  EXPECT_THROW(make_partition("static-evn", layers, Placement::linear(2)), UserError);
  EXPECT_THROW(make_partition("static-cost", layers, Placement::linear(2)), UserError);
  EXPECT_EQ(make_partition("static-parameters", layers, Placement::linear(2)).first,
            (std::vector<int>{0, 1, 2}));
}

}  // namespace
}  // namespace pipemark
