// PendingSum: a sum over a group that goes on while its ranks compute. The same bits as
// Group::allreduce_sum: every element is added in rank order.
#pragma once

#include <memory>
#include <span>

#include "trainer/cluster.hpp"

namespace pipemark {

class PendingSum {
 public:
  /// Starts: each rank sends the others their parts. `values` must stay untouched until finish().
  /// Sums of one group that overlap need different tags from 0 to 4095; their order may differ
  /// between the ranks.
  PendingSum(Group& group, std::span<float> values, int tag);
  PendingSum(PendingSum&&) noexcept;
  ~PendingSum();

  /// Waits for the others' parts, adds this rank's part up and sends it to all.
  void add();
  /// After add() of all sums that overlap: waits until `values` holds the sum everywhere.
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pipemark
