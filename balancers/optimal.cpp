// Costs, bounds and the choice of the search. See optimal.hpp for the table.
#include "balancers/optimal.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

#include "balancers/chain.hpp"
#include "kernels/check.hpp"

namespace pipemark {

namespace {
constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<double> prefix_sums(const std::vector<double>& values, int layers) {
  std::vector<double> sums(static_cast<std::size_t>(layers) + 1, 0.0);
  for (std::size_t i = 0; i < values.size(); ++i) sums[i + 1] = sums[i] + values[i];
  return sums;
}

void check_costs(const ChainCosts& costs, int stages) {
  const auto layers = static_cast<std::size_t>(costs.layers());
  check(costs.devices() > 0, "chain partition without devices");
  for (const auto& row : costs.seconds) {
    check(row.size() == layers, "chain partition: {} times for {} layers", row.size(), layers);
    for (const double t : row)
      check(t >= 0 && t < kInfinity, "chain partition: a layer takes {}", t);
  }
  for (const auto* bytes : {&costs.state_bytes, &costs.activation_bytes}) {
    check(bytes->empty() || bytes->size() == layers, "chain partition: {} sizes for {} layers",
          bytes->size(), layers);
  }
  check(costs.capacity_bytes.empty() || costs.capacity_bytes.size() == costs.seconds.size(),
        "chain partition: {} capacities for {} devices", costs.capacity_bytes.size(),
        costs.devices());
  if (costs.layers() < stages) {
    throw UserError(
        fmt::format("the model has {} layers (embedding, blocks, head) for {} stages",
                    costs.layers(), stages),
        "use fewer ranks or chunks, or raise model.layers: a stage needs at least one layer");
  }
}

std::vector<int> live_or_one(const LiveActivations& live, std::size_t entries) {
  if (live.empty()) return std::vector<int>(entries, 1);
  check(live.size() == entries, "chain partition: {} live counts for {} stages", live.size(),
        entries);
  return live;
}

std::vector<int> all_devices(int count) {
  std::vector<int> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  return order;
}
}  // namespace

ChainCosts ChainCosts::of(const std::vector<LayerCost>& layers, const std::vector<double>& speeds) {
  ChainCosts costs;
  for (const double speed : speeds) {
    check(speed > 0, "a device of speed {}", speed);
    std::vector<double> row;
    for (const LayerCost& layer : layers) row.push_back(layer.total_s() / speed);
    costs.seconds.push_back(std::move(row));
  }
  return costs;
}

namespace chain {

Sums::Sums(const ChainCosts& costs)
    : devices_(costs.devices()),
      layers_(costs.layers()),
      width_(static_cast<std::size_t>(layers_) + 1),
      state_(prefix_sums(costs.state_bytes, layers_)),
      activation_(prefix_sums(costs.activation_bytes, layers_)),
      capacity_(costs.capacity_bytes) {
  for (const auto& row : costs.seconds) {
    const auto sums = prefix_sums(row, layers_);
    seconds_.insert(seconds_.end(), sums.begin(), sums.end());
  }
  if (capacity_.empty()) capacity_.assign(costs.seconds.size(), kInfinity);
}

// best[k][n]: the first n layers on the first k devices. The last stage grows backwards from n;
// once it alone is as slow as the best, or too large for its device, no longer stage can be better.
Cut ordered(const Sums& sums, const std::vector<int>& order, const std::vector<int>& live) {
  const int layers = sums.layers(), stages = static_cast<int>(order.size());
  const auto width = static_cast<std::size_t>(layers) + 1;
  std::vector<double> best((static_cast<std::size_t>(stages) + 1) * width, kInfinity);
  std::vector<int> cut(best.size(), 0);
  best[0] = 0;
  for (int k = 1; k <= stages; ++k) {
    const int device = order[static_cast<std::size_t>(k) - 1];
    const int held = live[static_cast<std::size_t>(k) - 1];
    const double capacity = sums.capacity(device);
    const double* before = best.data() + static_cast<std::size_t>(k - 1) * width;
    double* now = best.data() + static_cast<std::size_t>(k) * width;
    int* from = cut.data() + static_cast<std::size_t>(k) * width;
    for (int n = k; n <= layers - (stages - k); ++n) {
      double smallest = kInfinity;
      for (int j = n - 1; j >= k - 1; --j) {
        const double last = sums.seconds(device, j, n);
        if (last >= smallest || sums.bytes(held, j, n) > capacity) break;
        const double largest = std::max(before[j], last);
        if (largest < smallest) {
          smallest = largest;
          from[n] = j;
        }
      }
      now[n] = smallest;
    }
  }
  Cut found{{}, best.back()};
  found.partition.first.assign(static_cast<std::size_t>(stages) + 1, 0);
  for (int k = stages, n = layers; k >= 1 && found.bottleneck_s < kInfinity; --k) {
    found.partition.first[static_cast<std::size_t>(k)] = n;
    n = cut[static_cast<std::size_t>(k) * width + static_cast<std::size_t>(n)];
  }
  return found;
}

// With any weights u of the layers and s(d) = max over layers of u / t(d): device d does at most
// s(d) T of the weight in a time T, so T >= sum u / sum s. Exact for devices that differ by a
// factor when u is the times of one of them. And some device must take each layer.
double work_bound(const ChainCosts& costs, int replicas) {
  double bound = 0;
  const auto layers = static_cast<std::size_t>(costs.layers());
  for (std::size_t u = 0; u < costs.seconds.size(); ++u) {
    const auto& weight = costs.seconds[u];
    if (std::find(costs.seconds.begin(), costs.seconds.begin() + static_cast<std::ptrdiff_t>(u),
                  weight) != costs.seconds.begin() + static_cast<std::ptrdiff_t>(u)) {
      continue;
    }
    double speed = 0;
    for (const auto& row : costs.seconds) {
      double fastest = 0;
      for (std::size_t l = 0; l < layers; ++l) {
        if (weight[l] > 0) fastest = std::max(fastest, weight[l] / row[l]);
      }
      speed += fastest;
    }
    const double work = std::accumulate(weight.begin(), weight.end(), 0.0);
    if (work > 0) bound = std::max(bound, work / speed);
  }
  for (std::size_t l = 0; l < layers; ++l) {
    double fastest = kInfinity;
    for (const auto& row : costs.seconds) fastest = std::min(fastest, row[l]);
    bound = std::max(bound, fastest / replicas);
  }
  constexpr double kRounding = 1 - 1e-12;  // sums of some hundred terms: far above their error
  return bound * kRounding;
}

double bottleneck(const Sums& sums, const Placement& placement, const std::vector<int>& live,
                  const Partition& partition) {
  double largest = 0;
  for (int rank = 0; rank < placement.ranks; ++rank) {
    double seconds = 0, bytes = 0;
    for (const auto& [replica, stage] : placement.held_by(rank)) {
      const int from = partition.first[static_cast<std::size_t>(stage)];
      const int to = partition.first[static_cast<std::size_t>(stage) + 1];
      const auto entry = static_cast<std::size_t>(replica * placement.stages + stage);
      seconds += sums.seconds(rank, from, to);
      bytes += sums.bytes(live[entry], from, to);
    }
    if (bytes > sums.capacity(rank)) return kInfinity;
    largest = std::max(largest, seconds / placement.replicas);
  }
  return largest;
}

}  // namespace chain

std::vector<double> rank_seconds(const ChainCosts& costs, const Placement& placement,
                                 const Partition& partition, const std::vector<int>& device) {
  check(partition.stages() == placement.stages && partition.layers() == costs.layers(),
        "a cut of {} layers into {} stages for {} layers and {} stages", partition.layers(),
        partition.stages(), costs.layers(), placement.stages);
  const chain::Sums sums(costs);
  std::vector<double> seconds(static_cast<std::size_t>(placement.ranks), 0.0);
  for (int rank = 0; rank < placement.ranks; ++rank) {
    for (const auto& [replica, stage] : placement.held_by(rank)) {
      seconds[static_cast<std::size_t>(rank)] +=
          sums.seconds(device[static_cast<std::size_t>(rank)],
                       partition.first[static_cast<std::size_t>(stage)],
                       partition.first[static_cast<std::size_t>(stage) + 1]) /
          placement.replicas;
    }
  }
  return seconds;
}

ChainPlan optimal_partition(const ChainCosts& costs, const Placement& placement,
                            const LiveActivations& live) {
  check_costs(costs, placement.stages);
  check(costs.devices() == placement.ranks, "{} devices for {} ranks", costs.devices(),
        placement.ranks);
  const auto held = live_or_one(live, placement.rank.size());
  const chain::Sums sums(costs);
  const auto order = all_devices(placement.ranks);
  const bool linear = placement.rank == order;
  const double bound = chain::work_bound(costs, placement.replicas);
  const bool proven = linear || chain::is_folded(placement);
  const chain::Cut cut = linear   ? chain::ordered(sums, order, held)
                         : proven ? chain::folded(sums, placement, held, bound)
                                  : chain::descend(sums, placement, held);
  if (!(cut.bottleneck_s < kInfinity)) {
    throw UserError(
        fmt::format("no cut of {} layers into {} stages {} the devices' memory", costs.layers(),
                    placement.stages, proven ? "fits" : "was found that fits"),
        "use more ranks, smaller or fewer micro-batches, or activation checkpointing");
  }
  return {cut.partition, order, cut.bottleneck_s,
          proven ? cut.bottleneck_s : std::min(bound, cut.bottleneck_s)};
}

}  // namespace pipemark
