// A synthesis request as a job shop: one task for each F, I and W of each (replica, stage,
// micro-batch), one machine a rank, one chain of messages a micro-batch.
//
// Legend: op = 3 * slot + kind with slot = replica * S + stage and kind 0 F, 1 I, 2 W; task = op *
// micro_batches + k for the k-th micro-batch of that replica. Micro-batches of one replica are
// alike, so every op takes them in rising order (exchanging two of one op changes nothing), and an
// order of a rank is a word over its ops. A rank may hold `capacity` activations at once: F adds
// one, I frees 1 - deferred_share of it, W the rest; this depends on the rank's order only.
#pragma once

#include <vector>

#include "schedules/catalogue.hpp"

namespace pipemark::synthesis {

using Orders = std::vector<std::vector<int>>;  ///< tasks of each rank, in order

struct Problem {
  Placement placement;
  CostModel cost;
  std::vector<int> count;  ///< micro-batches of each replica
  int micro_batches = 0;   ///< the largest count: stride of a task's number

  // By op.
  std::vector<double> time;     ///< of one task
  std::vector<double> message;  ///< from the op that feeds it
  std::vector<double> reach;    ///< earliest start of an F or I, by its chain alone
  std::vector<int> input;       ///< op whose same-numbered task feeds it; -1: none
  std::vector<int> output;      ///< op that it feeds by the chain (W's are fed by I, not listed)
  std::vector<int> rank;

  // By rank.
  std::vector<std::vector<int>> slots;
  std::vector<double> capacity;        ///< in activations of one stage
  std::vector<double> head;            ///< earliest start of anything
  std::vector<double> first_backward;  ///< earliest start of any I
  std::vector<double> work;

  double deferred_share = 1;  ///< part of an activation that is held from the end of I to W's

  /// What a task of `op` adds to its rank's memory.
  double memory_change(int op) const {
    return op % 3 == 0 ? 1 : op % 3 == 1 ? deferred_share - 1 : -deferred_share;
  }
  int op_of(int task) const { return task / micro_batches; }
  int number_of(int task) const { return task % micro_batches; }
  int task(int op, int k) const { return op * micro_batches + k; }
  int ops() const { return static_cast<int>(time.size()); }
  int tasks() const { return ops() * micro_batches; }
  int ranks() const { return placement.ranks; }
  int count_of_op(int op) const {
    return count[static_cast<std::size_t>(op / 3 / placement.stages)];
  }
};

/// Throws UserError where the request can't be met: a cost model of another shape, a negative time,
/// an unknown placement, a memory limit under one activation for each stage of a rank.
Problem make_problem(const ScheduleRequest& request);

/// The orders in the IR. Micro-batches of replica 0 come first, then those of replica 1.
Schedule to_schedule(const Problem& problem, const Orders& orders);

/// Sums of shares may be off by rounding: n additions of parts of 1 err below n 2^-53 of the sum.
constexpr double kMemorySlack = 1e-9;

/// The most memory that each rank holds at once, in activations of one stage.
std::vector<double> peak_memory(const Problem& problem, const Orders& orders);

/// Whether each rank stays within its capacity.
bool fits_memory(const Problem& problem, const Orders& orders);

}  // namespace pipemark::synthesis
