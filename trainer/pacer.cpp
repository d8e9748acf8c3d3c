// Pacer: nominal time by arithmetic, real time by holding. A late wake-up costs nothing as long as
// the next action's compute still ends within its time.
#include "trainer/pacer.hpp"

#include <sys/prctl.h>

#include <algorithm>

#include "kernels/check.hpp"
#include "trainer/clock.hpp"
#include "trainer/cluster.hpp"
#include "trainer/transport.hpp"

namespace pipemark {
namespace {

/// A held rank tests its messages and sleeps this part of the action's time (at least 50 us), so
/// that others have the core: eight ranks that test every 50 us take most of one.
constexpr double kHoldPart = 0.02, kMinHoldPeriodS = 50e-6;
/// From the agreement on a step's start to the start: time for every rank to hear of it.
constexpr double kStartDelayS = 200e-6;

}  // namespace

Pacer::Pacer(CostModel cost, int rank, double clock_offset_s)
    : cost_(std::move(cost)), rank_(rank), clock_offset_s_(clock_offset_s) {
  check(rank >= 0 && rank < cost_.ranks, "Pacer: rank {} of {}", rank, cost_.ranks);
  prctl(PR_SET_TIMERSLACK, 1000UL);  // ns; the default of 50 us would lengthen each sleep
}

void Pacer::set_cost(CostModel cost) {
  check(cost.ranks == cost_.ranks, "Pacer: {} ranks, not {}", cost.ranks, cost_.ranks);
  cost_ = std::move(cost);
}

void Pacer::begin_step(Group& pipeline) {
  const double ready_s = pipeline.allreduce_max(now_s() + clock_offset_s_, "the step's start");
  begin_step(ready_s + kStartDelayS - clock_offset_s_);
}

void Pacer::begin_step(double start_s) { step_start_s_ = free_s_ = start_s; }

double Pacer::time_of(const Action& action) const {
  const StageCost& cost = cost_.of(rank_, action.stage);
  switch (action.kind) {
    case Kind::F:
      return cost.forward;
    case Kind::B:
      return cost.backward();
    case Kind::I:
      return cost.input_grad;
    case Kind::W:
      return cost.weight_grad;
    case Kind::FB:
      return cost_.overlap * (cost.forward + cost_.of(rank_, action.stage_b).backward());
  }
  throw LogicError("Pacer::time_of: unknown kind of action");
}

double Pacer::arrival_s(double stamp_s, int from_rank) const {
  return stamp_s - clock_offset_s_ + cost_.message_time(from_rank, rank_);
}

void Pacer::begin_action(const Action& action, double arrival_s, bool stamped) {
  time_s_ = time_of(action);
  now_.start_s = std::max(free_s_, arrival_s);
  now_.end_s = now_.start_s + time_s_;
  now_.wait_s = now_.start_s - free_s_;
  part_end_s_ = now_.start_s;
  parts_ = false;
  real_start_s_ = now_s();
  counts_.stamped += stamped;
}

double Pacer::hold_part(double ready_s, double seconds, const std::function<void()>& poll) {
  part_end_s_ = std::max(part_end_s_, ready_s) + seconds;
  for (double left_s; (left_s = part_end_s_ - now_s()) > 0;) {
    poll();
    sleep_s(std::min(left_s, kMinHoldPeriodS));
  }
  return part_end_s_;
}

Pacer::Times Pacer::end_action(Transport* transport) {
  if (parts_) now_.end_s = part_end_s_;
  const double real_end_s = now_s();
  const double late_s = real_end_s - now_.end_s;
  counts_.actions += 1;
  if (time_s_ > 0 && !parts_)
    counts_.busiest = std::max(counts_.busiest, (real_end_s - real_start_s_) / time_s_);
  if (late_s > std::max(kTolerance * time_s_, kMinToleranceS)) {
    counts_.overruns += 1;
    counts_.worst_overrun_s = std::max(counts_.worst_overrun_s, late_s);
    now_.end_s = real_end_s;
  } else {
    for (double left_s; (left_s = now_.end_s - now_s()) > 0;) {
      if (transport != nullptr) transport->progress();
      sleep_s(std::min(left_s, std::max(kHoldPart * time_s_, kMinHoldPeriodS)));
    }
    counts_.worst_wake_s = std::max(counts_.worst_wake_s, now_s() - now_.end_s);
  }
  free_s_ = now_.end_s;
  return now_;
}

}  // namespace pipemark
