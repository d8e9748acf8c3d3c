// ExpertMap: which expert each place of an expert group holds, and DispatchPlan: which rows of a
// micro-batch go to which place. Pure functions, the same on every rank.
//
// A group of `ranks` ranks has `slots` places a rank; place p is slot p % slots of rank p / slots.
// An expert has one place, or several (replicas). The r-th row that a rank sends to an expert goes
// to replica (first + r) mod (its replicas), so that replicas share the load evenly.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/ops.hpp"

namespace pipemark {

class ExpertMap {
 public:
  /// `expert_of[place]`; each of `experts` must have a place. Throws LogicError.
  ExpertMap(int experts, int ranks, std::vector<int> expert_of);
  /// Experts in order, then the first ones again in the places that are left.
  static ExpertMap in_order(int experts, int ranks, int places);

  int experts() const { return static_cast<int>(places_of_.size()); }
  int ranks() const { return ranks_; }
  int places() const { return static_cast<int>(expert_of_.size()); }
  int slots() const { return places() / ranks_; }
  int expert_of(int place) const { return expert_of_[static_cast<std::size_t>(place)]; }
  const std::vector<int>& experts_by_place() const { return expert_of_; }
  /// Rising.
  const std::vector<int>& places_of(int expert) const {
    return places_of_[static_cast<std::size_t>(expert)];
  }
  /// The place whose gradient and weights stand for the expert: its first.
  bool is_primary(int place) const { return places_of(expert_of(place)).front() == place; }
  bool operator==(const ExpertMap&) const = default;

 private:
  int ranks_ = 1;
  std::vector<int> expert_of_;
  std::vector<std::vector<int>> places_of_;
};

/// Rows of one micro-batch of one rank, in the order in which they are sent: by place, then by row.
struct DispatchPlan {
  std::vector<std::int32_t> index;   ///< [M] the row n of each sent row
  std::vector<std::int32_t> place;   ///< [N k] where (n, j) lies among them; -1: dropped
  std::vector<std::int32_t> sent;    ///< [places] how many go there
  std::vector<std::int32_t> counts;  ///< [N / T, E] choices of each sequence, dropped ones included

  std::int64_t rows() const { return static_cast<std::int64_t>(index.size()); }
};

/// `chosen` is [N, k]. With `capacity` > 0 an expert takes the first `capacity` of this rank's rows
/// and the others are dropped; 0: none is. `first` shifts the replicas' turns.
DispatchPlan plan_dispatch(std::span<const std::int32_t> chosen, const RouterShape& shape,
                           const ExpertMap& map, std::int64_t capacity, int first);

}  // namespace pipemark
