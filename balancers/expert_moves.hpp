// A placement of experts that starts from the one in force. DeepSeek's balancer plans afresh and
// for equal devices; here bringing an expert's weights to a device that lacks them has a price, and
// devices may differ in speed:
//
//   cost of a layer = steps x s_load x max over devices (load / speed) + move_s x experts brought
//
// "steps" is how long the loads are expected to stay as they are. Two paths are walked, one from
// the placement in force and one from EPLB's plan laid over it; each step takes load off the
// slowest device by the exchange, or the extra replica, that leaves the devices it touches fastest.
// The cheapest point of both paths is taken, so the result never costs more than staying or than
// EPLB. Where groups divide among nodes, experts move inside their node only (but for EPLB's
// dealing).
#pragma once

#include "balancers/expert_eplb.hpp"

namespace pipemark {

struct MoveCosts {
  std::vector<double> speeds;   ///< by device; empty: all 1
  double seconds_per_load = 1;  ///< of a step, on a device of speed 1
  double steps = 1000;
  double move_s = 0;  ///< to bring one expert's weights to a device
};

struct ExpertChange {
  ExpertPlacement placement;
  int moved = 0;      ///< (device, expert) pairs that weren't there before
  double step_s = 0;  ///< sum over layers of the slowest device's time
  double cost_s = 0;  ///< steps x step_s + moved x move_s
};

/// What going from `current` to `next` costs.
ExpertChange cost_of_change(const Matrix<float>& loads, int gpus, const ExpertPlacement& current,
                            ExpertPlacement next, const MoveCosts& costs);

ExpertChange adapt_experts(const Matrix<float>& loads, const ExpertGrid& grid,
                           const ExpertPlacement& current, const MoveCosts& costs);

}  // namespace pipemark
