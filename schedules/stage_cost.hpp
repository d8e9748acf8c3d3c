// Costs laid out as the simulators read them: one entry a (replica, stage), with the ranks that
// wait for its messages and the time these take. Memory O(R S), where CostModel has O(P S + P^2).
#pragma once

#include <vector>

#include "schedules/cost_model.hpp"
#include "schedules/schedule.hpp"

namespace pipemark {

struct PlacedStage {
  double forward = 1, input_grad = 1, weight_grad = 1;
  double forward_message = 0;   ///< to the rank of stage + 1; 0 at the last stage
  double backward_message = 0;  ///< to the rank of stage - 1; 0 at stage 0
  int rank = 0;
  int next_rank = -1, previous_rank = -1;  ///< -1 where there is none
};

struct PlacedCost {
  std::vector<PlacedStage> stages;  ///< [replica * S + stage]
  double overlap = 1;

  /// As CostModel::uniform, at any number of ranks.
  static PlacedCost uniform(const Placement& placement, StageCost whole, double message);
  static PlacedCost of(const Placement& placement, const CostModel& cost);
};

}  // namespace pipemark
