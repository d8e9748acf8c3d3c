// List scheduling. The rank with the earliest possible start decides next, so whatever starts later
// elsewhere can't arrive before the moment of decision.
#include "schedules/synthesis/construct.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/check.hpp"

namespace pipemark::synthesis {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

// Sums in another order differ by rounding: an F that ends exactly at the arrival is on time.
constexpr double kOnTime = 1e-9;

struct Choice {
  int op = -1;
  double start = kNever;  ///< not before the rank is free
};

class Builder {
 public:
  Builder(const Problem& p, const Rules& rules)
      : p_(p),
        rules_(rules),
        end_(p.tasks(), -1.0),
        done_(p.ops(), 0),
        held_(p.ranks(), 0.0),
        free_(p.ranks(), 0.0),
        idle_(p.ranks(), 0.0),
        started_backward_(p.ranks(), false),
        next_(p.ranks()),
        orders_(p.ranks()) {}

  Orders build() {
    int left = 0;
    for (int op = 0; op < p_.ops(); ++op) left += p_.count_of_op(op);
    for (int r = 0; r < p_.ranks(); ++r) next_[r] = decide(r);
    for (; left > 0; --left) {
      int best = 0;
      for (int r = 1; r < p_.ranks(); ++r) {
        if (next_[r].start < next_[best].start) best = r;
      }
      check(next_[best].op >= 0, "construct: no rank can go on, {} tasks left", left);
      put(best, next_[best]);
    }
    return std::move(orders_);
  }

 private:
  void put(int r, const Choice& choice) {
    const int op = choice.op, task = p_.task(op, done_[op]++);
    if (!orders_[r].empty()) idle_[r] += choice.start - free_[r];
    free_[r] = end_[task] = choice.start + p_.time[op];
    if (op % 3 == 1) started_backward_[r] = true;
    held_[r] += p_.memory_change(op);
    orders_[r].push_back(task);
    next_[r] = decide(r);
    if (p_.output[op] >= 0 && p_.rank[p_.output[op]] != r) {
      const int other = p_.rank[p_.output[op]];
      next_[other] = decide(other);
    }
  }

  bool remains(int op) const { return done_[op] < p_.count_of_op(op); }

  /// When the next task of `op` can start; kNever while its input has no known end.
  double arrival(int op, int r) const {
    if (!remains(op)) return kNever;
    if (p_.input[op] < 0) return free_[r];
    if (done_[p_.input[op]] <= done_[op]) return kNever;
    return std::max(free_[r], end_[p_.task(p_.input[op], done_[op])] + p_.message[op]);
  }

  /// Room for one more activation of `slot`, with a whole place kept for each other stage of the
  /// rank.
  bool has_room(int r, int slot) const {
    double kept = 0;
    for (const int other : p_.slots[r]) {
      const int f = 3 * other;
      if (other == slot || !remains(f)) continue;
      const double held =
          done_[f] - done_[f + 1] + p_.deferred_share * (done_[f + 1] - done_[f + 2]);
      kept += std::max(0.0, 1 - held);
    }
    return held_[r] + kept + 1 <= p_.capacity[r] + kMemorySlack;
  }

  bool within_flight(int slot) const {
    if (rules_.flight_slope < 0) return true;
    const int stage = slot % p_.placement.stages;
    const double behind = p_.placement.stages - 1 - stage;
    const int flight = done_[3 * slot] - done_[3 * slot + 1];
    return flight < std::max(1.0, std::floor(rules_.flight_base + rules_.flight_slope * behind));
  }

  /// Whether an F of `slot` from `start` keeps out of the way of the rank's first I.
  bool before_first_backward(int r, int slot, double start) const {
    if (rules_.lateness < 0 || started_backward_[r] || done_[3 * slot] == 0) return true;
    const double time = p_.time[3 * slot];
    return start + time <= p_.first_backward[r] + rules_.lateness * time + kOnTime;
  }

  Choice best_forward(int r) const {
    Choice best;
    for (const int slot : p_.slots[r]) {
      const Choice c{3 * slot, arrival(3 * slot, r)};
      if (c.start == kNever || !has_room(r, slot) || !within_flight(slot)) continue;
      if (!before_first_backward(r, slot, c.start)) continue;
      if (better(c, best, rules_.deep_forward)) best = c;
    }
    return best;
  }

  Choice best_backward(int r) const {
    Choice best;
    for (const int slot : p_.slots[r]) {
      const Choice c{3 * slot + 1, arrival(3 * slot + 1, r)};
      if (c.start != kNever && better(c, best, rules_.deep_backward)) best = c;
    }
    return best;
  }

  bool better(const Choice& a, const Choice& b, bool deep) const {
    if (b.op < 0 || a.start != b.start) return a.start < b.start;
    const int sa = a.op / 3 % p_.placement.stages, sb = b.op / 3 % p_.placement.stages;
    if (sa != sb) return (sa > sb) == deep;
    return done_[a.op] < done_[b.op];
  }

  Choice weight(int r) const {
    Choice best;
    for (const int slot : p_.slots[r]) {
      const int w = 3 * slot + 2;
      if (done_[w] < done_[w - 1]) {
        if (best.op < 0 || done_[w] < done_[best.op]) best = {w, free_[r]};
      }
    }
    return best;
  }

  Choice decide(int r) const {
    const Choice f = best_forward(r), i = best_backward(r), w = weight(r);
    const double now = free_[r];
    Choice next;  // F or I, whichever the rules put first
    if (rules_.forward_first) {
      next = f.start <= i.start ? f : i;
    } else {
      const double wait = f.op >= 0 ? rules_.patience * p_.time[f.op] : 0;
      next = i.start <= f.start + wait ? i : f;
    }
    if (w.op < 0) return next;
    if (next.op < 0) return w;
    const double gap = next.start - now, time = p_.time[w.op];
    if (gap <= 0) return next;
    if (gap < time && rules_.span > 0 && idle_[r] + gap <= rules_.span - p_.work[r]) return next;
    return time - gap <= rules_.fill * time ? w : next;
  }

  const Problem& p_;
  const Rules& rules_;
  std::vector<double> end_;
  std::vector<int> done_;
  std::vector<double> held_;
  std::vector<double> free_;
  std::vector<double> idle_;  ///< since a rank's first start
  std::vector<bool> started_backward_;
  std::vector<Choice> next_;
  Orders orders_;
};

}  // namespace

Orders construct(const Problem& problem, const Rules& rules) {
  return Builder(problem, rules).build();
}

}  // namespace pipemark::synthesis
