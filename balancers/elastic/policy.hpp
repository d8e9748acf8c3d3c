// The elastic balancer's policy: a small network that says what a change of plan will save, in step
// times, net of its migration:
//
//   y = sinh(w2 tanh(W1 x + b1) + b2),   x kFeatures numbers of a candidate, kHidden hidden units
//
// The balancer takes the candidate of largest y where that is above 0. Trained by regression on
// what candidates saved in simulated episodes (training.hpp), on line on what they saved in the
// run.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace pipemark {

inline constexpr int kFeatures = 12, kHidden = 16;
using Features = std::array<double, kFeatures>;

/// What a candidate is judged by; see features_of().
struct CandidateView {
  double gain = 0;          ///< 1 - expected step / present step
  double cost_steps = 0;    ///< migration, in present steps
  double remaining = 0;     ///< steps to the end of the run
  double gain_error = 0;    ///< standard error of the gain
  double noise = 0;         ///< relative, of one step
  double since_change = 0;  ///< steps since a change was seen
  double since_move = 0;    ///< steps since the last migration
  double layers_moved = 0;  ///< part of all layers
  bool evicts = false, changes_micro_batches = false;
};
Features features_of(const CandidateView& view);

class Policy {
 public:
  /// Weights drawn from the seed; with_shipped(): those that come with the program.
  explicit Policy(std::uint64_t seed);
  static Policy shipped();
  /// The form of balancers/elastic/policy.txt; UserError naming what is wrong.
  static Policy parse(const std::string& text, const std::string& origin);
  std::string text() const;

  /// Net saving in step times.
  double saving(const Features& x) const;

  struct Sample {
    Features x;
    double saving = 0;
  };
  /// One Adam step on the mean Huber loss of asinh(saving); gives that loss before the step.
  double learn(const std::vector<Sample>& batch, double learning_rate);
  double loss(const std::vector<Sample>& samples) const;

  /// How the weights came about: lines that text() writes ahead of them, each with a '#'.
  std::vector<std::string> history;

 private:
  static constexpr int kWeights = kHidden * kFeatures + 2 * kHidden + 1;
  double output(const Features& x, std::array<double, kHidden>& hidden) const;
  std::vector<double> w_, m_, v_;
  std::int64_t updates_ = 0;
};

}  // namespace pipemark
