#include "balancers/balancer.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "balancers/optimal.hpp"
#include "balancers/static.hpp"
#include "kernels/check.hpp"

namespace pipemark {

const std::vector<std::string>& balancer_names() {
  static const std::vector<std::string> names{"static-even", "static-parameters", "static-cost",
                                              "optimal", "elastic"};
  return names;
}

bool balancer_needs_times(std::string_view balancer) {
  return balancer == "static-cost" || balancer == "optimal" || balancer == "elastic";
}

Partition make_partition(std::string_view balancer, const std::vector<LayerCost>& layers,
                         const Placement& placement, const RankView& view) {
  const auto& names = balancer_names();
  if (std::find(names.begin(), names.end(), balancer) == names.end()) {
    throw UserError(fmt::format("balancer.name = \"{}\" is not known", balancer),
                    fmt::format("known: {}", fmt::join(names, ", ")));
  }
  std::vector<double> times, parameters;
  for (const LayerCost& layer : layers) {
    times.push_back(layer.total_s());
    parameters.push_back(static_cast<double>(layer.parameters));
  }
  if (balancer_needs_times(balancer) &&
      std::all_of(times.begin(), times.end(), [](double t) { return t <= 0; })) {
    throw UserError(
        fmt::format("balancer \"{}\" needs measured layer times and got none", balancer),
        "train measures them before the first step; give a profile otherwise");
  }
  if (balancer == "static-even") {
    return partition_even(static_cast<int>(layers.size()), placement.stages);
  }
  if (balancer == "static-parameters") return partition_by_weight(parameters, placement.stages);
  if (balancer == "static-cost") return partition_by_weight(times, placement.stages);
  // elastic starts from the optimal cut.
  const std::vector<double> alike(static_cast<std::size_t>(placement.ranks), 1.0);
  const auto costs = ChainCosts::of(layers, view.speeds.empty() ? alike : view.speeds);
  return optimal_partition(costs, placement).partition;
}

}  // namespace pipemark
