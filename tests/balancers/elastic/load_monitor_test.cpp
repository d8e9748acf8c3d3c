// Changes are found soon and told apart; noise is none. False alarms are counted over many traces.
#include "balancers/elastic/load_monitor.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace pipemark {
namespace {

constexpr double kSigma = 0.03;

class Traces {
 public:
  explicit Traces(unsigned seed) : random_(seed) {}
  double noise(double sigma = kSigma) {
    return std::exp(std::normal_distribution<double>(0, sigma)(random_));
  }

 private:
  std::mt19937 random_;
};

LoadMonitor::Sample sample(int rank, int replica, int stage, double ratio) {
  return {rank, replica, stage, ratio, 1.0, 0.25};
}

TEST(LoadMonitor, FalseAlarmsAreRareWhateverTheNoise) {
  int alarms = 0, spiked = 0, steps = 0;
  for (unsigned seed = 0; seed < 200; ++seed) {
    Traces traces(seed);
    const double sigma = 0.002 + 0.0003 * seed;  // 0.2 to 6 %
    ChangeDetector calm, detector;
    for (int step = 0; step < 500; ++step, ++steps) {
      const double spike = (step * 7 + static_cast<int>(seed)) % 97 == 0 ? 2.0 : 1.0;
      const double noise = std::log(traces.noise(sigma));
      alarms += calm.observe(noise);
      spiked += detector.observe(std::log(spike) + noise);
    }
  }
  std::printf("  %d false alarms in %d steps of 200 traces, %d with an outlier every 97 steps\n",
              alarms, steps, spiked);
  EXPECT_LE(alarms, 5);
  EXPECT_LE(spiked, 20);
}

TEST(LoadMonitor, AChangeIsFoundWithinAFewStepsAndItsSizeIsRight) {
  int worst = 0;
  for (unsigned seed = 0; seed < 50; ++seed) {
    Traces traces(seed);
    LoadMonitor monitor({1.0});
    int found = -1;
    for (int step = 0; step < 60; ++step) {
      const double level = step < 40 ? 1.0 : 1.5;
      monitor.observe({sample(0, 0, 0, level * traces.noise())}, {});
      if (found < 0 && step >= 40 && !monitor.changes().empty()) found = step;
    }
    ASSERT_GE(found, 40) << "seed " << seed;
    worst = std::max(worst, found - 39);
    EXPECT_NEAR(monitor.factors()[0], 1.5, 0.06);
  }
  std::printf("  1.5 times as long: found after %d steps at most\n", worst);
  EXPECT_LE(worst, 4);
}

TEST(LoadMonitor, AnOutlierIsNoChange) {
  LoadMonitor monitor({1.0});
  Traces traces(3);
  for (int step = 0; step < 60; ++step) {
    monitor.observe({sample(0, 0, 0, (step == 40 ? 3.0 : 1.0) * traces.noise())}, {});
    EXPECT_TRUE(monitor.changes().empty()) << step;
  }
  EXPECT_NEAR(monitor.factors()[0], 1.0, 0.03);
}

/// DualPipe on 4 ranks: rank r holds stages r and 3 - r, each stage two ranks.
std::vector<LoadMonitor::Sample> bidirectional(Traces& traces, int slow_rank, int slow_stage) {
  std::vector<LoadMonitor::Sample> samples;
  for (int rank = 0; rank < 4; ++rank) {
    for (int replica = 0; replica < 2; ++replica) {
      const int stage = replica == 0 ? rank : 3 - rank;
      const double level = rank == slow_rank || stage == slow_stage ? 1.4 : 1.0;
      samples.push_back(sample(rank, replica, stage, level * traces.noise()));
    }
  }
  return samples;
}

TEST(LoadMonitor, ASlowDeviceIsToldFromASlowStage) {
  for (const bool device : {true, false}) {
    LoadMonitor monitor(std::vector<double>(4, 1.0));
    Traces traces(device ? 1 : 2);
    int right = 0, wrong = 0;
    for (int step = 0; step < 50; ++step) {
      const bool slow = step >= 30;
      monitor.observe(bidirectional(traces, slow && device ? 1 : -1, slow && !device ? 1 : -1), {});
      for (const LoadChange& change : monitor.changes()) {
        const bool as_it_is = change.cause == (device ? ChangeCause::device : ChangeCause::stage) &&
                              (device ? change.rank : change.stage) == 1;
        (as_it_is ? right : wrong) += 1;
      }
    }
    EXPECT_GE(right, 2) << "both cells of the " << (device ? "device" : "stage");
    EXPECT_EQ(wrong, 0);
  }
}

TEST(LoadMonitor, OneStageARankIsUndecided) {
  LoadMonitor monitor({1.0, 1.0});
  Traces traces(4);
  bool seen = false;
  for (int step = 0; step < 50; ++step) {
    monitor.observe({sample(0, 0, 0, traces.noise()),
                     sample(1, 0, 1, (step < 30 ? 1.0 : 2.0) * traces.noise())},
                    {});
    for (const LoadChange& change : monitor.changes()) {
      EXPECT_EQ(change.cause, ChangeCause::undecided);
      EXPECT_EQ(change.rank, 1);
      seen = true;
    }
  }
  EXPECT_TRUE(seen);
}

TEST(LoadMonitor, WaitsAreSmoothedAndWhatIsKnownOutlivesAChangeOfPlan) {
  LoadMonitor monitor({1.0, 1.0});
  for (int step = 0; step < 100; ++step) {
    monitor.observe({sample(0, 0, 0, 1), sample(1, 0, 1, 2)}, {10, 20});
  }
  EXPECT_NEAR(monitor.wait_s()[1], 0.25, 1e-4);
  EXPECT_EQ(monitor.memory_bytes()[1], 20);
  monitor.plan_changed();
  EXPECT_NEAR(monitor.factors()[1], 2, 1e-9);
  monitor.observe({sample(0, 0, 0, 1), sample(1, 0, 1, 2)}, {10, 20});
  EXPECT_NEAR(monitor.factors()[1], 2, 1e-9);
  EXPECT_TRUE(monitor.changes().empty());
}

}  // namespace
}  // namespace pipemark
