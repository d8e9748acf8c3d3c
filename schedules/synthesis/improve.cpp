// Critical blocks, moves inside them, a quick estimate that spares most evaluations.
//
// A block is a run of tasks of one rank that follow each other without a gap on a critical path. A
// move takes the task at `from` to `to` of the same order; those between shift by one.
#include "schedules/synthesis/improve.hpp"

#include <algorithm>
#include <cmath>

#include "schedules/synthesis/handshake.hpp"

namespace pipemark::synthesis {
namespace {

/// splitmix64 (Steele, Lea, Flood 2014): the same numbers on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  int below(int n) { return static_cast<int>(next() % static_cast<std::uint64_t>(n)); }

 private:
  std::uint64_t state_;
};

struct Block {
  int rank, first, last;  ///< positions in the rank's order
};

struct Move {
  int rank = -1, from = 0, to = 0;
};

class Search {
 public:
  Search(const Problem& p, Evaluator& evaluator, Orders& orders, const ImproveOptions& options)
      : p_(p),
        eval_(evaluator),
        orders_(orders),
        options_(options),
        handshake_(p),
        random_(options.seed),
        // Two values nearer than this are equal: sums of n times differ by rounding only.
        tie_(1e-9),
        position_(p.tasks(), -1),
        held_after_(p.tasks(), 0.0) {}

  double run() {
    eval_.run(orders_, now_);
    tie_ = 1e-11 * std::max(1.0, now_.makespan);
    Orders best = orders_;
    double best_value = now_.value;
    std::vector<double> past(options_.history, now_.value);
    for (int r = 0; r < p_.ranks(); ++r) index(r, 0, static_cast<int>(orders_[r].size()) - 1);
    refresh();
    const int limit = eval_.evaluations() + options_.evaluations;
    // Moves that the estimate refuses are cheap, not free: they are bounded too.
    const long most_steps = 20L * options_.evaluations;
    for (long step = 0; eval_.evaluations() < limit && step < most_steps; ++step) {
      if (best_value <= options_.enough + tie_) break;
      const double allowed = std::max(past[step % past.size()], now_.value) + tie_;
      const Move move = pick();
      if (move.rank < 0 || !allowed_in_order(move) || estimate(move) > allowed) continue;
      apply(move);
      eval_.run(orders_, next_);
      if (!next_.complete || next_.value > allowed ||
          (options_.handshake && !handshake_.passes(orders_))) {
        apply({move.rank, move.to, move.from});
      } else {
        std::swap(now_, next_);
        refresh();
        if (now_.value < best_value - tie_) best_value = now_.value, best = orders_;
      }
      past[step % past.size()] = now_.value;
    }
    orders_ = std::move(best);
    return best_value;
  }

 private:
  /// Positions, and memory held after each task, of a part of a rank's order.
  void index(int r, int first, int last) {
    const std::vector<int>& order = orders_[r];
    double held = first > 0 ? held_after_[order[first - 1]] : 0;
    for (int at = first; at <= last; ++at) {
      position_[order[at]] = at;
      held_after_[order[at]] = held += p_.memory_change(p_.op_of(order[at]));
    }
  }

  /// Tails and the critical blocks of now_.
  void refresh() {
    eval_.tails(orders_, now_, tail_);
    blocks_.clear();
    int task = -1;
    for (int r = 0; r < p_.ranks(); ++r) {
      if (orders_[r].empty()) continue;
      const int last = orders_[r].back();
      if (now_.end[last] + tail_[last] >= now_.value - tie_) task = last;
    }
    while (task >= 0) {
      const int r = eval_.rank(task), at = position_[task];
      if (!blocks_.empty() && blocks_.back().rank == r && blocks_.back().first == at + 1) {
        blocks_.back().first = at;
      } else {
        blocks_.push_back({r, at, at});
      }
      const double start = now_.start[task];
      const int input = eval_.input(task);
      const int before = at > 0 ? orders_[r][at - 1] : -1;
      const bool by_rank = before >= 0 && now_.end[before] >= start - tie_;
      const bool by_input =
          input >= 0 && now_.end[input] + eval_.message(task) >= start - tie_ && input != before;
      if (by_rank && by_input) {
        task = random_.below(2) ? before : input;
      } else {
        task = by_rank ? before : by_input ? input : -1;
      }
    }
  }

  /// A random move inside a random block that has more than one task.
  Move pick() {
    const Block& block = blocks_[random_.below(static_cast<int>(blocks_.size()))];
    const int length = block.last - block.first + 1;
    Move move{block.rank, block.first + random_.below(length), 0};
    const int size = static_cast<int>(orders_[block.rank].size());
    const int kind = random_.below(4);
    if (kind == 0) {
      move.to = move.from + 1;
    } else if (kind == 1) {
      move.to = move.from - 1;
    } else {
      const int reach = 1 + random_.below(12);
      move.to = kind == 2 ? move.from + reach : move.from - reach;
    }
    move.to = std::clamp(move.to, std::max(0, block.first - 1), std::min(size - 1, block.last + 1));
    if (move.to == move.from) move.rank = -1;
    return move;
  }

  /// No task passes one of its own op, of its own micro-batch's chain on this rank, nor a capacity.
  bool allowed_in_order(const Move& move) const {
    const std::vector<int>& order = orders_[move.rank];
    const int task = order[move.from], op = p_.op_of(task), k = p_.number_of(task);
    const int step = move.to > move.from ? 1 : -1;
    for (int at = move.from + step;; at += step) {
      const int other = order[at], other_op = p_.op_of(other);
      if (other_op == op) return false;
      if (p_.number_of(other) == k) {
        if (eval_.input(task) == other || eval_.input(other) == task) return false;
        // F, I and W of one stage keep their order.
        if (other_op / 3 == op / 3) return false;
      }
      if (at == move.to) break;
    }
    return within_capacity(move);
  }

  bool within_capacity(const Move& move) const {
    const double change = p_.memory_change(p_.op_of(orders_[move.rank][move.from]));
    // Moved later, a task that frees memory leaves more held in between; moved earlier, one that
    // takes it does.
    const bool later = move.to > move.from;
    if (later ? change >= 0 : change <= 0) return true;
    const std::vector<int>& order = orders_[move.rank];
    const int low = std::min(move.from, move.to);
    double held = low > 0 ? held_after_[order[low - 1]] : 0;
    const double room = p_.capacity[move.rank] + kMemorySlack;
    if (!later) {
      held += change;
      if (held > room) return false;
    }
    for (int at = later ? move.from + 1 : move.to; at <= (later ? move.to : move.from - 1); ++at) {
      held += p_.memory_change(p_.op_of(order[at]));
      if (held > room) return false;
    }
    return true;
  }

  /// The longest way through the tasks that move, with heads and tails outside unchanged: a lower
  /// estimate (Balas, Vazacopoulos 1998).
  double estimate(const Move& move) {
    const std::vector<int>& order = orders_[move.rank];
    const int low = std::min(move.from, move.to), high = std::max(move.from, move.to);
    window_.assign(order.begin() + low, order.begin() + high + 1);
    if (move.to > move.from) {
      std::rotate(window_.begin(), window_.begin() + 1, window_.end());
    } else {
      std::rotate(window_.begin(), window_.end() - 1, window_.end());
    }
    double clock = low > 0 ? now_.end[order[low - 1]] : 0;
    ends_.clear();
    for (const int task : window_) {
      const int input = eval_.input(task);
      if (input >= 0) {
        // An input inside the window lies before its task on this rank already.
        const int at = eval_.rank(input) == move.rank ? position_[input] : -1;
        if (at < low || at > high) {
          clock = std::max(clock, now_.end[input] + eval_.message(task));
        }
      }
      clock += eval_.time(task);
      ends_.push_back(clock);
    }
    double tail = -1e300;
    if (high + 1 < static_cast<int>(order.size())) {
      tail = eval_.time(order[high + 1]) + tail_[order[high + 1]];
    } else {
      tail = tail_[order[high]];
    }
    double longest = -1e300;
    for (std::size_t n = window_.size(); n-- > 0;) {
      const int task = window_[n], out = eval_.output(task);
      if (out >= 0 && eval_.rank(out) != move.rank) {
        tail = std::max(tail, eval_.message(out) + eval_.time(out) + tail_[out]);
      }
      longest = std::max(longest, ends_[n] + tail);
      tail += eval_.time(task);
    }
    return longest;
  }

  void apply(const Move& move) {
    std::vector<int>& order = orders_[move.rank];
    const auto at = order.begin();
    if (move.to > move.from) {
      std::rotate(at + move.from, at + move.from + 1, at + move.to + 1);
    } else {
      std::rotate(at + move.to, at + move.from, at + move.from + 1);
    }
    index(move.rank, std::min(move.from, move.to), std::max(move.from, move.to));
  }

  const Problem& p_;
  Evaluator& eval_;
  Orders& orders_;
  const ImproveOptions& options_;
  Handshake handshake_;
  Random random_;
  double tie_;
  Times now_, next_;
  std::vector<int> position_, window_;
  std::vector<double> held_after_, tail_, ends_;
  std::vector<Block> blocks_;
};

}  // namespace

double improve(const Problem& problem, Evaluator& evaluator, Orders& orders,
               const ImproveOptions& options) {
  return Search(problem, evaluator, orders, options).run();
}

}  // namespace pipemark::synthesis
