// Optimizer: AdamW on one stage's parameters, with warm-up, cosine decay and clipping by the global
// norm. The norm is a sum over the whole model, so it is made in two steps: each stage gives
// squared_norms(), the owner of the ranks sums them in model order (fp64, hence the same bits for
// every partition), and apply() takes the total. Where one stage is the whole model, clip_alone()
// does it on the device and nothing is waited for.
//
// learning_rate(step), step from 1: warm-up lr step / w, then from step w + 1 to the last a half
// cosine from lr down to final_learning_rate_fraction lr.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/clip_scale.hpp"
#include "trainer/config.hpp"
#include "trainer/parameters.hpp"

namespace pipemark {

double learning_rate(const TrainConfig& train, std::int64_t step);
/// sqrt of the sum in order: `squared` by model_index, each tensor once.
double total_norm(std::span<const double> squared);

class Optimizer {
 public:
  /// `parameters` must outlive the optimizer. Takes the squared norms and the clip factor from
  /// `arena`.
  Optimizer(Ops& ops, Parameters& parameters, const TrainConfig& train, Arena& arena);

  /// By model_index, 0 for tensors of other stages, tied copies and replicas, so that the
  /// element-wise sum over all stages of one replica counts each tensor once. Waits for the device.
  std::vector<double> squared_norms(Stream stream, int model_tensors);
  /// One AdamW step; `norm` is the global gradient norm, `step` counts from 1.
  void apply(Stream stream, double norm, std::int64_t step);
  /// Norm and clip factor of these parameters alone.
  void clip_alone(Stream stream);
  /// One AdamW step by the clip factor that clip_alone() left.
  void apply_clipped(Stream stream, std::int64_t step);
  /// After clip_alone(): one fp32 on the device.
  Tensor norm() const { return norm_; }

 private:
  Ops& ops_;
  Parameters& parameters_;
  TrainConfig train_;
  Tensor squared_, norm_, scale_;
  std::vector<float> host_squared_;
  float host_scale_ = 1;
};

}  // namespace pipemark
