// The balancers that cut a model before its first step, by name.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "balancers/partition.hpp"
#include "schedules/schedule.hpp"

namespace pipemark {

/// What is known of the ranks. Empty: all alike.
struct RankView {
  std::vector<double> speeds;  ///< by pipeline rank, 1 where a layer takes the times it is given
};

/// "static-even", "static-parameters", "static-cost", "optimal", "elastic" (its first cut).
const std::vector<std::string>& balancer_names();

/// Whether it reads the layers' times: they are then measured before the first step.
bool balancer_needs_times(std::string_view balancer);

/// A cut into placement.stages. static-cost and optimal need measured times (> 0). Throws UserError
/// naming the value and the known names.
Partition make_partition(std::string_view balancer, const std::vector<LayerCost>& layers,
                         const Placement& placement, const RankView& view = {});

}  // namespace pipemark
