// Bubble analysis by counterfactual simulation; costs of a timeline. See the header for the method.
#include "schedules/analysis.hpp"

#include <algorithm>
#include <cstddef>
#include <future>
#include <utility>

#include "kernels/check.hpp"
#include "schedules/simulate.hpp"
#include "schedules/text.hpp"

namespace pipemark {
namespace {

/// Sum of durations and count of the actions of one kind.
struct Mean {
  double sum = 0, count = 0;
  void add(double value, double weight = 1) {
    sum += value;
    count += weight;
  }
  double value(double otherwise) const { return count > 0 ? sum / count : otherwise; }
};

struct PairMeans {
  Mean forward, backward, input_grad, weight_grad;
};

void check_same_actions(const Schedule& schedule, const Timeline& timeline) {
  check(timeline.ranks.size() == schedule.ranks.size(), "timeline of {} ranks, schedule of {}",
        timeline.ranks.size(), schedule.ranks.size());
  for (std::size_t r = 0; r < schedule.ranks.size(); ++r) {
    check(timeline.ranks[r].size() == schedule.ranks[r].size(),
          "rank {}: timeline of {} actions, schedule of {}", r, timeline.ranks[r].size(),
          schedule.ranks[r].size());
    for (std::size_t i = 0; i < schedule.ranks[r].size(); ++i) {
      check(timeline.ranks[r][i].action == schedule.ranks[r][i],
            "rank {}, action {}: timeline has {}, schedule {}", r, i,
            to_text(timeline.ranks[r][i].action), to_text(schedule.ranks[r][i]));
    }
  }
}

/// Means of the actions that stand alone, by [rank * stages + stage]; FB is left to overlap_of().
std::vector<PairMeans> means_of(const Schedule& schedule, const Timeline& timeline) {
  const auto stages = static_cast<std::size_t>(schedule.placement.stages);
  std::vector<PairMeans> means(schedule.ranks.size() * stages);
  for (std::size_t r = 0; r < schedule.ranks.size(); ++r) {
    for (const TimedAction& timed : timeline.ranks[r]) {
      PairMeans& pair = means[r * stages + static_cast<std::size_t>(timed.action.stage)];
      const double duration = timed.end_s - timed.start_s;
      switch (timed.action.kind) {
        case Kind::F:
          pair.forward.add(duration);
          break;
        case Kind::B:
          pair.backward.add(duration);
          break;
        case Kind::I:
          pair.input_grad.add(duration);
          break;
        case Kind::W:
          pair.weight_grad.add(duration);
          break;
        case Kind::FB:
          break;
      }
    }
  }
  return means;
}

/// One stage's cost from its means; `mean` stands in for what never ran alone.
StageCost stage_cost_of(const PairMeans& pair, const StageCost& mean) {
  StageCost cost;
  cost.forward = pair.forward.value(mean.forward);
  cost.input_grad = pair.input_grad.value(mean.input_grad);
  cost.weight_grad = pair.weight_grad.value(mean.weight_grad);
  // I and W scaled so that nB (I + W) + nI I + nW W is the time of them all.
  const double model = (pair.backward.count + pair.input_grad.count) * cost.input_grad +
                       (pair.backward.count + pair.weight_grad.count) * cost.weight_grad;
  const double actual = pair.backward.sum + pair.input_grad.sum + pair.weight_grad.sum;
  if (model > 0) {
    cost.input_grad *= actual / model;
    cost.weight_grad *= actual / model;
  }
  return cost;
}

/// The mean cost of all pairs; a kind that never ran alone is made up from the others.
StageCost mean_cost_of(const std::vector<PairMeans>& means, const Timeline& timeline) {
  PairMeans all;
  for (const PairMeans& pair : means) {
    all.forward.add(pair.forward.sum, pair.forward.count);
    all.backward.add(pair.backward.sum, pair.backward.count);
    all.input_grad.add(pair.input_grad.sum, pair.input_grad.count);
    all.weight_grad.add(pair.weight_grad.sum, pair.weight_grad.count);
  }
  Mean pairs;
  for (const auto& rank : timeline.ranks) {
    for (const TimedAction& timed : rank) {
      if (timed.action.kind == Kind::FB) pairs.add(timed.end_s - timed.start_s);
    }
  }
  // With no backward of its own anywhere, it is taken from FB less F; with none at all, twice F.
  const double forward = all.forward.value(pairs.value(all.backward.value(1) * 1.5) / 3);
  const double backward = all.backward.value(std::max(forward, pairs.value(3 * forward) - forward));
  StageCost mean{forward, all.input_grad.value(backward / 2), all.weight_grad.value(backward / 2)};
  return mean;
}

/// Time of the actions of a rank under a cost model.
double busy_under(const std::vector<Action>& actions, int rank, const CostModel& cost) {
  double busy = 0;
  for (const Action& action : actions) {
    const StageCost& stage = cost.of(rank, action.stage);
    switch (action.kind) {
      case Kind::F:
        busy += stage.forward;
        break;
      case Kind::B:
        busy += stage.backward();
        break;
      case Kind::I:
        busy += stage.input_grad;
        break;
      case Kind::W:
        busy += stage.weight_grad;
        break;
      case Kind::FB:
        busy += cost.overlap * (stage.forward + cost.of(rank, action.stage_b).backward());
        break;
    }
  }
  return busy;
}

/// Time of all FB over the sum of their halves; 1 where there is none.
double overlap_of(const Timeline& timeline, const CostModel& cost) {
  double paired = 0, apart = 0;
  for (std::size_t r = 0; r < timeline.ranks.size(); ++r) {
    const int rank = static_cast<int>(r);
    for (const TimedAction& timed : timeline.ranks[r]) {
      if (timed.action.kind != Kind::FB) continue;
      paired += timed.end_s - timed.start_s;
      apart += cost.of(rank, timed.action.stage).forward +
               cost.of(rank, timed.action.stage_b).backward();
    }
  }
  return apart > 0 ? paired / apart : 1;
}

IdleCauses causes_of(double a, double b, double c, double d, double makespan) {
  c = std::min(c, d);
  b = std::min(b, c);
  a = std::min(a, b);
  return {a / makespan, (b - a) / makespan, (c - b) / makespan, (d - c) / makespan};
}

}  // namespace

CostModel cost_from_timeline(const Schedule& schedule, const Timeline& timeline,
                             std::vector<double> message) {
  check_same_actions(schedule, timeline);
  const auto ranks = schedule.ranks.size();
  check(message.size() == ranks * ranks, "message has {} entries, {} ranks need {}", message.size(),
        ranks, ranks * ranks);
  CostModel cost;
  cost.ranks = static_cast<int>(ranks);
  cost.stages = schedule.placement.stages;
  cost.message = std::move(message);
  const std::vector<PairMeans> means = means_of(schedule, timeline);
  const StageCost mean = mean_cost_of(means, timeline);
  for (const PairMeans& pair : means) cost.stage.push_back(stage_cost_of(pair, mean));
  cost.overlap = overlap_of(timeline, cost);
  const auto stages = static_cast<std::size_t>(cost.stages);
  for (std::size_t r = 0; r < ranks; ++r) {
    const double model = busy_under(schedule.ranks[r], static_cast<int>(r), cost);
    const double scale = model > 0 ? timeline.busy_s(static_cast<int>(r)) / model : 1;
    for (std::size_t s = 0; s < stages; ++s) {
      StageCost& stage = cost.stage[r * stages + s];
      stage = {stage.forward * scale, stage.input_grad * scale, stage.weight_grad * scale};
    }
  }
  return cost;
}

CostModel cost_from_timeline(const Schedule& schedule, const Timeline& timeline, double message) {
  const auto ranks = schedule.ranks.size();
  std::vector<double> all(ranks * ranks, message);
  for (std::size_t r = 0; r < ranks; ++r) all[r * ranks + r] = 0;
  return cost_from_timeline(schedule, timeline, std::move(all));
}

CostModel balanced_cost(const Schedule& schedule, const CostModel& cost) {
  Mean forward, input_grad, weight_grad;
  for (std::size_t r = 0; r < schedule.ranks.size(); ++r) {
    const int rank = static_cast<int>(r);
    for (const Action& action : schedule.ranks[r]) {
      const bool pair = action.kind == Kind::FB;
      const double weight = pair ? cost.overlap : 1;
      const StageCost& stage = cost.of(rank, pair ? action.stage_b : action.stage);
      if (action.kind == Kind::F || pair) {
        forward.add(weight * cost.of(rank, action.stage).forward, weight);
      }
      if (action.kind == Kind::I || action.kind == Kind::B || pair) {
        input_grad.add(weight * stage.input_grad, weight);
      }
      if (action.kind == Kind::W || action.kind == Kind::B || pair) {
        weight_grad.add(weight * stage.weight_grad, weight);
      }
    }
  }
  CostModel balanced = cost;
  const StageCost mean{forward.value(0), input_grad.value(0), weight_grad.value(0)};
  std::fill(balanced.stage.begin(), balanced.stage.end(), mean);
  std::fill(balanced.message.begin(), balanced.message.end(), 0.0);
  return balanced;
}

IdleAnalysis analyze_ranks(const Schedule& schedule, const Timeline& timeline,
                           const CostModel& cost) {
  check_same_actions(schedule, timeline);
  const double makespan = timeline.makespan_s();
  check(makespan > 0, "analyze: a timeline of no time has no idle causes");
  CostModel free_messages = cost;
  std::fill(free_messages.message.begin(), free_messages.message.end(), 0.0);
  const Simulation a = simulate(schedule, balanced_cost(schedule, cost));
  const Simulation b = simulate(schedule, free_messages);
  const Simulation c = simulate(schedule, cost);
  IdleAnalysis analysis;
  const auto ranks = schedule.ranks.size();
  for (std::size_t r = 0; r < ranks; ++r) {
    analysis.ranks.push_back(causes_of(a.makespan - a.busy[r], b.makespan - b.busy[r],
                                       c.makespan - c.busy[r],
                                       makespan - timeline.busy_s(static_cast<int>(r)), makespan));
    const IdleCauses& rank = analysis.ranks.back();
    const auto share = 1.0 / static_cast<double>(ranks);
    analysis.total.fill_drain += share * rank.fill_drain;
    analysis.total.imbalance += share * rank.imbalance;
    analysis.total.exposed_communication += share * rank.exposed_communication;
    analysis.total.overhead += share * rank.overhead;
  }
  return analysis;
}

IdleCauses analyze(const Schedule& schedule, const Timeline& timeline, const CostModel& cost) {
  return analyze_ranks(schedule, timeline, cost).total;
}

ProgramAnalysis simulate_and_analyze(const Program& program, StageCost whole, double message,
                                     double overlap) {
  const auto run = [&](double of_message) {
    PlacedCost cost = PlacedCost::uniform(program.placement, whole, of_message);
    cost.overlap = overlap;
    return simulate(program, cost);
  };
  // Equal stages have no imbalance: (a) and (b) are one run, beside (c).
  std::future<Simulation> silent;
  if (message > 0) silent = std::async(std::launch::async, run, 0.0);
  ProgramAnalysis made{run(message), {}};
  const Simulation& c = made.simulation;
  const Simulation a = message > 0 ? silent.get() : c;
  const auto ranks = c.busy.size();
  for (std::size_t r = 0; r < ranks; ++r) {
    const double schedule_idle = a.makespan - a.busy[r], idle = c.makespan - c.busy[r];
    const IdleCauses rank = causes_of(schedule_idle, schedule_idle, idle, idle, c.makespan);
    made.idle.total.fill_drain += rank.fill_drain / static_cast<double>(ranks);
    made.idle.total.exposed_communication +=
        rank.exposed_communication / static_cast<double>(ranks);
    made.idle.ranks.push_back(rank);
  }
  return made;
}

PredictedBeside predict_beside(const Schedule& schedule, const Timeline& timeline,
                               const CostModel& cost) {
  check_same_actions(schedule, timeline);
  const Simulation predicted = simulate(schedule, cost);
  PredictedBeside beside;
  beside.predicted_makespan = predicted.makespan;
  beside.makespan = timeline.makespan_s();
  beside.predicted_bubble_ratio = predicted.bubble_ratio;
  beside.bubble_ratio = timeline.bubble_ratio();
  beside.predicted_span_bubble_rate = predicted.span_bubble_rate;
  beside.span_bubble_rate = timeline.span_bubble_rate();
  return beside;
}

}  // namespace pipemark
