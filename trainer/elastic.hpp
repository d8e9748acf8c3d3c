// The elastic balancer of a training run: what it must know of the run, made from the
// configuration, the layers' times and the devices' memory.
#pragma once

#include <memory>
#include <vector>

#include "balancers/elastic/elastic_balancer.hpp"
#include "trainer/pace.hpp"
#include "trainer/run_plan.hpp"

namespace pipemark {

/// Bytes of a layer: weights, gradients and moments; and activations of one sequence, as GptStage
/// takes them (gpt_stage.hpp). `element_bytes` of an activation: 4, or 2 with bf16.
struct LayerBytes {
  double state = 0, activation = 0;
};
LayerBytes layer_bytes(const ModelConfig& model, int layer, int element_bytes);

struct ElasticView {
  const RunConfig& config;
  const RunPlan& plan;                   ///< the run's first
  const std::vector<LayerCost>& layers;  ///< times of a micro-batch of the first plan
  const std::vector<StageCost>& fixed;   ///< of them what a smaller one takes too; empty: nothing
  const PaceProfile* pace;               ///< null: measured
  std::vector<double> speeds;             ///< by pipeline rank, measured; empty: alike
  int element_bytes = 4;
  std::vector<double> capacity_bytes;  ///< by pipeline rank; empty: no limit
};

/// On the rank that decides.
std::unique_ptr<RunningBalancer> make_elastic_balancer(const ElasticView& view);

}  // namespace pipemark
