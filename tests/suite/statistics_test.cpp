// The interval of a median by order statistics: exact ranks for small n, coverage by simulation.
#include "suite/statistics.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

namespace pipemark {
namespace {

std::vector<double> one_to(int n) {
  std::vector<double> values(static_cast<std::size_t>(n));
  std::iota(values.rbegin(), values.rend(), 1.0);
  return values;
}

TEST(Median, OfFew) {
  EXPECT_TRUE(std::isnan(median_of({})));
  EXPECT_EQ(median_of({3, 1, 2}), 2);
  EXPECT_EQ(median_of({4, 1, 3, 2}), 2.5);
}

TEST(MedianInterval, RanksOfTheBinomialTable) {
  EXPECT_TRUE(std::isnan(median_interval(one_to(5), 0.95).low));  // 1 - 2/32 < 0.95
  const auto six = median_interval(one_to(6), 0.95);              // 1 - 2/64
  EXPECT_EQ(six.low, 1);
  EXPECT_EQ(six.high, 6);
  EXPECT_NEAR(six.confidence, 0.96875, 1e-12);
  const auto twenty = median_interval(one_to(20), 0.95);  // 1 - 2 sum_{k<6} C(20, k) / 2^20
  EXPECT_EQ(twenty.low, 6);
  EXPECT_EQ(twenty.high, 15);
  EXPECT_NEAR(twenty.confidence, 1 - 2 * 21700.0 / 1048576, 1e-12);
}

TEST(MedianInterval, CoversTheMedianAsOftenAsItSays) {
  // Skewed samples with median ln 2; 2000 trials: a standard error of 0.005 at 0.95, bound 4 of it.
  std::mt19937_64 random(7);
  std::exponential_distribution<double> exponential(1);
  int covered = 0;
  double stated = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    std::vector<double> samples(25);
    for (double& value : samples) value = exponential(random);
    const auto interval = median_interval(samples, 0.95);
    covered += interval.low <= std::log(2.0) && std::log(2.0) <= interval.high;
    stated = interval.confidence;
  }
  EXPECT_NEAR(covered / 2000.0, stated, 0.02);
}

}  // namespace
}  // namespace pipemark
