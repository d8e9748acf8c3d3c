// The bar: what a balancer that knows the future would need.
#include <algorithm>
#include <limits>

#include "balancers/elastic/environment.hpp"

namespace pipemark {

namespace {
/// Steps between the ends of the stretches whose optimal plans are offered.
constexpr int kStretch = 25;

void offer(std::vector<PipelinePlan>& plans, const PipelinePlan& plan) {
  if (std::find(plans.begin(), plans.end(), plan) == plans.end()) plans.push_back(plan);
}

/// `plan` and what single layers over single boundaries make of it, as long as its step gets
/// shorter.
void offer_climb(std::vector<PipelinePlan>& plans, const PipelineSimulator& simulator,
                 PipelinePlan plan, const std::vector<double>& level) {
  double least = simulator.step_s(plan, level);
  for (bool better = true; better;) {
    offer(plans, plan);
    better = false;
    PipelinePlan best = plan;
    for (std::size_t s = 1; s + 1 < plan.partition.first.size(); ++s) {
      for (const int by : {-1, 1}) {
        PipelinePlan moved = plan;
        int& cut = moved.partition.first[s];
        cut += by;
        const auto& first = moved.partition.first;
        if (cut <= first[s - 1] || cut >= first[s + 1] || !simulator.fits(moved)) continue;
        const double step = simulator.step_s(moved, level);
        if (step >= least * (1 - 1e-9)) continue;
        least = step;
        best = moved;
        better = true;
      }
    }
    plan = best;
  }
}

/// Mean factors of steps [first, last).
std::vector<double> mean_level(const Episode& episode, int first, int last) {
  std::vector<double> mean(episode.nominal.size(), 0.0);
  for (int t = first; t < last; ++t) {
    for (std::size_t r = 0; r < mean.size(); ++r) {
      mean[r] += episode.level[static_cast<std::size_t>(t)][r] / (last - first);
    }
  }
  return mean;
}

/// Where a device's level jumps, and every kStretch steps while it drifts.
std::vector<int> cuts_of(const Episode& episode) {
  std::vector<int> cuts{0};
  for (int t = 1; t < episode.steps(); ++t) {
    const auto& now = episode.level[static_cast<std::size_t>(t)];
    const auto& before = episode.level[static_cast<std::size_t>(t) - 1];
    bool jumps = false, drifts = false;
    for (std::size_t r = 0; r < now.size(); ++r) {
      const double ratio = now[r] / before[r];
      jumps = jumps || ratio > 1.1 || ratio < 0.9;
      drifts = drifts || ratio != 1;
    }
    if (jumps || (drifts && t - cuts.back() >= kStretch)) cuts.push_back(t);
  }
  cuts.push_back(episode.steps());
  return cuts;
}
}  // namespace

double hindsight_over_s(const Episode& episode, const std::vector<PipelinePlan>& plans) {
  const std::size_t n = plans.size();
  std::vector<double> move(n * n);
  for (std::size_t a = 0; a < n; ++a) {
    for (std::size_t b = 0; b < n; ++b) {
      move[a * n + b] = a == b ? 0 : episode.simulator.migration_s(plans[a], plans[b]);
    }
  }
  // least[p]: shortest time so far with plan p now; a move lies between two steps.
  constexpr double kNever = std::numeric_limits<double>::infinity();
  std::vector<double> least(n, kNever), next(n);
  least[static_cast<std::size_t>(std::find(plans.begin(), plans.end(), episode.start) -
                                 plans.begin())] = 0;
  for (int t = 0; t < episode.steps(); ++t) {
    for (std::size_t b = 0; b < n; ++b) {
      double best = least[b];
      for (std::size_t a = 0; t > 0 && a < n; ++a)
        best = std::min(best, least[a] + move[a * n + b]);
      next[b] = best;
    }
    for (std::size_t p = 0; p < n; ++p) {
      const auto& factors = episode.factor[static_cast<std::size_t>(t)];
      least[p] = next[p] == kNever ? kNever : next[p] + episode.simulator.step_s(plans[p], factors);
    }
  }
  return *std::min_element(least.begin(), least.end());
}

double hindsight_s(const Episode& episode, const std::vector<PipelinePlan>& offered) {
  std::vector<PipelinePlan> plans{episode.start};
  for (const PipelinePlan& plan : offered) offer(plans, plan);
  const std::vector<int> cuts = cuts_of(episode);
  for (std::size_t a = 0; a + 1 < cuts.size(); ++a) {
    for (std::size_t b = a + 1; b < cuts.size(); ++b) {
      const std::vector<double> level = mean_level(episode, cuts[a], cuts[b]);
      for (const Candidate& option : candidates(episode.simulator, episode.start, level)) {
        offer_climb(plans, episode.simulator, option.plan, level);
      }
    }
  }
  return hindsight_over_s(episode, plans);
}

}  // namespace pipemark
