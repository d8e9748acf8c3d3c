// The simulator of expanded schedules. Each rank runs until an input is missing; whoever writes
// that input wakes it. Every action is looked at once or twice, arrival times lie in two tables
// [stage][micro-batch], and nothing is allocated after the tables.
#include "schedules/simulate.hpp"

#include <algorithm>

#include "kernels/check.hpp"
#include "schedules/simulation_totals.hpp"
#include "schedules/stage_cost.hpp"
#include "schedules/text.hpp"

namespace pipemark {

namespace {

constexpr double kNotYet = -1;       // arrival times are never negative
constexpr std::size_t kNoSlot = -1;  // not waiting

/// What a rank has done so far.
struct RankState {
  std::size_t position = 0;
  std::size_t waiting_on = kNoSlot;  // slot in arrivals_
  double now = 0, busy = 0, first_start = -1;
  int live = 0, peak = 0;
};

class Simulator {
 public:
  Simulator(const Schedule& schedule, const CostModel& cost, Timeline* timeline)
      : schedule_(schedule),
        cost_(PlacedCost::of(schedule.placement, cost)),
        timeline_(timeline),
        micro_batches_(static_cast<std::size_t>(schedule.micro_batches)),
        backward_(micro_batches_ * schedule.placement.stages),
        arrivals_(2 * backward_, kNotYet),
        states_(schedule.ranks.size()) {}

  std::vector<RankState> run() {
    const int ranks = schedule_.rank_count();
    check(schedule_.ranks.size() == static_cast<std::size_t>(ranks), "{} rows for {} ranks",
          schedule_.ranks.size(), ranks);
    if (timeline_ != nullptr) {
      timeline_->ranks.resize(static_cast<std::size_t>(ranks));
      for (int r = 0; r < ranks; ++r) timeline_->ranks[r].reserve(schedule_.ranks[r].size());
    }
    ready_.reserve(static_cast<std::size_t>(ranks));
    for (int r = ranks - 1; r >= 0; --r) ready_.push_back(r);
    while (!ready_.empty()) {
      const int rank = ready_.back();
      ready_.pop_back();
      advance(rank);
    }
    check_finished();
    return std::move(states_);
  }

 private:
  std::size_t cell(int stage, int micro_batch) const {
    return static_cast<std::size_t>(stage) * micro_batches_ + static_cast<std::size_t>(micro_batch);
  }
  /// The slot that F of (stage, micro_batch) needs, kNoSlot for stage 0.
  std::size_t forward_input(int stage, int micro_batch) const {
    return stage == 0 ? kNoSlot : cell(stage - 1, micro_batch);
  }
  /// The slot that B or I needs: the gradient from the stage above, or the own forward at the end.
  std::size_t backward_input(int stage, int micro_batch) const {
    return stage + 1 == schedule_.placement.stages ? cell(stage, micro_batch)
                                                   : backward_ + cell(stage + 1, micro_batch);
  }
  const PlacedStage& placed(int replica, int stage) const {
    return cost_.stages[static_cast<std::size_t>(replica) * schedule_.placement.stages + stage];
  }

  /// Puts `ready` forward to the arrival in `slot`; false (and waiting) where it is not there yet.
  bool await(RankState& state, std::size_t slot, double& ready) const {
    if (slot == kNoSlot) return true;
    const double arrival = arrivals_[slot];
    if (arrival < 0) {
      state.waiting_on = slot;
      return false;
    }
    ready = std::max(ready, arrival);
    return true;
  }
  void deliver(std::size_t slot, double arrival, int to_rank) {
    arrivals_[slot] = arrival;
    if (to_rank < 0) return;
    RankState& receiver = states_[static_cast<std::size_t>(to_rank)];
    if (receiver.waiting_on == slot) {
      receiver.waiting_on = kNoSlot;
      ready_.push_back(to_rank);
    }
  }
  void finish_forward(const Action& a, double end) {
    const PlacedStage& stage = placed(a.replica, a.stage);
    deliver(cell(a.stage, a.micro_batch), end + stage.forward_message, stage.next_rank);
  }
  void finish_backward(int replica, int stage, int micro_batch, double end) {
    const PlacedStage& at = placed(replica, stage);
    deliver(backward_ + cell(stage, micro_batch), end + at.backward_message, at.previous_rank);
  }

  void advance(int rank) {
    RankState state = states_[static_cast<std::size_t>(rank)];
    const std::vector<Action>& row = schedule_.ranks[static_cast<std::size_t>(rank)];
    for (; state.position < row.size(); ++state.position) {
      if (!step(state, row[state.position], rank)) break;
    }
    states_[static_cast<std::size_t>(rank)] = state;
  }

  /// Runs one action; false where an input is missing.
  bool step(RankState& state, const Action& a, int rank) {
    double ready = state.now, time = 0;
    const PlacedStage& stage = placed(a.replica, a.stage);
    switch (a.kind) {
      case Kind::F:
        if (!await(state, forward_input(a.stage, a.micro_batch), ready)) return false;
        time = stage.forward;
        break;
      case Kind::B:
      case Kind::I: {
        double own = 0;  // the own forward is earlier in this row: its time is not needed
        if (!await(state, cell(a.stage, a.micro_batch), own)) return false;
        if (!await(state, backward_input(a.stage, a.micro_batch), ready)) return false;
        time = stage.input_grad + (a.kind == Kind::B ? stage.weight_grad : 0);
        break;
      }
      case Kind::W: {
        double own = 0;
        if (!await(state, backward_ + cell(a.stage, a.micro_batch), own)) return false;
        time = stage.weight_grad;
        break;
      }
      case Kind::FB: {
        double own = 0;
        if (!await(state, forward_input(a.stage, a.micro_batch), ready)) return false;
        if (!await(state, cell(a.stage_b, a.micro_batch_b), own)) return false;
        if (!await(state, backward_input(a.stage_b, a.micro_batch_b), ready)) return false;
        const PlacedStage& other = placed(a.replica_b, a.stage_b);
        time = cost_.overlap * (stage.forward + (other.input_grad + other.weight_grad));
        break;
      }
    }
    const double end = ready + time;
    if (timeline_ != nullptr) {
      timeline_->ranks[static_cast<std::size_t>(rank)].push_back(
          {a, ready, end, ready - state.now});
    }
    if (state.first_start < 0) state.first_start = ready;
    state.now = end;
    state.busy += time;
    finish(state, a, end);
    return true;
  }

  void finish(RankState& state, const Action& a, double end) {
    switch (a.kind) {
      case Kind::F:
        state.peak = std::max(state.peak, ++state.live);
        finish_forward(a, end);
        break;
      case Kind::B:
        --state.live;
        [[fallthrough]];
      case Kind::I:
        finish_backward(a.replica, a.stage, a.micro_batch, end);
        break;
      case Kind::W:
        --state.live;
        break;
      case Kind::FB:
        state.peak = std::max(state.peak, state.live + 1);
        finish_forward(a, end);
        finish_backward(a.replica_b, a.stage_b, a.micro_batch_b, end);
        break;
    }
  }

  bool is_stuck(int rank) const {
    return states_[static_cast<std::size_t>(rank)].position <
           schedule_.ranks[static_cast<std::size_t>(rank)].size();
  }
  /// A rank that waits for what no other stuck rank will send: the cause, where others only follow.
  bool is_cause(int rank) const {
    const RankState& state = states_[static_cast<std::size_t>(rank)];
    const Action& a = schedule_.ranks[static_cast<std::size_t>(rank)][state.position];
    const int stage = static_cast<int>(state.waiting_on % backward_ / micro_batches_);
    const bool is_backward_half = a.kind == Kind::FB && stage >= a.stage_b;
    const int sender =
        schedule_.placement.rank_of(is_backward_half ? a.replica_b : a.replica, stage);
    return sender == rank || !is_stuck(sender);
  }
  void check_finished() const {
    int named = -1;
    for (int r = schedule_.rank_count() - 1; r >= 0; --r) {
      if (is_stuck(r) && (named < 0 || is_cause(r) || !is_cause(named))) named = r;
    }
    if (named < 0) return;
    const std::size_t position = states_[static_cast<std::size_t>(named)].position;
    throw LogicError(fmt::format(
        "{}: rank {} can never run its action {}, {}: an input does not come", schedule_.name,
        named, position, to_text(schedule_.ranks[static_cast<std::size_t>(named)][position])));
  }

  const Schedule& schedule_;
  const PlacedCost cost_;
  Timeline* timeline_;
  std::size_t micro_batches_;
  std::size_t backward_;          // where the table of backward arrivals begins
  std::vector<double> arrivals_;  // F's, then B's and I's, at the rank that needs them
  std::vector<RankState> states_;
  std::vector<int> ready_;
};

}  // namespace

Simulation simulate(const Schedule& schedule, const CostModel& cost, bool keep_timeline) {
  Simulation result;
  Simulator simulator(schedule, cost, keep_timeline ? &result.timeline : nullptr);
  const std::vector<RankState> states = simulator.run();
  std::vector<RankTotals> totals;
  for (const RankState& state : states) {
    totals.push_back({state.now, state.busy, state.first_start, state.peak});
  }
  summarize(totals, schedule.placement, result);
  return result;
}

}  // namespace pipemark
