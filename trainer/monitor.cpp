// Monitor, and the collective steps from one rank's times to all ranks' Timeline and CostModel.
#include "trainer/monitor.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "trainer/cluster.hpp"

namespace pipemark {

Monitor::Monitor(Device& device, Stream stream, const ExecutorPlan& plan)
    : device_(device), stream_(stream), host_(device.is_host()), paced_(plan.actions.size()) {
  for (const PlanAction& action : plan.actions) times_.actions.push_back({action.action});
  if (host_) return;
  base_ = device_.make_event();
  for (std::size_t i = 0; i < 2 * plan.actions.size(); ++i) {
    events_.push_back(device_.make_event());
  }
}

Monitor::~Monitor() {
  for (Event event : events_) device_.destroy(event);
  if (!host_) device_.destroy(base_);
}

void Monitor::begin_step(std::int64_t step, double zero_s) {
  times_.step = step;
  times_.zero_s = zero_s;
  times_.wait_s = times_.kernel_s = 0;
  std::fill(paced_.begin(), paced_.end(), false);
  if (host_) return;
  // The stream is idle between steps: the event is reached as soon as it is recorded, so the host's
  // clock and the device's meet here.
  device_.record(base_, stream_);
  device_.host_wait(base_);
  times_.zero_s = now_s();
}

void Monitor::begin_action(std::size_t index, double now_s, double wait_s) {
  TimedAction& action = times_.actions[index];
  action.wait_s = wait_s;
  if (host_) {
    action.start_s = now_s - times_.zero_s;
  } else {
    device_.record(events_[2 * index], stream_);
  }
}

void Monitor::end_action(std::size_t index, double now_s) {
  if (host_) {
    times_.actions[index].end_s = now_s - times_.zero_s;
  } else {
    device_.record(events_[2 * index + 1], stream_);
  }
}

void Monitor::set_action(std::size_t index, double start_s, double end_s, double wait_s) {
  TimedAction& action = times_.actions[index];
  action.start_s = start_s - times_.zero_s;
  action.end_s = end_s - times_.zero_s;
  action.wait_s = wait_s;
  paced_[index] = true;
}

void Monitor::end_step(double end_s, int peak_live, int overruns, ActionTimes& out) {
  times_.host_s = end_s - times_.zero_s;
  times_.peak_live = peak_live;
  times_.overruns = overruns;
  double free_s = 0;
  for (std::size_t i = 0; !host_ && i < times_.actions.size(); ++i) {
    TimedAction& action = times_.actions[i];
    if (paced_[i]) continue;
    action.start_s = device_.elapsed_s(base_, events_[2 * i]);
    action.end_s = device_.elapsed_s(base_, events_[2 * i + 1]);
    // The host runs ahead of the device: only what the device stood idle for counts.
    action.wait_s = std::min(action.wait_s, std::max(0.0, action.start_s - free_s));
    free_s = action.end_s;
  }
  out = times_;
}

void ActionMeans::add(const ActionTimes& times) {
  for (const TimedAction& timed : times.actions) {
    const Action& action = timed.action;
    auto row = std::find_if(rows_.begin(), rows_.end(), [&](const Row& r) {
      return r.kind == action.kind && r.replica == action.replica && r.stage == action.stage &&
             r.stage_b == action.stage_b;
    });
    if (row == rows_.end()) {
      row = rows_.insert(rows_.end(),
                         {action.kind, action.replica, action.stage, action.stage_b, 0, 0});
    }
    row->count += 1;
    row->total_s += timed.end_s - timed.start_s;
  }
}

Timeline gather_timeline(Group& pipeline, const ActionTimes& times, double clock_offset_s) {
  static_assert(std::numeric_limits<double>::digits > 32, "an action's fields travel as doubles");
  constexpr std::size_t kFields = 10;
  std::vector<double> row{times.zero_s + clock_offset_s};
  row.reserve(1 + kFields * times.actions.size());
  for (const TimedAction& timed : times.actions) {
    const Action& a = timed.action;
    for (double field :
         {static_cast<double>(a.kind), static_cast<double>(a.replica), static_cast<double>(a.stage),
          static_cast<double>(a.micro_batch), static_cast<double>(a.replica_b),
          static_cast<double>(a.stage_b), static_cast<double>(a.micro_batch_b), timed.start_s,
          timed.end_s, timed.wait_s}) {
      row.push_back(field);
    }
  }
  Timeline timeline;
  const std::vector<std::vector<double>> rows = pipeline.gather(std::span<const double>(row));
  if (rows.empty()) return timeline;
  double zero_s = rows[0][0];
  for (const auto& r : rows) zero_s = std::min(zero_s, r[0]);
  for (const auto& r : rows) {
    std::vector<TimedAction>& actions = timeline.ranks.emplace_back();
    const double shift_s = r[0] - zero_s;
    for (std::size_t i = 1; i + kFields <= r.size(); i += kFields) {
      const auto field = [&](std::size_t k) { return r[i + k]; };
      Action a;
      a.kind = static_cast<Kind>(field(0));
      a.replica = static_cast<std::int8_t>(field(1));
      a.stage = static_cast<std::int16_t>(field(2));
      a.micro_batch = static_cast<std::int32_t>(field(3));
      a.replica_b = static_cast<std::int8_t>(field(4));
      a.stage_b = static_cast<std::int16_t>(field(5));
      a.micro_batch_b = static_cast<std::int32_t>(field(6));
      actions.push_back({a, field(7) + shift_s, field(8) + shift_s, field(9)});
    }
  }
  return timeline;
}

namespace {

/// Sums of one (rank, stage): [kind] total and count, F, B, I, W.
struct StageSums {
  double total[4] = {}, count[4] = {};
  double mean(Kind kind) const {
    const auto k = static_cast<std::size_t>(kind);
    return count[k] > 0 ? total[k] / count[k] : 0;
  }
};

/// F as measured; of the backward, I and W where they ran apart, else halves of B. Both where a
/// schedule has both: the split from I and W, the sum weighted by how often each ran.
StageCost cost_of(const StageSums& sums) {
  StageCost cost{sums.mean(Kind::F), 0, 0};
  const double input = sums.mean(Kind::I), weight = sums.mean(Kind::W), full = sums.mean(Kind::B);
  const double split = sums.count[static_cast<std::size_t>(Kind::I)];
  const double whole = sums.count[static_cast<std::size_t>(Kind::B)];
  if (split + whole == 0) return cost;
  const double backward = (split * (input + weight) + whole * full) / (split + whole);
  const double share = split > 0 && input + weight > 0 ? input / (input + weight) : 0.5;
  cost.input_grad = share * backward;
  cost.weight_grad = backward - cost.input_grad;
  return cost;
}

}  // namespace

CostModel gather_cost_model(Group& pipeline, const Placement& placement, const ActionMeans& means) {
  const int ranks = pipeline.size(), stages = placement.stages;
  check(ranks == placement.ranks, "gather_cost_model: {} ranks, but the placement has {}", ranks,
        placement.ranks);
  // One contributor an entry, so the sum is a gather..
  const auto cells = static_cast<std::size_t>(ranks) * static_cast<std::size_t>(stages);
  std::vector<double> sums(8 * cells, 0.0);
  const auto at = [&](int rank, int stage, Kind kind) {
    return 8 * (static_cast<std::size_t>(rank) * static_cast<std::size_t>(stages) +
                static_cast<std::size_t>(stage)) +
           2 * static_cast<std::size_t>(kind);
  };
  for (const ActionMeans::Row& row : means.rows()) {
    if (row.kind == Kind::FB) continue;
    sums[at(pipeline.rank(), row.stage, row.kind)] += row.total_s;
    sums[at(pipeline.rank(), row.stage, row.kind) + 1] += static_cast<double>(row.count);
  }
  pipeline.allreduce_sum(std::span<double>(sums), "action times");

  CostModel cost;
  cost.ranks = ranks;
  cost.stages = stages;
  cost.stage.resize(cells);
  cost.message.assign(static_cast<std::size_t>(ranks) * static_cast<std::size_t>(ranks), 0.0);
  for (std::size_t cell = 0; cell < cells; ++cell) {
    StageSums stage;
    for (std::size_t k = 0; k < 4; ++k) {
      stage.total[k] = sums[8 * cell + 2 * k];
      stage.count[k] = sums[8 * cell + 2 * k + 1];
    }
    cost.stage[cell] = cost_of(stage);
  }
  // Pairs: measured over the sum of their parts, over all ranks.
  double pairs[2] = {0, 0};
  for (const ActionMeans::Row& row : means.rows()) {
    if (row.kind != Kind::FB) continue;
    pairs[0] += row.total_s;
    pairs[1] += static_cast<double>(row.count) * (cost.of(pipeline.rank(), row.stage).forward +
                                                  cost.of(pipeline.rank(), row.stage_b).backward());
  }
  pipeline.allreduce_sum(std::span<double>(pairs), "pair times");
  if (pairs[0] > 0 && pairs[1] > 0) cost.overlap = pairs[0] / pairs[1];
  return cost;
}

}  // namespace pipemark
