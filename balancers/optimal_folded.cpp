// Placements in which a rank holds stages r and S-1-r: V (one rank a pair) and bidirectional (two
// ranks, each with both). Pairs are taken from the outside in:
//
//   layers   0 ... a | front stage | a' ...... b' | back stage | b ... L
//
// Under a time T, reached[k] holds every (a, b) that the first k pairs can leave; for given a, a'
// and b the allowed b' are a run, so a level costs O(L^2 x widest stage). T is bisected between a
// lower bound and a plan; at the end the next smaller time must be impossible.
#include <algorithm>
#include <cmath>
#include <limits>

#include "balancers/chain.hpp"

namespace pipemark::chain {

namespace {
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Holder {
  int device, live_front, live_back;
};

class Folded {
 public:
  Folded(const Sums& sums, const Placement& placement, const std::vector<int>& live)
      : sums_(sums),
        replicas_(placement.replicas),
        pairs_(placement.stages / 2),
        layers_(sums.layers()),
        holders_(static_cast<std::size_t>(pairs_)) {
    for (int rank = 0; rank < placement.ranks; ++rank) {
      Holder holder{rank, 0, 0};
      int pair = 0;
      for (const auto& [replica, stage] : placement.held_by(rank)) {
        const bool front = stage < pairs_;
        pair = front ? stage : placement.stages - 1 - stage;
        (front ? holder.live_front : holder.live_back) =
            live[static_cast<std::size_t>(replica * placement.stages + stage)];
      }
      holders_[static_cast<std::size_t>(pair)].push_back(holder);
    }
  }

  /// A partition whose ranks take at most `limit_s` and whose stages `stage_limit_s` each; empty
  /// when there is none.
  Partition within(double limit_s, double stage_limit_s = kInfinity) {
    limit_s_ = limit_s;
    stage_limit_s_ = stage_limit_s;
    const auto cells = static_cast<std::size_t>(layers_ + 1) * (layers_ + 1);
    from_.assign(static_cast<std::size_t>(pairs_), std::vector<int>());
    for (auto& level : from_) level.assign(cells, -1);
    from_[0][at(0, layers_)] = 0;
    for (int k = 0; k + 1 < pairs_; ++k) advance(k);
    return close();
  }

 private:
  std::size_t at(int a, int b) const {
    return static_cast<std::size_t>(a) * static_cast<std::size_t>(layers_ + 1) +
           static_cast<std::size_t>(b);
  }

  bool fits(int pair, int a, int front_end, int back_start, int b) const {
    for (const Holder& h : holders_[static_cast<std::size_t>(pair)]) {
      const double front_s = sums_.seconds(h.device, a, front_end);
      const double back_s = sums_.seconds(h.device, back_start, b);
      const double bytes =
          sums_.bytes(h.live_front, a, front_end) + sums_.bytes(h.live_back, back_start, b);
      if ((front_s + back_s) / replicas_ > limit_s_ || std::max(front_s, back_s) > stage_limit_s_ ||
          bytes > sums_.capacity(h.device)) {
        return false;
      }
    }
    return true;
  }

  void advance(int k) {
    const auto& now = from_[static_cast<std::size_t>(k)];
    auto& next = from_[static_cast<std::size_t>(k) + 1];
    const int rest = 2 * (pairs_ - 1 - k);  // layers that the inner stages need
    for (int a = 0; a < layers_; ++a) {
      for (int front_end = a + 1; front_end < layers_; ++front_end) {
        if (!fits(k, a, front_end, layers_, layers_)) break;
        int lowest = layers_ + 1;  // back starts from here up are marked
        for (int b = layers_; b > front_end; --b) {
          if (now[at(a, b)] < 0) continue;
          for (int start = std::min(b, lowest) - 1; start >= front_end + rest; --start) {
            if (!fits(k, a, front_end, start, b)) break;
            int& mark = next[at(front_end, start)];
            if (mark < 0) mark = static_cast<int>(at(a, b));
            lowest = start;
          }
        }
      }
    }
  }

  Partition close() const {
    const auto& last = from_[static_cast<std::size_t>(pairs_) - 1];
    for (int a = 0; a < layers_; ++a) {
      for (int b = a + 2; b <= layers_; ++b) {
        if (last[at(a, b)] < 0) continue;
        for (int middle = a + 1; middle < b; ++middle) {
          if (fits(pairs_ - 1, a, middle, middle, b)) return trace(a, middle, b);
        }
      }
    }
    return {};
  }

  Partition trace(int a, int middle, int b) const {
    Partition partition;
    auto& first = partition.first;
    first.assign(static_cast<std::size_t>(2 * pairs_) + 1, 0);
    first[static_cast<std::size_t>(pairs_)] = middle;
    for (int k = pairs_ - 1; k >= 0; --k) {
      first[static_cast<std::size_t>(k)] = a;
      first[static_cast<std::size_t>(2 * pairs_ - k)] = b;
      const int before = from_[static_cast<std::size_t>(k)][at(a, b)];
      a = before / (layers_ + 1);
      b = before % (layers_ + 1);
    }
    return partition;
  }

  const Sums& sums_;
  double limit_s_ = kInfinity, stage_limit_s_ = kInfinity;
  int replicas_, pairs_, layers_;
  std::vector<std::vector<Holder>> holders_;  ///< by pair
  std::vector<std::vector<int>> from_;  ///< [pair][(a, b)]: the (a, b) before it; -1: not reached
};

}  // namespace

bool is_folded(const Placement& placement) {
  if (placement.stages % 2 != 0) return false;
  for (int rank = 0; rank < placement.ranks; ++rank) {
    const auto held = placement.held_by(rank);
    if (held.size() != 2 || held[0].second + held[1].second != placement.stages - 1) return false;
  }
  return true;
}

namespace {
/// Of the plans with the best slowest rank, one whose longest stage is (nearly) the shortest: a
/// step fills and drains through single stages, which the objective doesn't see.
void even_out(Folded& search, Cut& best, int replicas) {
  constexpr int kHalvings = 10;
  double low = 0, high = replicas * best.bottleneck_s;
  for (int i = 0; i < kHalvings; ++i) {
    const double middle = (low + high) / 2;
    Partition found = search.within(best.bottleneck_s, middle);
    if (found.first.empty()) {
      low = middle;
    } else {
      high = middle;
      best.partition = std::move(found);
    }
  }
}
}  // namespace

Cut folded(const Sums& sums, const Placement& placement, const std::vector<int>& live,
           double lower_bound_s) {
  Folded search(sums, placement, live);
  Cut best{search.within(kInfinity), kInfinity};
  if (best.partition.first.empty()) return best;
  best.bottleneck_s = bottleneck(sums, placement, live, best.partition);
  const auto improve = [&](double limit_s) {
    Partition found = search.within(limit_s);
    if (found.first.empty()) return false;
    best = {std::move(found), 0};
    best.bottleneck_s = bottleneck(sums, placement, live, best.partition);
    return true;
  };
  constexpr double kNear = 1e-6;  // then single steps to the next plan are few
  double low = lower_bound_s;
  while (best.bottleneck_s - low > kNear * best.bottleneck_s) {
    const double middle = (low + best.bottleneck_s) / 2;
    if (!improve(middle)) low = middle;
  }
  while (best.bottleneck_s > 0 && improve(std::nextafter(best.bottleneck_s, 0.0))) {
  }
  even_out(search, best, placement.replicas);
  return best;
}

Cut descend(const Sums& sums, const Placement& placement, const std::vector<int>& live) {
  // The chain's own cut by stage, then boundaries moved while the slowest rank gets faster.
  std::vector<int> order;
  for (int s = 0; s < placement.stages; ++s) order.push_back(placement.rank_of(0, s));
  Cut best = ordered(sums, order, std::vector<int>(live.begin(), live.begin() + placement.stages));
  if (!(best.bottleneck_s < kInfinity)) return best;
  best.bottleneck_s = bottleneck(sums, placement, live, best.partition);
  for (bool better = true; better;) {
    better = false;
    for (int s = 1; s < placement.stages; ++s) {
      // One boundary, or it and all that follow up to another, moved together by one or two.
      for (int upto = s; upto < placement.stages; ++upto) {
        for (const int by : {-2, -1, 1, 2}) {
          Partition tried = best.partition;
          for (int i = s; i <= upto; ++i) tried.first[static_cast<std::size_t>(i)] += by;
          if (tried.first[static_cast<std::size_t>(s)] <=
                  tried.first[static_cast<std::size_t>(s) - 1] ||
              tried.first[static_cast<std::size_t>(upto)] >=
                  tried.first[static_cast<std::size_t>(upto) + 1]) {
            continue;
          }
          const double seconds = bottleneck(sums, placement, live, tried);
          if (seconds < best.bottleneck_s) {
            best = {std::move(tried), seconds};
            better = true;
          }
        }
      }
    }
  }
  return best;
}

}  // namespace pipemark::chain
