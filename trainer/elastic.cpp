#include "trainer/elastic.hpp"

#include "trainer/parameters.hpp"

namespace pipemark {

namespace {
/// First guesses of what a migration takes; the balancer corrects them by its first one.
constexpr double kMigrationS = 0.1, kBytesPerS = 1e9;

PipelineModel model_of(const ElasticView& view) {
  PipelineModel model;
  model.schedule = view.config.schedule.name;
  model.chunks = view.config.schedule.chunks;
  model.memory_limit = view.config.schedule.memory_limit;
  model.ranks = view.config.parallel.pipeline;
  model.sequences = view.plan.shape.sequences * view.plan.shape.micro_batches;
  model.capacity_bytes = view.capacity_bytes;
  model.migration_fixed_s = kMigrationS;
  model.migration_bytes_per_s = kBytesPerS;
  const double B = view.plan.shape.sequences;
  for (std::size_t layer = 0; layer < view.layers.size(); ++layer) {
    const LayerCost& cost = view.layers[layer];
    const LayerBytes bytes =
        layer_bytes(view.config.model, static_cast<int>(layer), view.element_bytes);
    const StageCost fixed = view.fixed.empty() ? StageCost{0, 0, 0} : view.fixed[layer];
    const StageCost sequence{(cost.forward_s - fixed.forward) / B,
                             (cost.input_grad_s - fixed.input_grad) / B,
                             (cost.weight_grad_s - fixed.weight_grad) / B};
    model.layers.push_back({sequence, fixed, bytes.state, bytes.activation});
  }
  if (view.pace != nullptr && view.pace->layers) {
    const double overhead = view.pace->layers->overhead_s;
    model.overhead = {overhead, overhead, overhead};
  }
  return model;
}
}  // namespace

LayerBytes layer_bytes(const ModelConfig& model, int layer, int element_bytes) {
  const double a = element_bytes, C = model.channels, T = model.context;
  LayerBytes bytes;
  for (const ParameterSpec& spec : layer_parameters(model, layer)) {
    bytes.state += static_cast<double>(spec.size) * (element_bytes == 4 ? 16 : 16 + element_bytes);
  }
  if (layer == model.layers + 1) {
    bytes.activation = T * (2 * C * a + 8 + model.vocabulary_padded() * a);
  } else if (layer > 0) {
    bytes.activation = T * (16 * C * a + 16 + 4 * model.heads);
  }
  return bytes;
}

std::unique_ptr<RunningBalancer> make_elastic_balancer(const ElasticView& view) {
  std::vector<double> factors(static_cast<std::size_t>(view.config.parallel.pipeline), 1.0);
  const std::vector<double>& speeds = view.pace != nullptr ? view.pace->speed : view.speeds;
  for (std::size_t r = 0; r < speeds.size(); ++r) factors[r] = 1 / speeds[r];
  return std::make_unique<ElasticBalancer>(
      PipelineSimulator(model_of(view)), view.plan.pipeline(), std::move(factors),
      ElasticSettings{view.config.train.steps, view.config.balancer.rl_model_update_freq},
      Policy::shipped());
}

}  // namespace pipemark
