// What balancers need to know of the run: the layers' times, and the elastic balancer itself.
#include <algorithm>

#include "trainer/elastic.hpp"
#include "trainer/layer_times.hpp"
#include "trainer/trainer_impl.hpp"

namespace pipemark {

/// As the pace gives them, or measured where the balancer needs times.
std::vector<LayerCost> Trainer::Impl::find_layer_costs(const RunConfig& config,
                                                       const PaceProfile* pace) {
  const MicroBatchShape shape = micro_batch_shape(config);
  std::vector<LayerCost> costs = layer_parameter_costs(config.model);
  if (pace != nullptr && pace->layers) {
    const auto times = pace->layer_costs(config.model.layers + 2, shape.sequences);
    for (std::size_t layer = 0; layer < costs.size(); ++layer) {
      costs[layer].forward_s = times[layer].forward_s;
      costs[layer].input_grad_s = times[layer].input_grad_s;
      costs[layer].weight_grad_s = times[layer].weight_grad_s;
    }
    return costs;
  }
  const bool timed =
      balancer_needs_times(config.balancer.name) || (is_synthesised(config) && pace == nullptr);
  if (!timed) return costs;
  if (pace != nullptr && config.balancer.name == "elastic") {
    throw UserError(
        fmt::format("{}: its [times] don't depend on the layers of a stage, so balancer.name = "
                    "\"elastic\" could not make a step shorter",
                    pace->source),
        "give embedding_ms, block_ms and head_ms in [layers]");
  }
  costs = measure_layer_times(*ops_, config.model, shape, cluster_.world(), grid_, rank_speeds_);
  if (config.balancer.name == "elastic") fixed_costs_ = find_fixed_costs(config, costs);
  return costs;
}

/// t(B) = fixed + B t1, by the times of B and of 2 B sequences.
std::vector<StageCost> Trainer::Impl::find_fixed_costs(const RunConfig& config,
                                                       const std::vector<LayerCost>& costs) {
  MicroBatchShape twice = micro_batch_shape(config);
  twice.sequences *= 2;
  std::vector<double> speeds;
  const auto doubled =
      measure_layer_times(*ops_, config.model, twice, cluster_.world(), grid_, speeds);
  const auto fixed = [](double one, double two) { return std::clamp(2 * one - two, 0.0, one); };
  std::vector<StageCost> all;
  for (std::size_t l = 0; l < costs.size(); ++l) {
    all.push_back({fixed(costs[l].forward_s, doubled[l].forward_s),
                   fixed(costs[l].input_grad_s, doubled[l].input_grad_s),
                   fixed(costs[l].weight_grad_s, doubled[l].weight_grad_s)});
  }
  return all;
}

void Trainer::Impl::make_balancer(const PaceProfile* pace) {
  balancing_ = balancer_ != nullptr || config_.balancer.name == "elastic";
  if (!balancing_ || balancer_ != nullptr) return;
  const auto info = ops_->device().memory_info();
  // Ranks of a host share its memory; a migration needs the old and the new plan's at once.
  const int sharing = ops_->device().is_host() ? cluster_.local_size() : 1;
  std::vector<double> capacity(static_cast<std::size_t>(config_.parallel.pipeline), 0.0);
  const std::vector<double> mine{static_cast<double>(grid_.pipeline_rank),
                                 static_cast<double>(info.total_bytes) / sharing / 2};
  const auto rows = cluster_.world().gather(std::span<const double>(mine));
  if (cluster_.rank() != 0) return;
  for (const auto& row : rows) {
    double& bytes = capacity[static_cast<std::size_t>(row[0])];
    bytes = bytes == 0 ? row[1] : std::min(bytes, row[1]);
  }
  for (std::size_t r = 0; pace != nullptr && r < pace->memory_bytes.size(); ++r) {
    capacity[r] = std::min(capacity[r], pace->memory_bytes[r]);
  }
  const int element_bytes = static_cast<int>(size_of(ops_->activation_dtype()));
  own_balancer_ = make_elastic_balancer(
      {config_, plan_, layer_costs_, fixed_costs_, pace, rank_speeds_, element_bytes,
       std::move(capacity)});
  balancer_ = own_balancer_.get();
}

}  // namespace pipemark
