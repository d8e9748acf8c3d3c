// The plans that an elastic balancer chooses among.
#include <algorithm>
#include <cmath>

#include "balancers/elastic/elastic_balancer.hpp"

namespace pipemark {

namespace {
/// A device this many times as slow as the median one may be better left out.
constexpr double kEvictFactor = 1.6;

/// Layers whose rank changes.
int layers_moved(const PipelinePlan& a, const PipelinePlan& b) {
  int moved = 0;
  for (int layer = 0; layer < a.partition.layers(); ++layer) {
    const auto rank = [&](const PipelinePlan& plan) {
      return plan
          .ranks[static_cast<std::size_t>(plan.partition.stage_of(layer)) % plan.ranks.size()];
    };
    moved += rank(a) != rank(b);
  }
  return moved;
}

/// `from` with each boundary moved towards `to` by at most `most` layers.
Partition towards(const Partition& from, const Partition& to, int most) {
  Partition between = from;
  for (std::size_t i = 0; i < from.first.size(); ++i) {
    between.first[i] += std::clamp(to.first[i] - from.first[i], -most, most);
  }
  const auto& first = between.first;  // a stage may have been squeezed out on the way
  return std::adjacent_find(first.begin(), first.end(), std::greater_equal<>()) == first.end()
             ? between
             : Partition{};
}

class Collector {
 public:
  Collector(const PipelineSimulator& simulator, const PipelinePlan& present,
            const std::vector<double>& factors)
      : simulator_(simulator), present_(present), factors_(factors) {
    options.push_back({present, "stay", simulator.step_s(present, factors), 0, 0});
  }

  void add(const PipelinePlan& plan, const char* kind) {
    if (plan.partition.first.empty() || plan == present_ || !simulator_.fits(plan)) return;
    const bool known = std::any_of(options.begin(), options.end(),
                                   [&](const Candidate& o) { return o.plan == plan; });
    if (known) return;
    options.push_back({plan, kind, simulator_.step_s(plan, factors_),
                       simulator_.migration_s(present_, plan), layers_moved(present_, plan)});
  }

  /// The number of micro-batches with the shortest step; 0: none fits.
  int best_micro_batches(PipelinePlan plan) const {
    int best = 0;
    double least = 0;
    for (const int m : simulator_.micro_batch_choices(static_cast<int>(plan.ranks.size()))) {
      plan.micro_batches = m;
      if (!simulator_.fits(plan)) continue;
      const double step = simulator_.step_s(plan, factors_);
      if (best == 0 || step < least) {
        best = m;
        least = step;
      }
    }
    return best;
  }

  std::vector<Candidate> options;

 private:
  const PipelineSimulator& simulator_;
  const PipelinePlan& present_;
  const std::vector<double>& factors_;
};

/// The ranks without the slowest, where that is far behind the others; else empty.
std::vector<int> without_slowest(const std::vector<int>& ranks,
                                 const std::vector<double>& factors) {
  if (ranks.size() < 3) return {};
  std::vector<double> sorted;
  for (const int rank : ranks) sorted.push_back(factors[static_cast<std::size_t>(rank)]);
  std::sort(sorted.begin(), sorted.end());
  if (sorted.back() < kEvictFactor * sorted[sorted.size() / 2]) return {};
  std::vector<int> left;
  for (const int rank : ranks) {
    if (factors[static_cast<std::size_t>(rank)] < sorted.back()) left.push_back(rank);
  }
  return left.size() + 1 == ranks.size() ? left : std::vector<int>();
}
}  // namespace

std::vector<Candidate> candidates(const PipelineSimulator& simulator, const PipelinePlan& present,
                                  const std::vector<double>& factors) {
  Collector collector(simulator, present, factors);
  const Partition best = simulator.best_partition(present.micro_batches, present.ranks, factors);
  if (!best.first.empty()) {
    const PipelinePlan cut{best, present.micro_batches, present.ranks};
    collector.add(cut, "boundaries");
    for (const int most : {1, 2}) {
      collector.add({towards(present.partition, best, most), present.micro_batches, present.ranks},
                    "boundaries");
    }
    if (const int m = collector.best_micro_batches(cut)) {
      const Partition exact = simulator.best_partition(m, present.ranks, factors);
      collector.add({best, m, present.ranks}, "micro-batches");
      collector.add({exact, m, present.ranks}, "micro-batches");
    }
  }
  if (const int m = collector.best_micro_batches(present)) {
    collector.add({present.partition, m, present.ranks}, "micro-batches");
  }
  const std::vector<int> left = without_slowest(present.ranks, factors);
  if (!left.empty() && simulator.schedule(static_cast<int>(left.size()), present.micro_batches)) {
    PipelinePlan fewer{simulator.best_partition(present.micro_batches, left, factors),
                       present.micro_batches, left};
    collector.add(fewer, "evict");
    if (!fewer.partition.first.empty()) {
      if (const int m = collector.best_micro_batches(fewer)) {
        collector.add({simulator.best_partition(m, left, factors), m, left}, "evict");
      }
    }
  }
  return std::move(collector.options);
}

}  // namespace pipemark
