// LoadMonitor: how slow each device is, from what each stage took against what its layers should
// take, smoothed; and when that changes. For each cell (rank, replica, stage):
//
//   x      log(measured / expected) of a step; mean and sigma are the cell's since its last change,
//          sigma from successive differences
//   k      max(sigma / 2, kIndifference) + the mean's own error
//   S+     max(0, S+ + (x - mean) - k),  S- likewise; a step adds at most kClip h sigma, so that
//   one
//          outlier is noise and only a run of them a change
//   alarm  S > h sigma (Page 1954), kWithoutLargest of it without the largest step: the new mean is
//          that of the last steps that are at least half as far off as the very last
//
// A change is the device's where the rank's other cells changed with it, the stage's (its layers')
// where the other ranks that hold that stage did; with one cell of each it can't be told until the
// layers have moved: undecided, taken for the device's.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "balancers/pipeline_plan.hpp"

namespace pipemark {

enum class ChangeCause : std::uint8_t { device, stage, undecided };
const char* to_string(ChangeCause cause);

struct LoadChange {
  ChangeCause cause = ChangeCause::device;
  int rank = 0, stage = 0;
  double factor = 1;  ///< after / before; above 1: slower
};

/// One cell's CUSUM.
class ChangeDetector {
 public:
  static constexpr double kThreshold = 9;  ///< h, in sigmas
  static constexpr double kClip = 0.8;     ///< of h sigma: the most that one step adds
  static constexpr double kWithoutLargest = 0.5;
  static constexpr double kIndifference = 0.02;  ///< smaller changes are not looked for
  static constexpr double kLeastSigma = 0.01, kFirstSigma = 0.03;
  static constexpr std::size_t kRecent = 16;
  static constexpr double kWindow = 50;  ///< steps that the mean remembers

  /// True on a change; mean() is then the new one, jump() the log ratio to the old one.
  bool observe(double x);
  double mean() const { return mean_; }
  double sigma() const;
  double jump() const { return jump_; }
  /// sigma of the mean.
  double error() const;
  /// How far towards an alarm, 0 to 1, upwards positive.
  double leaning() const;
  /// What is known already: a first guess of little weight, and the noise.
  void prime(double mean, double sigma);
  void shift(double log_factor) { mean_ += log_factor; }
  bool known() const { return count_ > 0; }

 private:
  double mean_ = 0, variance_ = kFirstSigma * kFirstSigma, last_ = 0, jump_ = 0;
  double count_ = 0, differences_ = 5;  ///< the first sigma weighs as five differences
  bool has_last_ = false;
  /// One side's S, and the largest addition since it last left 0.
  struct Drive {
    double s = 0, largest = 0;
  };
  static bool drive(Drive& side, double add, double limit);
  void take_new_mean();
  std::deque<double> recent_;  ///< the last kRecent steps
  Drive up_, down_;
};

class LoadMonitor {
 public:
  /// `factors`: what is known of the devices before the first step.
  explicit LoadMonitor(std::vector<double> factors);

  struct Sample {
    int rank = 0, replica = 0, stage = 0;
    double ratio = 1;       ///< measured / expected of a device of factor 1
    double expected_s = 0;  ///< its weight in the rank's mean
    double wait_s = 0;
  };
  void observe(const std::vector<Sample>& samples, const std::vector<double>& memory_bytes);
  /// Of the last step.
  const std::vector<LoadChange>& changes() const { return changes_; }
  /// By rank: smoothed since the last change, corrected once it is off by more than its error.
  const std::vector<double>& factors() const { return factors_; }
  /// Relative standard error of a rank's factor, and the noise of one step.
  double error(int rank) const;
  double noise() const;
  const std::vector<double>& wait_s() const { return wait_s_; }              ///< by rank, smoothed
  const std::vector<double>& memory_bytes() const { return memory_bytes_; }  ///< by rank
  /// Stages have other layers or ranks: what is known of the devices stays as a first guess.
  void plan_changed();
  /// A stage's layers are known to be slower by `factor`: no longer its device's.
  void explain(int stage, double factor);

 private:
  struct Cell {
    int rank, replica, stage;
    double weight = 0;
    ChangeDetector detector;
    int since_alarm = 1 << 20;  ///< steps
  };
  Cell& cell_of(const Sample& sample);
  ChangeCause cause_of(const Cell& cell) const;
  void update_factors();

  std::vector<Cell> cells_;
  double known_sigma_ = 0;  ///< of the cells before a change of plan; 0: none
  std::vector<double> factors_, wait_s_, memory_bytes_;
  std::vector<LoadChange> changes_;
};

}  // namespace pipemark
