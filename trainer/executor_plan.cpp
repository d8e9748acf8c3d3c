// Lays out a row: walks its actions in order with free lists of buffers and slots, so that every
// action gets fixed ones. Buffers are handed out first in, first out, so that one whose message may
// still be on its way is taken over as late as possible.
#include "trainer/executor_plan.hpp"

#include <algorithm>
#include <deque>
#include <unordered_map>

#include "schedules/text.hpp"
#include "trainer/action_order.hpp"

namespace pipemark {
namespace {

/// The lowest free number first: few slots, and the same ones again.
class SlotPool {
 public:
  int take() {
    const auto free = std::find(used_.begin(), used_.end(), false);
    const auto slot = free - used_.begin();
    if (free == used_.end()) {
      used_.push_back(true);
    } else {
      *free = true;
    }
    return static_cast<int>(slot);
  }
  void give(int slot) { used_[static_cast<std::size_t>(slot)] = false; }
  int count() const { return static_cast<int>(used_.size()); }
  bool idle() const { return std::find(used_.begin(), used_.end(), true) == used_.end(); }

 private:
  std::vector<bool> used_;
};

/// What an activation of (held stage, micro-batch) holds from F to B or W.
struct Live {
  int slot = -1, weight_slot = -1, input = -1, grad_output = -1;
};

class Planner {
 public:
  Planner(const Placement& placement, const ActionOrder& order, int rank, int micro_batches,
          bool keep)
      : placement_(placement), order_(order), keep_(keep) {
    plan_.rank = rank;
    plan_.ranks = placement.ranks;
    plan_.stages = placement.stages;
    plan_.micro_batches = micro_batches;
    for (const auto& [replica, stage] : placement.held_by(rank)) {
      plan_.held.push_back({replica, stage, 0, 0});
    }
    slots_.resize(plan_.held.size());
    weight_slots_.resize(plan_.held.size());
  }

  ExecutorPlan lay_out(const std::vector<Action>& row) {
    list_calls(row);
    int next_receive = 0;
    for (std::size_t k = 0; k < plan_.actions.size(); ++k) {
      PlanAction& action = plan_.actions[k];
      action.first_reclaim = static_cast<std::int32_t>(plan_.reclaims.size());
      action.first_post = next_receive;
      return_sent(k);
      while (next_receive < static_cast<int>(plan_.receives.size()) &&
             receive_action_[static_cast<std::size_t>(next_receive)] <= k + kLookAhead) {
        plan_.receives[static_cast<std::size_t>(next_receive++)].buffer = take_buffer();
      }
      action.posts = next_receive - action.first_post;
      for (int c = 0; c < action.calls; ++c) open_call(k, call_of(action, c));
      for (int c = 0; c < action.calls; ++c) close_call(call_of(action, c));
      action.reclaims = static_cast<std::int32_t>(plan_.reclaims.size()) - action.first_reclaim;
    }
    finish();
    return std::move(plan_);
  }

 private:
  /// (held stage, micro-batch)
  static std::int64_t key(int held, int micro_batch) {
    return static_cast<std::int64_t>(held) << 32 | static_cast<std::uint32_t>(micro_batch);
  }
  PlanCall& call_of(const PlanAction& action, int c) {
    return plan_.calls[static_cast<std::size_t>(action.first_call + c)];
  }
  int find_held(int replica, int stage, const Action& action) const {
    for (std::size_t k = 0; k < plan_.held.size(); ++k) {
      if (plan_.held[k].replica == replica && plan_.held[k].stage == stage) {
        return static_cast<int>(k);
      }
    }
    throw LogicError(fmt::format("rank {} runs {} but does not hold stage {} of replica {}",
                                 plan_.rank, to_text(action), stage, replica));
  }
  /// The stage that an input comes from (`step` -1 for F, +1 for a backward), or -1 at the end.
  int neighbour(int stage, int step) const {
    const int other = stage + step;
    return other < 0 || other >= plan_.stages ? -1 : other;
  }

  /// The actions' calls and the receives that they need, in order; nothing is assigned yet.
  void list_calls(const std::vector<Action>& row) {
    for (const Action& action : row) {
      PlanAction& planned = plan_.actions.emplace_back();
      planned.action = action;
      planned.first_call = static_cast<std::int32_t>(plan_.calls.size());
      const bool pair = action.kind == Kind::FB;
      add_call(pair ? Kind::F : action.kind, action.replica, action.stage, action.micro_batch,
               action);
      if (pair) add_call(Kind::B, action.replica_b, action.stage_b, action.micro_batch_b, action);
      planned.calls = static_cast<std::int32_t>(plan_.calls.size()) - planned.first_call;
    }
  }

  void add_call(Kind kind, int replica, int stage, int micro_batch, const Action& action) {
    PlanCall call;
    call.kind = kind;
    call.held = find_held(replica, stage, action);
    call.micro_batch = micro_batch;
    const int from = kind == Kind::W ? -1 : neighbour(stage, kind == Kind::F ? -1 : 1);
    if (from >= 0 && placement_.rank_of(replica, from) != plan_.rank) {
      call.receive = static_cast<int>(plan_.receives.size());
      PlanMessage message;
      message.peer = placement_.rank_of(replica, from);
      describe(message, kind, stage, micro_batch);
      plan_.receives.push_back(message);
      receive_action_.push_back(plan_.actions.size() - 1);
    }
    plan_.calls.push_back(call);
  }

  /// `stage` is the receiver's.
  void describe(PlanMessage& message, Kind kind, int stage, int micro_batch) const {
    message.gradient = kind != Kind::F;
    message.stage = stage;
    message.micro_batch = micro_batch;
    const std::int64_t number =
        2 * (static_cast<std::int64_t>(micro_batch) * plan_.stages + stage) + message.gradient;
    message.tag = static_cast<int>(number % kTagWindow);
  }

  void open_call(std::size_t k, PlanCall& call) {
    const auto held = static_cast<std::size_t>(call.held);
    const std::int64_t id = key(call.held, call.micro_batch);
    if (call.kind == Kind::F) {
      check(live_.count(id) == 0, "rank {}: F of stage {}, micro-batch {} twice", plan_.rank,
            plan_.held[held].stage, call.micro_batch);
      Live& live = live_[id];
      live.slot = slots_[held].take();
      plan_.peak_live = std::max(plan_.peak_live, static_cast<int>(live_.size()));
      call.slot = live.slot;
      call.input = live.input = take_input(call);
      give_output(k, call);
      return;
    }
    const auto found = live_.find(id);
    check(found != live_.end(), "rank {}: backward of stage {}, micro-batch {} before its F",
          plan_.rank, plan_.held[held].stage, call.micro_batch);
    Live& live = found->second;
    call.slot = live.slot;
    if (call.kind != Kind::W) {
      if (call.kind == Kind::I) live.weight_slot = weight_slots_[held].take();
      call.input = live.grad_output = take_input(call);
      give_output(k, call);
    }
    check(call.kind == Kind::B || live.weight_slot >= 0,
          "rank {}: W of stage {}, micro-batch {} before its I", plan_.rank, plan_.held[held].stage,
          call.micro_batch);
    call.weight_slot = live.weight_slot;
  }

  /// After the action: what its calls were the last to read is free again.
  void close_call(const PlanCall& call) {
    const auto held = static_cast<std::size_t>(call.held);
    const auto found = live_.find(key(call.held, call.micro_batch));
    if (found == live_.end() || call.kind == Kind::I || (call.kind == Kind::F && keep_)) return;
    const Live live = found->second;
    live_.erase(found);
    slots_[held].give(live.slot);
    if (live.weight_slot >= 0) weight_slots_[held].give(live.weight_slot);
    if (live.input >= 0) free_.push_back({live.input, -1});
    if (live.grad_output >= 0) free_.push_back({live.grad_output, -1});
  }

  /// The buffer that holds the input of F, or the gradient that B or I reads.
  int take_input(const PlanCall& call) {
    if (call.receive >= 0) return plan_.receives[static_cast<std::size_t>(call.receive)].buffer;
    const HeldStage& held = plan_.held[static_cast<std::size_t>(call.held)];
    const bool forward = call.kind == Kind::F;
    if (neighbour(held.stage, forward ? -1 : 1) < 0) return -1;
    const auto found = local_.find({key(call.held, call.micro_batch), !forward});
    check(found != local_.end(), "rank {}: the input of stage {}, micro-batch {} is not there",
          plan_.rank, held.stage, call.micro_batch);
    const int buffer = found->second;
    local_.erase(found);
    return buffer;
  }

  void give_output(std::size_t k, PlanCall& call) {
    const HeldStage held = plan_.held[static_cast<std::size_t>(call.held)];
    const int to = neighbour(held.stage, call.kind == Kind::F ? 1 : -1);
    if (to < 0) return;
    call.output = take_buffer();
    const int peer = placement_.rank_of(held.replica, to);
    if (peer == plan_.rank) {
      const int next = find_held(held.replica, to, plan_.actions[k].action);
      local_[{key(next, call.micro_batch), call.kind != Kind::F}] = call.output;
      return;
    }
    PlanMessage message;
    message.peer = peer;
    message.buffer = call.output;
    describe(message, call.kind, to, call.micro_batch);
    call.send = static_cast<int>(plan_.sends.size());
    plan_.sends.push_back(message);
    sending_.push_back({call.output, call.send, k,
                        order_.read(message.gradient, held.replica, to, call.micro_batch)});
  }

  struct Free {
    int buffer, send;  ///< send: must be gone before the buffer is written; -1: none
  };
  int take_buffer() {
    if (free_.empty()) return plan_.buffers++;
    const Free taken = free_.front();
    free_.pop_front();
    if (taken.send >= 0) plan_.reclaims.push_back(taken.send);
    return taken.buffer;
  }
  /// Sent buffers that action `k` may take over: not too soon, and the receiver starts to read before.
  void return_sent(std::size_t k) {
    std::erase_if(sending_, [&](const Sending& sent) {
      if (sent.action + kSendAhead > k || sent.read >= order_.start(plan_.rank, k)) return false;
      free_.push_back({sent.buffer, sent.send});
      return true;
    });
  }

  void finish() {
    check(!keep_ || live_.empty(), "rank {}: {} activations are left without a backward",
          plan_.rank, live_.size());
    check(local_.empty(), "rank {}: {} outputs are never read", plan_.rank, local_.size());
    for (std::size_t k = 0; k < plan_.held.size(); ++k) {
      plan_.held[k].activation_slots = slots_[k].count();
      plan_.held[k].weight_slots = weight_slots_[k].count();
    }
    check_tags(plan_.receives);
    check_tags(plan_.sends);
  }

  /// Tags wrap when M S is large: messages of one peer and tag must then come in the same order on
  /// both sides, which rising micro-batches are.
  void check_tags(const std::vector<PlanMessage>& messages) const {
    if (2LL * plan_.micro_batches * plan_.stages <= kTagWindow) return;
    std::unordered_map<std::int64_t, int> last;
    for (const PlanMessage& message : messages) {
      const std::int64_t id = static_cast<std::int64_t>(message.peer) * kTagWindow + message.tag;
      const auto [entry, first] = last.try_emplace(id, message.micro_batch);
      check(first || entry->second < message.micro_batch,
            "rank {}: messages of micro-batches {} and {} share tag {} out of order", plan_.rank,
            entry->second, message.micro_batch, message.tag);
      entry->second = message.micro_batch;
    }
  }

  struct LocalKey {
    std::int64_t id;
    bool gradient;
    bool operator==(const LocalKey&) const = default;
  };
  struct LocalHash {
    std::size_t operator()(const LocalKey& key) const {
      return std::hash<std::int64_t>()(2 * key.id + key.gradient);
    }
  };
  struct Sending {
    int buffer, send;
    std::size_t action;
    double read;  ///< when its reader starts, in the order of all ranks
  };

  const Placement& placement_;
  const ActionOrder& order_;
  bool keep_;  ///< activations are kept for a backward
  ExecutorPlan plan_;
  std::vector<SlotPool> slots_, weight_slots_;
  std::vector<std::size_t> receive_action_;  ///< which action each receive is for
  std::unordered_map<std::int64_t, Live> live_;
  std::unordered_map<LocalKey, int, LocalHash> local_;  ///< buffers handed to a stage of this rank
  std::deque<Free> free_;
  std::vector<Sending> sending_;
};

}  // namespace

ExecutorPlan plan_step(const Schedule& schedule, int rank) {
  check(rank >= 0 && rank < schedule.rank_count() &&
            schedule.ranks.size() == static_cast<std::size_t>(schedule.rank_count()),
        "plan_step: rank {} of a schedule of {} ranks", rank, schedule.rank_count());
  const ActionOrder order(schedule);
  Planner planner(schedule.placement, order, rank, schedule.micro_batches, /*keep=*/true);
  ExecutorPlan plan = planner.lay_out(schedule.ranks[static_cast<std::size_t>(rank)]);
  plan.schedule = schedule.name;
  return plan;
}

ExecutorPlan plan_forward(const Placement& placement, int micro_batches, int rank) {
  std::vector<std::vector<Action>> rows(static_cast<std::size_t>(placement.ranks));
  std::vector<std::vector<double>> starts(rows.size());
  for (int stage = 0; stage < placement.stages; ++stage) {
    auto& row = rows[static_cast<std::size_t>(placement.rank_of(0, stage))];
    for (int m = 0; m < micro_batches; ++m) {
      row.push_back({Kind::F, 0, static_cast<std::int16_t>(stage), m});
    }
  }
  // (s, m) needs (s - 1, m), one earlier: the order can't deadlock. Later stages first drain the
  // pipeline.
  const auto time_of = [&](const Action& a) {
    return (a.stage + a.micro_batch) * placement.stages + placement.stages - 1 - a.stage;
  };
  for (std::size_t r = 0; r < rows.size(); ++r) {
    std::sort(rows[r].begin(), rows[r].end(),
              [&](const Action& a, const Action& b) { return time_of(a) < time_of(b); });
    for (const Action& action : rows[r]) starts[r].push_back(time_of(action));
  }
  const ActionOrder order(rows, std::move(starts));
  Planner planner(placement, order, rank, micro_batches, /*keep=*/false);
  ExecutorPlan plan = planner.lay_out(rows[static_cast<std::size_t>(rank)]);
  plan.schedule = "forward";
  return plan;
}

std::vector<Tensor> take_boundary_buffers(Arena& arena,
                                          const std::vector<const ExecutorPlan*>& plans,
                                          std::int64_t boundary_size, DType dtype) {
  int count = 0;
  for (const ExecutorPlan* plan : plans) count = std::max(count, plan->buffers);
  const auto stamp = static_cast<std::int64_t>(sizeof(double) / size_of(dtype));
  std::vector<Tensor> buffers;
  for (int b = 0; b < count; ++b) {
    buffers.push_back(
        arena.take(boundary_size + stamp, dtype, fmt::format("executor/boundary/{}", b)));
  }
  return buffers;
}

}  // namespace pipemark
