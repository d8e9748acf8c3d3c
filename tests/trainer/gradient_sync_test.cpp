// Which ranks hold the same stage: pure functions. The sums themselves are tested by the gradients
// of whole runs (pipeline_gradients_test).
#include "trainer/gradient_sync.hpp"

#include <gtest/gtest.h>

#include <set>

namespace pipemark {
namespace {

TEST(HolderSets, OneReplicaHoldsEachStageOnce) {
  const auto sets = holder_sets(Placement::looped(4, 2));
  ASSERT_EQ(sets.size(), 4u);
  EXPECT_EQ(sets[1].ranks, (std::vector<int>{1}));
  EXPECT_EQ(sets[1].stages, (std::vector<int>{1, 5}));
}

TEST(HolderSets, BidirectionalPairsRanks) {
  const auto sets = holder_sets(Placement::bidirectional(8));
  ASSERT_EQ(sets.size(), 4u);
  for (int s = 0; s < 4; ++s) {
    EXPECT_EQ(sets[s].ranks, (std::vector<int>{s, 7 - s}));
    EXPECT_EQ(sets[s].stages, (std::vector<int>{s, 7 - s}));
  }
}

TEST(DisjointRounds, SetsOfARoundShareNoRankAndNoneIsLost) {
  const std::vector<HolderSet> sets{{{0, 1}, {0}}, {{1, 2}, {1}}, {{2, 3}, {2}}, {{0, 3}, {3}}};
  const auto rounds = disjoint_rounds(sets);
  std::set<int> seen;
  for (const auto& round : rounds) {
    std::set<int> ranks;
    for (const int i : round) {
      seen.insert(i);
      for (const int r : sets[i].ranks) EXPECT_TRUE(ranks.insert(r).second);
    }
  }
  EXPECT_EQ(seen.size(), sets.size());
  EXPECT_EQ(rounds.size(), 2u);
}

}  // namespace
}  // namespace pipemark
