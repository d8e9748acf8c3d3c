#include "trainer/expert_map.hpp"

#include <gtest/gtest.h>

#include <random>

namespace pipemark {
namespace {

TEST(ExpertMap, InOrderRepeatsTheFirstExperts) {
  const ExpertMap map = ExpertMap::in_order(4, 2, 6);
  EXPECT_EQ(map.experts_by_place(), (std::vector<int>{0, 1, 2, 3, 0, 1}));
  EXPECT_EQ(map.slots(), 3);
  EXPECT_EQ(map.places_of(1), (std::vector<int>{1, 5}));
  EXPECT_TRUE(map.is_primary(0));
  EXPECT_FALSE(map.is_primary(4));
}

TEST(ExpertMap, AnExpertWithoutAPlaceIsADefect) {
  EXPECT_THROW(ExpertMap(3, 1, {0, 1, 1}), LogicError);
  EXPECT_THROW(ExpertMap(2, 1, {0, 2}), LogicError);
  EXPECT_THROW(ExpertMap(2, 2, {0, 1, 1}), LogicError);
}

TEST(PlanDispatch, RowsGoByPlaceThenByRow) {
  // Three rows of one sequence, two experts each, of four; places in order.
  const RouterShape shape{3, 3, 4, 2};
  const std::vector<std::int32_t> chosen{2, 0, 0, 3, 2, 1};
  const auto plan = plan_dispatch(chosen, shape, ExpertMap::in_order(4, 2, 4), 0, 0);
  EXPECT_EQ(plan.sent, (std::vector<std::int32_t>{2, 1, 2, 1}));
  EXPECT_EQ(plan.index, (std::vector<std::int32_t>{0, 1, 2, 0, 2, 1}));
  EXPECT_EQ(plan.place, (std::vector<std::int32_t>{3, 0, 1, 5, 4, 2}));
  EXPECT_EQ(plan.counts, (std::vector<std::int32_t>{2, 1, 2, 1}));
}

TEST(PlanDispatch, ReplicasTakeTurns) {
  const RouterShape shape{4, 4, 2, 1};
  const std::vector<std::int32_t> chosen{0, 0, 0, 1};
  const ExpertMap map(2, 1, {0, 1, 0});
  EXPECT_EQ(plan_dispatch(chosen, shape, map, 0, 0).sent, (std::vector<std::int32_t>{2, 1, 1}));
  EXPECT_EQ(plan_dispatch(chosen, shape, map, 0, 1).sent, (std::vector<std::int32_t>{1, 1, 2}));
}

TEST(PlanDispatch, CapacityDropsTheLaterRows) {
  const RouterShape shape{4, 2, 2, 1};
  const std::vector<std::int32_t> chosen{0, 0, 0, 1};
  const auto plan = plan_dispatch(chosen, shape, ExpertMap::in_order(2, 1, 2), 2, 0);
  EXPECT_EQ(plan.sent, (std::vector<std::int32_t>{2, 1}));
  EXPECT_EQ(plan.place, (std::vector<std::int32_t>{0, 1, -1, 2}));
  EXPECT_EQ(plan.counts, (std::vector<std::int32_t>{2, 0, 1, 1}));  // by sequence, with the dropped
}

TEST(PlanDispatch, EveryRowArrivesOnce) {
  std::mt19937 random(7);
  for (int round = 0; round < 50; ++round) {
    const int experts = 2 + static_cast<int>(random() % 7),
              ranks = 1 + static_cast<int>(random() % 3);
    const int places =
        (experts + ranks - 1) / ranks * ranks + ranks * static_cast<int>(random() % 3);
    const ExpertMap map = ExpertMap::in_order(experts, ranks, places);
    const RouterShape shape{24, 8, experts, 2};
    std::vector<std::int32_t> chosen;
    for (int n = 0; n < 24; ++n) {
      const int first = static_cast<int>(random() % experts);
      chosen.push_back(first);
      chosen.push_back((first + 1) % experts);
    }
    const auto plan = plan_dispatch(chosen, shape, map, 0, round);
    ASSERT_EQ(plan.rows(), 48);
    std::vector<int> seen(48, 0);
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      const auto at = static_cast<std::size_t>(plan.place[i]);
      ++seen[at];
      EXPECT_EQ(plan.index[at], static_cast<int>(i / 2));
      std::size_t place = 0, begin = 0;  // the place whose run holds `at`
      while (begin + plan.sent[place] <= at) begin += plan.sent[place++];
      EXPECT_EQ(map.expert_of(static_cast<int>(place)), chosen[i]);
    }
    EXPECT_EQ(seen, std::vector<int>(48, 1));
  }
}

}  // namespace
}  // namespace pipemark
