// Makespan, the two bubble figures and the peaks from each rank's totals.
#include "schedules/simulation_totals.hpp"

#include <algorithm>
#include <limits>

namespace pipemark {

void summarize(const std::vector<RankTotals>& ranks, const Placement& placement,
               Simulation& result) {
  const double share = static_cast<double>(placement.ranks) / placement.stages;
  double first = std::numeric_limits<double>::infinity(), last = 0, sum = 0;
  double longest = 0, work = 0;
  for (const RankTotals& rank : ranks) {
    result.busy.push_back(rank.busy);
    result.peak_live.push_back(rank.peak_live);
    result.peak_activations.push_back(rank.peak_live * share);
    sum += rank.busy;
    if (rank.first_start < 0) continue;
    first = std::min(first, rank.first_start);
    last = std::max(last, rank.end);
    if (rank.end - rank.first_start > longest) {
      longest = rank.end - rank.first_start;
      work = rank.busy;
    }
  }
  result.makespan = std::max(0.0, last - first);
  if (result.makespan > 0) result.bubble_ratio = 1 - sum / (placement.ranks * result.makespan);
  if (longest > 0) result.span_bubble_rate = (longest - work) / longest;
}

}  // namespace pipemark
