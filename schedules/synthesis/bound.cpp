// See the header for the bounds' derivation.
#include "schedules/synthesis/bound.hpp"

#include <algorithm>
#include <cmath>

namespace pipemark::synthesis {
namespace {

class Bounds {
 public:
  explicit Bounds(const Problem& p) : p_(p) {}

  Bound run() {
    for (int r = 0; r < p_.ranks(); ++r) {
      if (p_.slots[r].empty()) continue;
      const double fill = fill_idle(r), drain = drain_idle(r);
      const double idle =
          activations(r) > p_.capacity[r] + kMemorySlack ? fill + drain : std::max(fill, drain);
      raise(p_.work[r] + idle, p_.head[r]);
      raise(residence(r), p_.head[r]);
      for (int replica = 0; replica < p_.placement.replicas; ++replica) chain(r, replica, fill);
    }
    return bound_;
  }

 private:
  void raise(double span, double head) {
    bound_.span = std::max(bound_.span, span);
    bound_.makespan = std::max(bound_.makespan, head + span);
  }

  /// From the start of `a` to the start of `b`, later in the same chain.
  double distance(int a, int b) const { return p_.reach[b] - p_.reach[a]; }

  double largest(int r, int first, int last) const {  // of the sum of kinds first..last
    double most = 0;
    for (const int slot : p_.slots[r]) {
      double sum = 0;
      for (int kind = first; kind <= last; ++kind) sum += p_.time[3 * slot + kind];
      most = std::max(most, sum);
    }
    return most;
  }

  int activations(int r) const {
    int n = 0;
    for (const int slot : p_.slots[r]) n += p_.count_of_op(3 * slot);
    return n;
  }

  /// Slots of one replica on r, along the chain.
  std::vector<int> along(int r, int replica) const {
    std::vector<int> slots;
    for (const int slot : p_.slots[r]) {
      if (slot / p_.placement.stages == replica) slots.push_back(slot);
    }
    return slots;
  }

  double fill_idle(int r) const {
    double wait = 1e300;
    for (int replica = 0; replica < p_.placement.replicas; ++replica) {
      const std::vector<int> slots = along(r, replica);
      if (slots.empty() || p_.count[replica] == 0) continue;
      wait = std::min(wait, distance(3 * slots.front(), 3 * slots.back() + 1));
    }
    const double forwards =
        std::min<double>(std::floor(p_.capacity[r] + kMemorySlack), activations(r));
    return std::max(0.0, wait - forwards * largest(r, 0, 0));
  }

  double drain_idle(int r) const {
    double wait = 1e300;
    for (int replica = 0; replica < p_.placement.replicas; ++replica) {
      for (const int slot : along(r, replica)) {
        if (p_.count[replica] == 0) continue;
        const int first = along(r, replica).front();
        wait = std::min(wait, distance(3 * slot, 3 * first + 1) - p_.time[3 * slot]);
      }
    }
    // The last micro-batch passes the stages between its last F's and the first stage's I here too.
    double own = 0;
    for (const int slot : p_.slots[r]) own += p_.time[3 * slot + 1] + p_.time[3 * slot + 2];
    const double each = std::max(largest(r, 1, 2), largest(r, 2, 2) / p_.deferred_share);
    const double others = (p_.capacity[r] + kMemorySlack - 1) * each;
    const bool alone = p_.slots[r].size() == 1;
    return std::max(0.0, wait - others - (alone ? 0 : own));
  }

  double residence(int r) const {
    double held = 0;
    for (const int slot : p_.slots[r]) {
      const int f = 3 * slot;
      held += p_.count_of_op(f) *
              (distance(f, f + 1) + p_.time[f + 1] + p_.deferred_share * p_.time[f + 2]);
    }
    return held / (p_.capacity[r] + kMemorySlack);
  }

  void chain(int r, int replica, double fill) {
    const std::vector<int> slots = along(r, replica);
    const int count = p_.count[replica];
    if (slots.empty() || count == 0) return;
    double inner = p_.placement.replicas == 1 ? fill : 0;
    double shortest = 1e300;
    for (const int slot : slots) {
      inner += count * (p_.time[3 * slot] + p_.time[3 * slot + 1]);
      shortest = std::min(shortest, p_.time[3 * slot + 2]);
    }
    // At the last F here of this replica at most 1 + (K - 1) / w activations have their W to come.
    const double undone = 1 + std::floor((p_.capacity[r] - 1 + kMemorySlack) / p_.deferred_share);
    const double passed = static_cast<double>(count) * static_cast<double>(slots.size());
    inner += std::max(0.0, passed - undone) * shortest;

    const int first = 3 * slots.front();
    for (int op = first;; op = p_.input[op]) {  // upstream to stage 0
      const double before = distance(op, first);
      const double after =
          distance(first + 1, op + 1) - p_.time[first + 1] + p_.time[op + 1] + p_.time[op + 2];
      bound_.span = std::max(bound_.span, before + inner + after);
      if (p_.input[op] < 0) {
        bound_.makespan = std::max(bound_.makespan, before + inner + after);
        break;
      }
    }
  }

  const Problem& p_;
  Bound bound_;
};

}  // namespace

Bound lower_bound(const Problem& problem) { return Bounds(problem).run(); }

}  // namespace pipemark::synthesis
