// An exact search for small cases: depth first over every rank's order, pruned by a bound that is
// plain to see. It shares no code with the synthesiser; its only words are those of the IR.
//
// Complete schedules that `accepts` refuses don't count.
//
// State: each rank has run some tasks, and may have chosen its next one and wait for its input. A
// rank that is free chooses among all tasks that its own order allows: the next F of a stage
// (memory permitting), an I after its F, a W after its I. Micro-batches of a stage go in rising
// order: they are alike, so exchanging them changes nothing.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "schedules/cost_model.hpp"
#include "schedules/schedule.hpp"

namespace pipemark {

class ExactSearch {
 public:
  /// `limit` in activations of one stage. Minimises the larger of makespan - makespan_base and the
  /// longest span - span_base.
  ExactSearch(Placement placement, int micro_batches, const CostModel& cost,
              std::vector<double> limit, double deferred_share, double makespan_base,
              double span_base)
      : at_(std::move(placement)),
        cost_(cost),
        limit_(std::move(limit)),
        share_(deferred_share),
        makespan_base_(makespan_base),
        span_base_(span_base) {
    counts_ = at_.replicas == 2 ? std::vector<int>{(micro_batches + 1) / 2, micro_batches / 2}
                                : std::vector<int>{micro_batches};
    const int slots = at_.stages * at_.replicas;
    ends_.resize(3 * slots);
    ranks_.resize(at_.ranks);
    for (int slot = 0; slot < slots; ++slot) {
      const int r = rank_of(slot);
      ranks_[r].slots.push_back(slot);
      const StageCost& c = cost_.of(r, slot % at_.stages);
      ranks_[r].work_left += counts_[slot / at_.stages] * (c.forward + c.backward());
    }
  }

  /// The least value below `incumbent`, or `incumbent` when there is none. `nodes` bounds the work;
  /// complete() says whether it was enough.
  double minimum(double incumbent, long nodes, std::function<bool(const Schedule&)> accepts) {
    best_ = incumbent, nodes_left_ = nodes, accepts_ = std::move(accepts);
    schedule_ = {"exact", 0, at_, std::vector<std::vector<Action>>(ranks_.size())};
    for (const int count : counts_) schedule_.micro_batches += count;
    descend();
    return best_;
  }
  bool complete() const { return nodes_left_ > 0; }

 private:
  struct Rank {
    std::vector<int> slots;
    double now = 0, start = -1, held = 0, work_left = 0;
    int chosen = -1;  ///< op that waits for its input
  };

  int rank_of(int slot) const { return at_.rank_of(slot / at_.stages, slot % at_.stages); }
  double time(int op) const {
    const StageCost& c = cost_.of(rank_of(op / 3), op / 3 % at_.stages);
    return op % 3 == 0 ? c.forward : op % 3 == 1 ? c.input_grad : c.weight_grad;
  }
  int done(int op) const { return static_cast<int>(ends_[op].size()); }

  /// When the next task of `op` may start; < 0: its input is not there.
  double ready(int op) const {
    const int slot = op / 3, stage = slot % at_.stages, k = done(op);
    int input = op - 1;  // W after I, and the last stage's I after F
    if (op % 3 == 0) {
      if (stage == 0) return 0;
      input = op - 3;
    } else if (op % 3 == 1 && stage < at_.stages - 1) {
      input = op + 3;
    }
    if (done(input) <= k) return -1;
    return ends_[input][k] + cost_.message_time(rank_of(input / 3), rank_of(slot));
  }

  bool choosable(const Rank& rank, int r, int op) const {
    const int k = done(op), slot = op / 3;
    if (k >= counts_[slot / at_.stages]) return false;
    if (op % 3 == 0) return rank.held + 1 <= limit_[r] + 1e-9;
    return done(op - 1) > k;
  }

  double change(int op) const { return op % 3 == 0 ? 1 : op % 3 == 1 ? share_ - 1 : -share_; }

  bool hopeless() const {
    for (const Rank& rank : ranks_) {
      const double end = rank.now + rank.work_left;
      const double span = rank.start < 0 ? rank.work_left : end - rank.start;
      if (std::max(end - makespan_base_, span - span_base_) >= best_) return true;
    }
    return false;
  }

  void descend() {
    if (--nodes_left_ <= 0 || hopeless()) return;
    int chooser = -1;
    bool open = false;
    for (int r = 0; r < at_.ranks; ++r) {
      Rank& rank = ranks_[r];
      if (rank.chosen >= 0) {
        open = true;
        if (const double from = ready(rank.chosen); from >= 0) return run(r, from);
      } else if (has_work(rank)) {
        open = true;
        if (chooser < 0 || rank.now < ranks_[chooser].now) chooser = r;
      }
    }
    if (!open) return record();
    if (chooser < 0) return;  // all wait for each other
    Rank& rank = ranks_[chooser];
    for (const int slot : rank.slots) {
      for (int kind = 2; kind >= 0; --kind) {
        if (!choosable(rank, chooser, 3 * slot + kind)) continue;
        rank.chosen = 3 * slot + kind;
        descend();
        rank.chosen = -1;
      }
    }
  }

  bool has_work(const Rank& rank) const {
    return std::any_of(rank.slots.begin(), rank.slots.end(),
                       [&](int slot) { return done(3 * slot + 2) < counts_[slot / at_.stages]; });
  }

  void run(int r, double from) {
    Rank& rank = ranks_[r];
    const Rank before = rank;
    const int op = rank.chosen;
    const double start = std::max(rank.now, from);
    if (rank.start < 0) rank.start = start;
    rank.now = start + time(op);
    rank.held += change(op);
    rank.work_left -= time(op);
    rank.chosen = -1;
    schedule_.ranks[r].push_back(action(op));
    ends_[op].push_back(rank.now);
    descend();
    ends_[op].pop_back();
    schedule_.ranks[r].pop_back();
    rank = before;
  }

  void record() {
    double value = -1e300;
    for (const Rank& rank : ranks_) {
      value = std::max({value, rank.now - makespan_base_, rank.now - rank.start - span_base_});
    }
    if (value < best_ && accepts_(schedule_)) best_ = value;
  }

  Action action(int op) const {
    const int replica = op / 3 / at_.stages;
    Action made;
    made.kind = op % 3 == 0 ? Kind::F : op % 3 == 1 ? Kind::I : Kind::W;
    made.replica = static_cast<std::int8_t>(replica);
    made.stage = static_cast<std::int16_t>(op / 3 % at_.stages);
    made.micro_batch = done(op) + (replica == 1 ? counts_[0] : 0);
    return made;
  }

  Placement at_;
  CostModel cost_;
  std::vector<double> limit_;
  double share_, makespan_base_, span_base_;
  std::vector<int> counts_;
  std::vector<std::vector<double>> ends_;
  std::vector<Rank> ranks_;
  Schedule schedule_;  ///< as far as it has been built
  std::function<bool(const Schedule&)> accepts_;
  double best_ = 0;
  long nodes_left_ = 0;
};

}  // namespace pipemark
