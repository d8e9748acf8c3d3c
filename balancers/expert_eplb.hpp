// DeepSeek's Expert Parallelism Load Balancer (deepseek-ai/EPLB, 2025): which experts get more
// replicas, and which device each stands on, from the load of every expert. The plan is identical
// to the published code's under PyTorch for the same input, ties and float32 rounding included
// (torch_order.hpp); scripts/golden/eplb_plans.py compares them.
//
//   hierarchical   when groups divide among nodes: 1. pack groups to nodes, 2. replicate experts
//                  inside each node, 3. pack replicas to the node's devices
//   global         else: replicate and pack over all devices, as one node with one group
//
// Packing takes the heaviest first into the lightest pack that has room; replication gives each
// next replica to the expert of the highest load a replica.
#pragma once

#include "balancers/expert_placement.hpp"

namespace pipemark {

struct ExpertGrid {
  int replicas = 0;  ///< R, of a layer
  int groups = 1;    ///< of experts that the router chooses together
  int nodes = 1;
  int gpus = 1;  ///< G, on all nodes
  bool hierarchical() const { return groups % nodes == 0; }
};

/// Throws UserError naming what doesn't divide.
void check_expert_grid(const ExpertGrid& grid, int experts);

/// loads [L, E], finite and not negative.
ExpertPlacement rebalance_experts(const Matrix<float>& loads, const ExpertGrid& grid);

}  // namespace pipemark
