// Trainer: one training run over MPI ranks: data -> schedule -> executor -> optimizer -> report.
#pragma once

#include <functional>
#include <memory>

#include "balancers/pipeline_plan.hpp"
#include "trainer/config.hpp"
#include "trainer/pace.hpp"
#include "trainer/parameters.hpp"
#include "trainer/report.hpp"

namespace pipemark {

class Cluster;

class Trainer {
 public:
  /// Collective over the cluster's world. Checks the configuration (UserError on every rank, the
  /// same text) before any memory is taken. `pace` null: measured. `balancer`, given on all ranks
  /// or on none and asked on rank 0, may change the pipeline between steps.
  Trainer(Cluster& cluster, const RunConfig& config, const PaceProfile* pace = nullptr,
          RunningBalancer* balancer = nullptr);
  ~Trainer();

  /// Called on rank 0 after each step (progress, partial record).
  using StepCallback = std::function<void(const TrainReport& so_far)>;
  /// Trains config.train.steps steps, then the validation loss. The report is whole on rank 0 only.
  TrainReport fit(const StepCallback& after_step = {});

  /// For tests: gradients of all parameters of the model after one step's backward, gathered on
  /// rank 0 in model order (each parameter tensor once, padding removed), before clipping; empty
  /// elsewhere.
  std::vector<NamedTensor> gradients_of_step(std::int64_t step);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pipemark
