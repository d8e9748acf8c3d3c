#include "trainer/optimizer.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace pipemark {

double learning_rate(const TrainConfig& train, std::int64_t step) {
  check(step >= 1, "learning_rate: step {} (steps count from 1)", step);
  if (step <= train.warmup_steps) {
    return train.learning_rate * static_cast<double>(step) / train.warmup_steps;
  }
  const double span = std::max(1, train.steps - train.warmup_steps);
  const double progress = std::min(1.0, static_cast<double>(step - train.warmup_steps) / span);
  const double low = train.final_learning_rate_fraction;
  return train.learning_rate *
         (low + (1 - low) * 0.5 * (1 + std::cos(std::numbers::pi * progress)));
}

double total_norm(std::span<const double> squared) {
  double sum = 0;
  for (const double value : squared) sum += value;
  return std::sqrt(sum);
}

Optimizer::Optimizer(Ops& ops, Parameters& parameters, const TrainConfig& train, Arena& arena)
    : ops_(ops), parameters_(parameters), train_(train), host_squared_(parameters.list().size()) {
  squared_ = arena.take(static_cast<std::int64_t>(host_squared_.size()), DType::f32,
                        "optimizer/squared_norms");
  norm_ = arena.take(1, DType::f32, "optimizer/norm");
  scale_ = arena.take(1, DType::f32, "optimizer/clip_factor");
}

std::vector<double> Optimizer::squared_norms(Stream stream, int model_tensors) {
  ops_.squared_norms(stream, parameters_.gradients, parameters_.ranges(), squared_);
  ops_.device().copy(stream, host_squared_.data(), squared_.data, squared_.bytes());
  ops_.device().synchronize(stream);
  std::vector<double> by_model(static_cast<std::size_t>(model_tensors), 0.0);
  for (std::size_t i = 0; i < host_squared_.size(); ++i) {
    const Parameter& parameter = parameters_.list()[i];
    if (parameter.tied_copy || parameter.replica) continue;
    by_model.at(static_cast<std::size_t>(parameter.model_index)) = host_squared_[i];
  }
  return by_model;
}

void Optimizer::apply(Stream stream, double norm, std::int64_t step) {
  host_scale_ = static_cast<float>(clip_factor(train_.clip, norm));
  ops_.device().copy(stream, scale_.data, &host_scale_, sizeof(host_scale_));
  apply_clipped(stream, step);
}

void Optimizer::clip_alone(Stream stream) {
  ops_.squared_norms(stream, parameters_.gradients, parameters_.ranges(), squared_);
  ops_.clip_scale(stream, squared_, squared_.size, train_.clip, norm_, scale_);
}

void Optimizer::apply_clipped(Stream stream, std::int64_t step) {
  AdamWSettings settings;
  settings.learning_rate = static_cast<float>(learning_rate(train_, step));
  settings.beta1 = static_cast<float>(train_.beta1);
  settings.beta2 = static_cast<float>(train_.beta2);
  settings.epsilon = static_cast<float>(train_.epsilon);
  settings.weight_decay = static_cast<float>(train_.weight_decay);
  settings.step = step;
  ops_.adamw(stream, parameters_.master, parameters_.weights, parameters_.gradients, parameters_.m,
             parameters_.v, parameters_.ranges(), settings, scale_);
}

}  // namespace pipemark
