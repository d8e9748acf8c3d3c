// validate: every generated schedule passes, random mutations are caught at their place, and each
// kind of fault is named.
#include "schedules/validate.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/check.hpp"
#include "schedules/simulate.hpp"
#include "schedules/text.hpp"
#include "tests/schedules/requests.hpp"

namespace pipemark {

namespace {

using testing::draw;
using testing::draw_request;
using ::testing::HasSubstr;
using testing::is_cheap;

Schedule schedule_1f1b(int ranks = 4, int micro_batches = 8) {
  ScheduleRequest request;
  request.ranks = ranks;
  request.micro_batches = micro_batches;
  return make_schedule("1f1b", request);
}

TEST(Validate, PassesEveryGeneratedSchedule) {
  std::mt19937 random(3);
  int checked = 0;
  for (const CatalogueRow& row : catalogue()) {
    if (!is_cheap(row)) continue;
    for (int trial = 0; trial < 250; ++trial, ++checked) {
      const ScheduleRequest request = draw_request(row, random, 12, 40);
      const Schedule schedule = row.generate(request);
      const auto faults = validate(schedule);
      ASSERT_TRUE(faults.empty()) << row.name << " P" << request.ranks << " M"
                                  << request.micro_batches << " chunks " << request.chunks << '\n'
                                  << format_faults(schedule, faults);
    }
  }
  EXPECT_GE(checked, 3000);
}

/// A place in a schedule, drawn evenly over its actions' ranks.
struct Place {
  int rank, index;
};
Place draw_place(const Schedule& schedule, std::mt19937& random) {
  Place place{};
  do {
    place.rank = draw(random, 0, schedule.rank_count() - 1);
  } while (schedule.ranks[place.rank].empty());
  place.index = draw(random, 0, static_cast<int>(schedule.ranks[place.rank].size()) - 1);
  return place;
}

bool any_names(const std::vector<Fault>& faults, int rank) {
  for (const Fault& fault : faults) {
    if (fault.rank == rank || fault.rank < 0) return true;
  }
  return false;
}

class Mutation : public ::testing::Test {
 protected:
  /// Calls use(schedule, random) for random schedules of at least two ranks.
  template <class Use>
  void for_random_schedules(int trials, Use use) {
    std::mt19937 random(4);
    for (const CatalogueRow& row : catalogue()) {
      if (!is_cheap(row)) continue;
      for (int trial = 0; trial < trials; ++trial) {
        ScheduleRequest request = draw_request(row, random, 6, 16);
        if (request.ranks < 2) continue;
        Schedule schedule = row.generate(request);
        SCOPED_TRACE(row.name);
        use(schedule, random);
      }
    }
  }
};

TEST_F(Mutation, DroppedActionIsMissedOnItsRank) {
  for_random_schedules(60, [](Schedule& schedule, std::mt19937& random) {
    const auto [rank, index] = draw_place(schedule, random);
    auto& row = schedule.ranks[rank];
    const std::string text = to_text(row[index]);
    row.erase(row.begin() + index);
    const auto faults = validate(schedule);
    ASSERT_FALSE(faults.empty()) << text;
    EXPECT_TRUE(any_names(faults, rank)) << text << '\n' << format_faults(schedule, faults);
  });
}

TEST_F(Mutation, DoubledActionIsNamedWhereItIs) {
  for_random_schedules(60, [](Schedule& schedule, std::mt19937& random) {
    const auto [rank, index] = draw_place(schedule, random);
    auto& row = schedule.ranks[rank];
    const Action copy = row[index];
    row.insert(row.begin() + index, copy);
    const auto faults = validate(schedule);
    ASSERT_FALSE(faults.empty());
    EXPECT_EQ(faults[0].rank, rank);
    EXPECT_EQ(faults[0].index, index + 1);
    EXPECT_THAT(faults[0].what, HasSubstr("second time"));
    EXPECT_THAT(format_faults(schedule, faults), HasSubstr(to_text(copy) + "  <-- HERE"));
  });
}

TEST_F(Mutation, ActionOfAnotherRankIsNamedThere) {
  for_random_schedules(60, [](Schedule& schedule, std::mt19937& random) {
    const auto [rank, index] = draw_place(schedule, random);
    const int other = (rank + 1) % schedule.rank_count();
    auto& row = schedule.ranks[rank];
    auto& target = schedule.ranks[other];
    const Action moved = row[index];
    row.erase(row.begin() + index);
    const int at = draw(random, 0, static_cast<int>(target.size()));
    target.insert(target.begin() + at, moved);
    const auto faults = validate(schedule);
    ASSERT_FALSE(faults.empty());
    bool named = false;
    for (const Fault& fault : faults) named = named || (fault.rank == other && fault.index == at);
    EXPECT_TRUE(named) << format_faults(schedule, faults);
  });
}

TEST_F(Mutation, SwapIsCaughtOrStillRuns) {
  int caught = 0, sound = 0;
  for_random_schedules(200, [&](Schedule& schedule, std::mt19937& random) {
    const auto [rank, index] = draw_place(schedule, random);
    auto& row = schedule.ranks[rank];
    const int other = draw(random, 0, static_cast<int>(row.size()) - 1);
    std::swap(row[index], row[other]);
    ValidateOptions options;
    options.rendezvous = false;
    const auto faults = validate(schedule, options);
    const CostModel cost =
        CostModel::uniform(schedule.rank_count(), schedule.placement.stages, {1, 1, 1}, 0.1);
    if (faults.empty()) {
      ++sound;
      EXPECT_NO_THROW(simulate(schedule, cost));
    } else {
      ++caught;
      EXPECT_GE(faults[0].rank, 0);
      EXPECT_THROW(simulate(schedule, cost), LogicError) << format_faults(schedule, faults);
    }
  });
  EXPECT_GT(caught, 100);
  EXPECT_GT(sound, 100);
}

TEST(ValidateFaults, DeadlockNamesTheCycle) {
  Schedule schedule = schedule_1f1b(2, 2);
  // Rank 0 wants the gradient of micro-batch 1 before it has sent micro-batch 1... of its own row
  // that is an order fault; across ranks a cycle: rank 1 runs 1 first, rank 0 waits for B0 first.
  schedule.ranks[0] = {parse_action("0F0"), parse_action("0B0"), parse_action("0F1"),
                       parse_action("0B1")};
  schedule.ranks[1] = {parse_action("1F1"), parse_action("1B1"), parse_action("1F0"),
                       parse_action("1B0")};
  const auto faults = validate(schedule);
  ASSERT_EQ(faults.size(), 2u);
  for (const Fault& fault : faults) EXPECT_THAT(fault.what, HasSubstr("deadlock"));
  EXPECT_THAT(format_faults(schedule, faults), HasSubstr("0B0  <-- HERE"));
  EXPECT_THAT(format_faults(schedule, faults), HasSubstr("1F1  <-- HERE"));
}

/// Rank 0 sends its inputs in an order that rank 1 does not take them in: with buffering it runs.
TEST(ValidateFaults, RendezvousIsStricterThanTheExecutor) {
  Schedule schedule = schedule_1f1b(2, 3);
  schedule.ranks[0] = {parse_action("0F0"), parse_action("0F1"), parse_action("0F2"),
                       parse_action("0B2"), parse_action("0B1"), parse_action("0B0")};
  schedule.ranks[1] = {parse_action("1F2"), parse_action("1B2"), parse_action("1F1"),
                       parse_action("1B1"), parse_action("1F0"), parse_action("1B0")};
  ValidateOptions buffered;
  buffered.rendezvous = false;
  EXPECT_TRUE(validate(schedule, buffered).empty());
  const auto faults = validate(schedule);
  ASSERT_FALSE(faults.empty());
  EXPECT_THAT(faults[0].what, HasSubstr("rendezvous"));
}

TEST(ValidateFaults, MemoryLimitNamesTheFirstActionOverIt) {
  const Schedule schedule = schedule_1f1b();
  ValidateOptions options;
  options.memory_limit = 4;
  EXPECT_TRUE(validate(schedule, options).empty());
  options.memory_limit = 3;
  const auto faults = validate(schedule, options);
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_EQ(faults[0].rank, 0);
  EXPECT_EQ(faults[0].index, 3);  // the fourth forward
}

TEST(ValidateFaults, WeightGradientBeforeItsInputGradient) {
  ScheduleRequest request;
  Schedule schedule = make_schedule("zb-h1", request);
  auto& row = schedule.ranks[0];
  const auto find = [&](const char* text) {
    return std::find(row.begin(), row.end(), parse_action(text)) - row.begin();
  };
  std::swap(row[find("0I0")], row[find("0W0")]);
  const auto faults = validate(schedule);
  ASSERT_FALSE(faults.empty());
  EXPECT_THAT(faults[0].what, HasSubstr("0W0 is before 0I0"));
}

TEST(ValidateFaults, MicroBatchOfTwoReplicas) {
  ScheduleRequest request;
  request.ranks = 4;
  request.micro_batches = 4;
  Schedule schedule = make_schedule("chimera", request);
  for (auto& row : schedule.ranks) {
    for (Action& a : row) {
      if (a.micro_batch == 3 && a.kind == Kind::B) a.replica = 0;
    }
  }
  const auto faults = validate(schedule);
  ASSERT_FALSE(faults.empty());
  EXPECT_THAT(faults[0].what, HasSubstr("replica"));
}

TEST(ValidateFaults, MalformedPlacement) {
  Schedule schedule = schedule_1f1b();
  schedule.placement.rank[2] = 9;
  ASSERT_EQ(validate(schedule).size(), 1u);
  EXPECT_THAT(validate(schedule)[0].what, HasSubstr("rank 9"));
  schedule = schedule_1f1b();
  schedule.ranks.pop_back();
  EXPECT_THAT(validate(schedule)[0].what, HasSubstr("3 rows for 4 ranks"));
}

}  // namespace

}  // namespace pipemark
