// Devices in any order: dynamic programming over multisets. Equal devices form a class; a state
// says how many of each class stand in front, and best[state][n] is the first n layers on them.
// Twelve different devices have 2^12 states; 32 devices of three kinds have fewer.
//
// Beyond that many states, the classes nearest in speed are merged until they fit. A merged class
// is as fast as its fastest member on each layer and as large as its largest, so its optimum is a
// lower bound; its order, with the real devices, is where a descent by swaps starts.
#include <algorithm>
#include <limits>
#include <numeric>

#include "balancers/chain.hpp"
#include "kernels/check.hpp"

namespace pipemark {

namespace {
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::size_t kMaxStates = 1 << 12;
constexpr int kMaxSwapTrials = 4000;

struct DeviceClass {
  std::vector<double> seconds;
  double capacity;
  std::vector<int> members;
  double total_s() const { return std::accumulate(seconds.begin(), seconds.end(), 0.0); }
};

std::vector<DeviceClass> classes_of(const ChainCosts& costs) {
  std::vector<DeviceClass> classes;
  for (int d = 0; d < costs.devices(); ++d) {
    const auto& row = costs.seconds[static_cast<std::size_t>(d)];
    const double capacity = costs.capacity_bytes.empty()
                                ? kInfinity
                                : costs.capacity_bytes[static_cast<std::size_t>(d)];
    const auto same = std::find_if(classes.begin(), classes.end(), [&](const DeviceClass& c) {
      return c.seconds == row && c.capacity == capacity;
    });
    if (same == classes.end()) {
      classes.push_back({row, capacity, {d}});
    } else {
      same->members.push_back(d);
    }
  }
  return classes;
}

std::size_t states_of(const std::vector<DeviceClass>& classes) {
  std::size_t states = 1;
  for (const auto& c : classes) {
    states *= c.members.size() + 1;
    if (states > (std::size_t{1} << 40)) break;
  }
  return states;
}

/// Merges until the states fit; true when it had to.
bool merge_classes(std::vector<DeviceClass>& classes) {
  std::stable_sort(classes.begin(), classes.end(),
                   [](const auto& a, const auto& b) { return a.total_s() < b.total_s(); });
  bool merged = false;
  while (states_of(classes) > kMaxStates) {
    std::size_t at = 0;
    double nearest = kInfinity;
    for (std::size_t i = 0; i + 1 < classes.size(); ++i) {
      const double ratio = classes[i + 1].total_s() / classes[i].total_s();
      // A ratio weighed by the members keeps one class from taking in everything.
      const double weighed =
          ratio * static_cast<double>(classes[i].members.size() + classes[i + 1].members.size());
      if (weighed < nearest || i == 0) nearest = weighed, at = i;
    }
    DeviceClass& into = classes[at];
    const DeviceClass& gone = classes[at + 1];
    for (std::size_t l = 0; l < into.seconds.size(); ++l) {
      into.seconds[l] = std::min(into.seconds[l], gone.seconds[l]);
    }
    into.capacity = std::max(into.capacity, gone.capacity);
    into.members.insert(into.members.end(), gone.members.begin(), gone.members.end());
    classes.erase(classes.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    merged = true;
  }
  return merged;
}

struct OrderSearch {
  const std::vector<DeviceClass>& classes;
  const chain::Sums& sums;  ///< of the classes
  const std::vector<int>& live;
  int stages, layers;
  std::size_t width;
  std::vector<std::size_t> stride;
  std::vector<double> best;
  std::vector<std::int16_t> cut;
  std::vector<std::int8_t> last;  ///< class of the last stage

  OrderSearch(const std::vector<DeviceClass>& of, const chain::Sums& class_sums,
              const std::vector<int>& live_by_stage)
      : classes(of),
        sums(class_sums),
        live(live_by_stage),
        stages(static_cast<int>(live_by_stage.size())),
        layers(class_sums.layers()),
        width(static_cast<std::size_t>(layers) + 1) {
    std::size_t states = 1;
    for (const auto& c : classes) {
      stride.push_back(states);
      states *= c.members.size() + 1;
    }
    best.assign(states * width, kInfinity);
    cut.assign(states * width, 0);
    last.assign(states * width, 0);
    best[0] = 0;
  }

  std::size_t states() const { return best.size() / width; }
  std::size_t count(std::size_t state, std::size_t c) const {
    return state / stride[c] % (classes[c].members.size() + 1);
  }

  /// The states behind `state` are done: each has one device less and so a smaller number.
  void fill(std::size_t state, double below_s) {
    int k = 0;
    for (std::size_t c = 0; c < classes.size(); ++c) k += static_cast<int>(count(state, c));
    const int held = live[static_cast<std::size_t>(k) - 1];
    double* now = best.data() + state * width;
    for (std::size_t c = 0; c < classes.size(); ++c) {
      if (count(state, c) == 0) continue;
      const double* before = best.data() + (state - stride[c]) * width;
      const int device = static_cast<int>(c);
      for (int n = k; n <= layers - (stages - k); ++n) {
        double smallest = std::min(now[n], below_s);
        for (int j = n - 1; j >= k - 1; --j) {
          const double stage_s = sums.seconds(device, j, n);
          if (stage_s >= smallest || sums.bytes(held, j, n) > sums.capacity(device)) break;
          const double largest = std::max(before[j], stage_s);
          if (largest < smallest) {
            smallest = now[n] = largest;
            cut[state * width + static_cast<std::size_t>(n)] = static_cast<std::int16_t>(j);
            last[state * width + static_cast<std::size_t>(n)] = static_cast<std::int8_t>(c);
          }
        }
      }
    }
  }

  /// Class of each stage; the best cut is remade by the caller with the real devices.
  std::vector<int> order() const {
    std::vector<int> order(static_cast<std::size_t>(stages));
    std::size_t state = states() - 1;
    for (int k = stages, n = layers; k >= 1; --k) {
      const std::size_t at = state * width + static_cast<std::size_t>(n);
      order[static_cast<std::size_t>(k) - 1] = last[at];
      n = cut[at];
      state -= stride[static_cast<std::size_t>(last[at])];
    }
    return order;
  }
};

/// Swaps of unlike devices while one makes the slowest stage faster.
chain::Cut descend_by_swaps(const chain::Sums& sums, std::vector<int>& order,
                            const std::vector<int>& live) {
  chain::Cut best = chain::ordered(sums, order, live);
  int trials = 0;
  for (bool better = true; better && trials < kMaxSwapTrials;) {
    better = false;
    for (std::size_t i = 0; i < order.size(); ++i) {
      for (std::size_t j = i + 1; j < order.size() && trials < kMaxSwapTrials; ++j, ++trials) {
        std::swap(order[i], order[j]);
        chain::Cut tried = chain::ordered(sums, order, live);
        if (tried.bottleneck_s < best.bottleneck_s) {
          best = std::move(tried);
          better = true;
        } else {
          std::swap(order[i], order[j]);
        }
      }
    }
  }
  return best;
}

}  // namespace

ChainPlan optimal_order(const ChainCosts& costs, const LiveActivations& live) {
  const int stages = costs.devices();
  // Rank r on device r: checks the costs, and is where the search starts.
  const Placement linear = Placement::linear(stages);
  const chain::Sums sums(costs);
  const auto held = live.empty() ? std::vector<int>(static_cast<std::size_t>(stages), 1) : live;
  ChainPlan plan;
  try {
    plan = optimal_partition(costs, linear, held);
  } catch (const UserError&) {
    if (costs.layers() < stages || costs.capacity_bytes.empty()) throw;
    plan.bottleneck_s = kInfinity;  // this order doesn't fit; another may
  }

  auto classes = classes_of(costs);
  const bool merged = merge_classes(classes);
  ChainCosts by_class = costs;
  by_class.seconds.clear();
  by_class.capacity_bytes.clear();
  for (const auto& c : classes) {
    by_class.seconds.push_back(c.seconds);
    by_class.capacity_bytes.push_back(c.capacity);
  }
  const chain::Sums class_sums(by_class);
  OrderSearch search(classes, class_sums, held);
  // Where the classes are the devices only something better than the order as given is of use.
  const double below_s = merged ? kInfinity : plan.bottleneck_s;
  for (std::size_t state = 1; state < search.states(); ++state) search.fill(state, below_s);
  const double found_s = search.best.back();

  if (found_s < kInfinity) {
    std::vector<int> order = search.order();
    auto left = classes;
    for (int& c : order) {
      auto& members = left[static_cast<std::size_t>(c)].members;
      c = members.front();
      members.erase(members.begin());
    }
    const chain::Cut cut =
        merged ? descend_by_swaps(sums, order, held) : chain::ordered(sums, order, held);
    if (cut.bottleneck_s < plan.bottleneck_s) {
      plan.partition = cut.partition;
      plan.device = order;
      plan.bottleneck_s = cut.bottleneck_s;
    }
  }
  if (!(plan.bottleneck_s < kInfinity)) {
    throw UserError(fmt::format("no order of {} devices and cut of {} layers {} their memory",
                                stages, costs.layers(), merged ? "was found that fits" : "fits"),
                    "use more ranks, smaller or fewer micro-batches, or activation checkpointing");
  }
  plan.lower_bound_s =
      merged ? std::min(plan.bottleneck_s, std::max(found_s, chain::work_bound(costs, 1)))
             : plan.bottleneck_s;
  return plan;
}

}  // namespace pipemark
