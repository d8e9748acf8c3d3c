// Runs a schedule without times. Each rank goes on until an input is missing or (rendezvous) a send
// has not met its receive; it then waits on one other rank, which wakes it whenever it moves.
#include "schedules/deadlock.hpp"

#include <algorithm>
#include <utility>

#include "kernels/check.hpp"
#include "schedules/simulate.hpp"
#include "schedules/text.hpp"

namespace pipemark {

namespace {

/// A message: slot is its place in the tables, stage the index of its sender's (replica, stage).
struct Message {
  std::size_t slot = 0, stage = 0;
  int peer = -1;  // the rank at the other end
};

class Runner {
 public:
  Runner(const Schedule& schedule, bool rendezvous)
      : schedule_(schedule),
        placement_(schedule.placement),
        rendezvous_(rendezvous),
        backward_(static_cast<std::size_t>(placement_.stages) * schedule.micro_batches),
        arrived_(2 * backward_, 0),
        ranks_(schedule.ranks.size()) {
    if (rendezvous_) number_the_needs();
  }

  std::vector<Fault> run() {
    for (int r = 0; r < schedule_.rank_count(); ++r) ready_.push_back(r);
    while (!ready_.empty()) {
      const int rank = ready_.back();
      ready_.pop_back();
      advance(rank);
    }
    return cycle();
  }

 private:
  struct State {
    std::size_t position = 0;
    bool ran = false;    // the action at `position` has run; its sends are under way
    int waits_for = -1;  // rank
    int first_waiter = -1, next_waiter = -1;
    std::string why;
  };

  std::size_t cell(int stage, int micro_batch) const {
    return static_cast<std::size_t>(stage) * schedule_.micro_batches + micro_batch;
  }
  std::size_t stage_index(int replica, int stage) const {
    return static_cast<std::size_t>(replica) * placement_.stages + stage;
  }
  Message forward_from(int replica, int stage, int micro_batch) const {
    return {cell(stage, micro_batch), stage_index(replica, stage),
            placement_.rank_of(replica, stage)};
  }
  Message backward_from(int replica, int stage, int micro_batch) const {
    return {backward_ + cell(stage, micro_batch), stage_index(replica, stage),
            placement_.rank_of(replica, stage)};
  }

  /// Calls use(message) for each message that `a` needs; peer is its sender.
  template <class Use>
  void for_inputs(const Action& a, Use use) const {
    const bool forward = a.kind == Kind::F || a.kind == Kind::FB;
    if (forward && a.stage > 0) use(forward_from(a.replica, a.stage - 1, a.micro_batch));
    const int last = placement_.stages - 1;
    if ((a.kind == Kind::B || a.kind == Kind::I) && a.stage < last) {
      use(backward_from(a.replica, a.stage + 1, a.micro_batch));
    }
    if (a.kind == Kind::FB && a.stage_b < last) {
      use(backward_from(a.replica_b, a.stage_b + 1, a.micro_batch_b));
    }
  }
  /// The same for the messages that `a` sends; peer is the receiver.
  template <class Use>
  void for_outputs(const Action& a, Use use) const {
    const auto forward = [&](int replica, int stage, int micro_batch) {
      if (stage + 1 == placement_.stages) return;
      Message message = forward_from(replica, stage, micro_batch);
      message.peer = placement_.rank_of(replica, stage + 1);
      use(message);
    };
    const auto backward = [&](int replica, int stage, int micro_batch) {
      if (stage == 0) return;
      Message message = backward_from(replica, stage, micro_batch);
      message.peer = placement_.rank_of(replica, stage - 1);
      use(message);
    };
    if (a.kind == Kind::F || a.kind == Kind::FB) forward(a.replica, a.stage, a.micro_batch);
    if (a.kind == Kind::B || a.kind == Kind::I) backward(a.replica, a.stage, a.micro_batch);
    if (a.kind == Kind::FB) backward(a.replica_b, a.stage_b, a.micro_batch_b);
  }

  /// need_[slot]: which input of its stage it is; room_[replica, stage]: its slots and one more.
  void number_the_needs() {
    need_.assign(backward_, 0);
    room_.assign(placement_.rank.size(), 0);
    through_.assign(placement_.rank.size(), 0);
    std::vector<int> forwards(placement_.rank.size(), 0);
    const auto needs = slot_needs(schedule_);
    for (int rank = 0; rank < schedule_.rank_count(); ++rank) {
      const auto held = placement_.held_by(rank);
      for (std::size_t k = 0; k < held.size(); ++k) {
        room_[stage_index(held[k].first, held[k].second)] =
            needs[static_cast<std::size_t>(rank)][k].activations + 1;
      }
      for (const Action& a : schedule_.ranks[static_cast<std::size_t>(rank)]) {
        if (a.kind != Kind::F && a.kind != Kind::FB) continue;
        const int number = forwards[stage_index(a.replica, a.stage)]++;
        if (a.stage > 0) need_[cell(a.stage - 1, a.micro_batch)] = number;
      }
    }
  }
  /// A gradient goes into the slot of its activation, which is there.
  bool has_room(const Message& m) const {
    if (m.slot >= backward_) return true;
    const std::size_t receiver = m.stage + 1;
    return need_[m.slot] < through_[receiver] + room_[receiver];
  }
  void finish(const Action& a) {
    if (a.kind == Kind::B || a.kind == Kind::W) ++through_[stage_index(a.replica, a.stage)];
    if (a.kind == Kind::FB) ++through_[stage_index(a.replica_b, a.stage_b)];
  }

  void wait_for(int rank, int other, std::string why) {
    State& state = ranks_[static_cast<std::size_t>(rank)];
    state.waits_for = other;
    state.why = std::move(why);
    State& waited = ranks_[static_cast<std::size_t>(other)];
    state.next_waiter = waited.first_waiter;
    waited.first_waiter = rank;
  }
  void wake_waiters(int rank) {
    int waiter = std::exchange(ranks_[static_cast<std::size_t>(rank)].first_waiter, -1);
    while (waiter >= 0) {
      State& state = ranks_[static_cast<std::size_t>(waiter)];
      state.waits_for = -1;
      ready_.push_back(waiter);
      waiter = std::exchange(state.next_waiter, -1);
    }
  }

  void advance(int rank) {
    State& state = ranks_[static_cast<std::size_t>(rank)];
    const auto& row = schedule_.ranks[static_cast<std::size_t>(rank)];
    bool moved = false;
    while (state.position < row.size()) {
      const Action& a = row[state.position];
      if (!state.ran && !inputs_are_there(rank, a)) break;
      if (rendezvous_ && !state.ran) {
        finish(a);
        moved = true;
      }
      state.ran = true;
      if (!sends_are_done(rank, a, moved)) break;
      state.ran = false;
      moved = true;
      ++state.position;
    }
    if (moved) wake_waiters(rank);
  }
  bool inputs_are_there(int rank, const Action& a) {
    bool there = true;
    for_inputs(a, [&](const Message& m) {
      if (!there || arrived_[m.slot]) return;
      there = false;
      wait_for(rank, m.peer, "its input does not come");
    });
    return there;
  }
  /// A rank on the way may be woken before it has moved: what has been delivered counts as moving.
  bool sends_are_done(int rank, const Action& a, bool& moved) {
    bool done = true;
    for_outputs(a, [&](const Message& m) {
      if (arrived_[m.slot]) return;
      if (rendezvous_ && m.peer != rank && !has_room(m)) {
        if (done) wait_for(rank, m.peer, "its send does not meet a receive");
        done = false;
        return;
      }
      arrived_[m.slot] = 1;
      moved = true;
    });
    return done;
  }

  /// Follows the waits from a rank that is stuck until one comes twice.
  std::vector<Fault> cycle() const {
    std::vector<int> seen(ranks_.size(), 0);
    int rank = -1;
    for (std::size_t r = 0; r < ranks_.size() && rank < 0; ++r) {
      if (ranks_[r].position < schedule_.ranks[r].size()) rank = static_cast<int>(r);
    }
    if (rank < 0) return {};
    while (!seen[static_cast<std::size_t>(rank)]++) {
      const int next = ranks_[static_cast<std::size_t>(rank)].waits_for;
      if (next < 0) break;
      rank = next;
    }
    std::vector<Fault> faults;
    const int start = rank;
    do {
      const State& state = ranks_[static_cast<std::size_t>(rank)];
      const auto& row = schedule_.ranks[static_cast<std::size_t>(rank)];
      const std::string action = state.position < row.size() ? to_text(row[state.position]) : "end";
      faults.push_back({rank, static_cast<int>(state.position),
                        fmt::format("deadlock{}: {} waits for rank {}: {}",
                                    rendezvous_ ? " under rendezvous sends" : "", action,
                                    state.waits_for, state.why)});
      rank = state.waits_for;
    } while (rank >= 0 && rank != start);
    return faults;
  }

  const Schedule& schedule_;
  const Placement& placement_;
  bool rendezvous_;
  std::size_t backward_;       // where the backward messages begin
  std::vector<char> arrived_;  // [slot]
  std::vector<int> need_;      // [slot of an F]: which input of its stage it is
  std::vector<int> room_;      // [replica, stage]: slots, and one to receive ahead
  std::vector<int> through_;   // [replica, stage]: micro-batches whose slot is free again
  std::vector<State> ranks_;
  std::vector<int> ready_;
};

}  // namespace

std::vector<Fault> find_deadlock(const Schedule& schedule, bool rendezvous) {
  return Runner(schedule, rendezvous).run();
}

}  // namespace pipemark
