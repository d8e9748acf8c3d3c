// The search's plan: bounds, a grid of rules, local search from the best few.
#include "schedules/synthesis/synthesis.hpp"

#include <algorithm>

#include "kernels/check.hpp"
#include "schedules/synthesis/bound.hpp"
#include "schedules/synthesis/construct.hpp"
#include "schedules/synthesis/evaluate.hpp"
#include "schedules/synthesis/handshake.hpp"
#include "schedules/synthesis/improve.hpp"
#include "schedules/synthesis/problem.hpp"

namespace pipemark {
namespace {

using namespace synthesis;

/// A value within this part of the bound has met it: sums of times in another order.
constexpr double kMet = 1e-9;
/// What an order must gain, as a part of the span, to be taken although it fails the handshake.
constexpr double kWorthStuck = 1e-4;

struct Candidate {
  Orders orders;
  Rules rules;
  double value = 0, makespan = 0;

  bool better_than(const Candidate& other) const {
    return value != other.value ? value < other.value : makespan < other.makespan;
  }
};

/// due so that the value is the larger excess of the span and of the makespan over their bounds.
Objective make_objective(const Problem& problem, const Bound& bound) {
  Objective objective;
  for (const double head : problem.head) {
    objective.due.push_back(std::max(-head - bound.span, -bound.makespan));
  }
  return objective;
}

/// How gaps are filled: by a fixed part of W, or by an allowance of idle time over the bound.
std::vector<Rules> gap_rules(const Problem& problem, const Bound& bound) {
  std::vector<Rules> grid;
  for (const double fill : {0.25, 0.75, 1.0, 0.5, 0.0}) {
    Rules rules;
    rules.fill = fill;
    grid.push_back(rules);
  }
  double weight = 0;
  for (std::size_t op = 2; op < problem.time.size(); op += 3) {
    weight = std::max(weight, problem.time[op]);
  }
  for (const double extra : {0.0, 0.1, 0.25, 0.5, 1.0, 2.0}) {
    Rules rules;
    rules.fill = 1;
    rules.span = bound.span + extra * weight;
    grid.push_back(rules);
  }
  return grid;
}

/// How a rank paces its F's and which of several tasks it takes, apart from gaps.
std::vector<Rules> pace_rules(const Problem& problem) {
  using Pair = std::pair<double, double>;
  const Pair flights[] = {{1, 1}, {1, -1}, {2, 2}, {1, 2}, {1, 1.5}, {2, 1.5}, {3, 2}, {1, 3}};
  const Pair waits[] = {{0, -1},   {0, 0},    {0, 0.05}, {0, 0.1},  {0, 0.2},
                        {0.3, -1}, {0.6, -1}, {0.3, 0},  {0.3, 0.1}};
  // The order of stages matters only where a rank holds several.
  const int first_order = problem.slots[0].size() > 1 ? 0 : 3;
  std::vector<Rules> grid;
  Rules rules;
  for (const auto& [base, slope] : flights) {
    rules.flight_base = base, rules.flight_slope = slope;
    for (const auto& [patience, lateness] : waits) {
      rules.patience = patience, rules.lateness = lateness;
      for (const bool forward_first : {false, true}) {
        rules.forward_first = forward_first;
        for (int order = first_order; order < 4; ++order) {
          rules.deep_forward = (order & 1) != 0, rules.deep_backward = (order & 2) != 0;
          grid.push_back(rules);
        }
      }
    }
  }
  return grid;
}

/// The best of what was tried: those that pass the handshake, and those that don't yet.
class Podium {
 public:
  Podium(const Problem& problem, Evaluator& evaluator, double met, std::size_t kept)
      : problem_(problem), evaluator_(evaluator), met_(met), kept_(kept), handshake_(problem) {}

  bool met() const { return !best_.empty() && best_.front().value <= met_; }
  const std::vector<Candidate>& best() const { return best_; }
  const std::vector<Candidate>& stuck() const { return stuck_; }

  void attempt(const Rules& rules) {
    if (met()) return;
    Candidate candidate{construct(problem_, rules), rules, 0, 0};
    measure(candidate);
    if (belongs(candidate, best_) && handshake_.passes(candidate.orders)) {
      add(std::move(candidate), best_);
    } else if (belongs(candidate, stuck_)) {
      add(std::move(candidate), stuck_);
    }
  }

  /// Repairs those that don't pass, in both ways.
  void repair() {
    for (const Candidate& stuck : stuck_) {
      for (const bool by_receiver : {true, false}) {
        Candidate candidate = stuck;
        if (!handshake_.repair(candidate.orders, by_receiver)) continue;
        if (!fits_memory(problem_, candidate.orders)) continue;
        measure(candidate);
        if (belongs(candidate, best_)) add(std::move(candidate), best_);
      }
    }
  }

 private:
  void measure(Candidate& candidate) {
    evaluator_.run(candidate.orders, times_);
    check(times_.complete, "synthesize: an order deadlocks");
    candidate.value = times_.value, candidate.makespan = times_.makespan;
  }
  static std::vector<Candidate>::const_iterator place(const Candidate& candidate,
                                                      const std::vector<Candidate>& list) {
    return std::find_if(list.begin(), list.end(),
                        [&](const Candidate& other) { return !other.better_than(candidate); });
  }
  bool belongs(const Candidate& candidate, const std::vector<Candidate>& list) const {
    const auto at = place(candidate, list);
    return at == list.end() ? list.size() < kept_ : candidate.better_than(*at);
  }
  void add(Candidate candidate, std::vector<Candidate>& list) const {
    const auto at = place(candidate, list);
    list.insert(at, std::move(candidate));
    if (list.size() > kept_) list.pop_back();
  }

  const Problem& problem_;
  Evaluator& evaluator_;
  double met_;
  std::size_t kept_;
  Handshake handshake_;
  Times times_;
  std::vector<Candidate> best_, stuck_;  ///< best first, equal values once
};

/// Every pace with a few ways to fill gaps, then every way to fill gaps with the best paces.
void construct_best(const Problem& problem, const Bound& bound, Podium& podium) {
  const std::vector<Rules> gaps = gap_rules(problem, bound), paces = pace_rules(problem);
  const auto attempt = [&](Rules pace, const Rules& gap) {
    pace.fill = gap.fill, pace.span = gap.span;
    podium.attempt(pace);
  };
  for (std::size_t g = 0; g < 3; ++g) {
    for (const Rules& pace : paces) attempt(pace, gaps[g]);
  }
  const std::vector<Candidate> first_pass = podium.best();
  for (const Candidate& candidate : first_pass) {
    for (std::size_t g = 3; g < gaps.size(); ++g) attempt(candidate.rules, gaps[g]);
  }
  if (!podium.met()) podium.repair();
}

int default_budget(const Problem& problem) {
  // About 2 x 10^8 task evaluations: a second or two.
  return std::clamp(200'000'000 / std::max(1, problem.tasks()), 2'000, 60'000);
}

/// Local search from each candidate; the best of all.
Candidate improve_all(const Problem& problem, const Bound& bound, Evaluator& evaluator,
                      const std::vector<Candidate>& candidates, bool handshake, int budget) {
  Candidate best = candidates.front();
  ImproveOptions options;
  options.evaluations = budget / static_cast<int>(candidates.size());
  options.enough = kMet * bound.span;
  options.handshake = handshake;
  Times times;
  for (Candidate candidate : candidates) {
    if (best.value <= options.enough) break;
    candidate.value = improve(problem, evaluator, candidate.orders, options);
    ++options.seed;
    evaluator.run(candidate.orders, times);
    candidate.makespan = times.makespan;
    if (candidate.better_than(best)) best = candidate;
  }
  return best;
}

Candidate search(const Problem& problem, const Bound& bound, Evaluator& evaluator,
                 bool must_handshake, int budget) {
  constexpr std::size_t kKept = 6;
  const double met = kMet * bound.span;
  Podium podium(problem, evaluator, met, kKept);
  construct_best(problem, bound, podium);
  check(!podium.best().empty(), "synthesize: no order passes the handshake");
  Candidate best = improve_all(problem, bound, evaluator, podium.best(), true, budget);
  if (must_handshake || best.value <= met || podium.stuck().empty()) return best;
  const Candidate free = improve_all(problem, bound, evaluator, podium.stuck(), false, budget);
  return free.value < best.value - kWorthStuck * bound.span ? free : best;
}

}  // namespace

Synthesis synthesize(const ScheduleRequest& request, const SynthesisOptions& options) {
  const Problem problem = make_problem(request);
  const Bound bound = lower_bound(problem);
  Evaluator evaluator(problem, make_objective(problem, bound));
  const int budget = options.evaluations > 0 ? options.evaluations : default_budget(problem);
  const bool must_handshake = request.rendezvous.value_or(!request.cost);
  const Candidate best = search(problem, bound, evaluator, must_handshake, budget);

  check(fits_memory(problem, best.orders), "synthesize: an order exceeds its rank's memory");
  Times times;
  evaluator.run(best.orders, times);
  Synthesis result;
  result.rendezvous = Handshake(problem).passes(best.orders);
  result.schedule = to_schedule(problem, best.orders);
  result.makespan = times.makespan, result.span = times.span;
  result.lower_bound = bound.makespan, result.span_lower_bound = bound.span;
  result.peak_memory = peak_memory(problem, best.orders);
  for (double& peak : result.peak_memory)
    peak *= static_cast<double>(request.ranks) / problem.placement.stages;
  result.evaluations = evaluator.evaluations();
  return result;
}

}  // namespace pipemark
