// Times of a set of orders: every task as early as its rank and its input allow, O(tasks), no
// allocation. The same semantics as simulate(), for the inner loop of the search.
#pragma once

#include <vector>

#include "schedules/synthesis/problem.hpp"

namespace pipemark::synthesis {

/// What is minimised: value = max over ranks of (end of the rank's last task + due[rank]).
/// due = 0 is the makespan; due = -head the longest span of a rank.
struct Objective {
  std::vector<double> due;
};

struct Times {
  std::vector<double> start, end;  ///< by task; end < 0: never ran
  std::vector<double> finish;      ///< by rank
  std::vector<int> sequence;       ///< tasks in an order in which they can be worked out
  double makespan = 0, span = 0;   ///< span: last end - first start of one rank, the longest
  double value = 0;
  bool complete = false;  ///< false: the orders deadlock
};

class Evaluator {
 public:
  Evaluator(const Problem& problem, const Objective& objective);
  void set_objective(const Objective& objective) { due_ = objective.due; }

  void run(const Orders& orders, Times& times);

  /// tail[t]: the longest way from t's end to the value, so that end + tail <= value and equality
  /// holds on critical tasks. Needs run() of the same orders.
  void tails(const Orders& orders, const Times& times, std::vector<double>& tail) const;

  int evaluations() const { return evaluations_; }

  // Chains by task; -1: none.
  int input(int task) const { return link_[task].input; }
  int output(int task) const { return link_[task].output; }
  double time(int task) const { return link_[task].time; }
  double message(int task) const { return link_[task].message; }
  int rank(int task) const { return link_[task].rank; }

 private:
  struct Link {
    double time, message;
    int input, output, rank;
  };
  const Problem& problem_;
  std::vector<double> due_;
  std::vector<Link> link_;
  std::vector<int> position_, work_list_;
  int evaluations_ = 0;
};

}  // namespace pipemark::synthesis
