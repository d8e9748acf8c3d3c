// GptStage's experts: which this rank holds, their tensors, the loads of a step and the routers'
// biases.
#include <cmath>
#include <numeric>

#include "trainer/gpt_stage.hpp"
#include "trainer/random.hpp"

namespace pipemark {

namespace {
/// Streams of CounterRandom beyond those of weights and batches.
constexpr std::uint64_t kSkewStream = std::uint64_t{1} << 40;

/// [N, E]: a Gumbel draw less skew ln(place + 1), the experts' places drawn once a layer. The
/// highest of a row is an expert with probability in proportion to (place + 1)^-skew.
std::vector<float> skewed_choices(const RouterShape& shape, double skew, int layer) {
  const CounterRandom random(1, kSkewStream + static_cast<std::uint64_t>(layer));
  const auto experts = static_cast<std::size_t>(shape.experts);
  std::vector<std::size_t> place(experts);
  std::iota(place.begin(), place.end(), 0);
  for (std::size_t e = experts; e > 1; --e) {
    std::swap(place[e - 1], place[random.below(~std::uint64_t{0} - e, e)]);
  }
  std::vector<float> bias(static_cast<std::size_t>(shape.rows) * experts);
  for (std::size_t i = 0; i < bias.size(); ++i) {
    const double uniform = random.uniform(i) + 0x1p-54;  // above 0
    const auto rank = static_cast<double>(place[i % experts] + 1);
    bias[i] = static_cast<float>(-std::log(-std::log(uniform)) - skew * std::log(rank));
  }
  return bias;
}
}  // namespace

void GptStage::take_moe(Arena& arena) {
  ExpertGroup& group = experts_.group;
  if (group.places == 0) group.places = model_.experts;
  moe_ = std::make_unique<MoeShape>(model_, shape_, group, batch_.batch_tokens);
  if (experts_.scratch == nullptr) {
    moe_scratch_ = MoeScratch::take(shape_, *moe_, ops_.activation_dtype(), arena);
    experts_.scratch = &moe_scratch_;
  }
  const int blocks = std::min(layers_.last, model_layers_ + 1) - layer_of(0);
  for (int block = 0; block < blocks; ++block) {
    maps_.push_back(ExpertMap::in_order(model_.experts, group.ranks, group.places));
    loads_.emplace_back(static_cast<std::size_t>(model_.experts), 0.0f);
    if (model_.router_skew == 0) continue;
    const Tensor table =
        skew_.emplace_back(arena.take(shape_.rows() * model_.experts, DType::f32, "block/skew"));
    if (arena.planning()) continue;
    const std::vector<float> bias =
        skewed_choices(moe_->router, model_.router_skew, layer_of(block));
    const Stream stream = ops_.device().stream(StreamRole::compute);
    ops_.device().copy(stream, table.data, bias.data(), table.bytes());
    ops_.device().synchronize(stream);  // `bias` ends here
  }
}

std::vector<ParameterSpec> GptStage::held_experts(int block) const {
  const ExpertMap& map = maps_[static_cast<std::size_t>(block)];
  std::vector<ParameterSpec> specs;
  for (int slot = 0; slot < experts_.group.slots(); ++slot) {
    const int place = experts_.group.rank * experts_.group.slots() + slot;
    for (ParameterSpec& spec : expert_parameters(model_, layer_of(block), map.expert_of(place))) {
      spec.replica = !map.is_primary(place);
      specs.push_back(std::move(spec));
    }
  }
  return specs;
}

MoeBlockLayer::Weights GptStage::moe_weights(int first, int block) const {
  const auto weight = [&](int index) {
    return Weight{parameters_->weight(index), parameters_->gradient(index)};
  };
  MoeBlockLayer::Weights weights;
  for (int i = 0; i < AttentionLayer::kWeights; ++i) weights.attention[i] = weight(first + i);
  weights.router = weight(first + AttentionLayer::kWeights);
  weights.bias = skew_.empty() ? parameters_->master_of(bias_tensor(block))
                               : skew_[static_cast<std::size_t>(block)];
  // A tensor of all slots: from the first slot's to the end of the last one's.
  const int slots = experts_.group.slots(), begin = expert_tensor(block, 0);
  const auto across = [&](int part) {
    const int last = expert_tensor(block, slots - 1) + part;
    return Weight{parameters_->span(parameters_->weights, begin + part, last),
                  parameters_->span(parameters_->gradients, begin + part, last)};
  };
  const auto& ranges = parameters_->ranges();
  const std::int64_t stride =
      slots == 1 ? 0
                 : ranges[static_cast<std::size_t>(begin + kExpertTensors)].offset -
                       ranges[static_cast<std::size_t>(begin)].offset;
  weights.experts = {across(0), across(1), across(2), across(3), stride};
  return weights;
}

void GptStage::count_loads(int block, const DispatchPlan& plan) {
  std::vector<float>& loads = loads_[static_cast<std::size_t>(block)];
  for (std::size_t i = 0; i < plan.counts.size(); ++i) {
    loads[i % loads.size()] += static_cast<float>(plan.counts[i]);
  }
}

void GptStage::finish_routers(Stream stream) {
  Device& device = ops_.device();
  const bool moves = model_.router == "bias" && model_.bias_speed > 0 && skew_.empty();
  for (int block = 0; block < moe_blocks(); ++block) {
    std::vector<float>& loads = loads_[static_cast<std::size_t>(block)];
    const int index = bias_tensor(block);
    const Tensor counted = parameters_->gradient(index), bias = parameters_->master_of(index);
    device.copy(stream, loads.data(), counted.data, counted.bytes());
    device.synchronize(stream);
    device.fill_zero(stream, counted.data, counted.bytes());
    if (!moves) continue;
    std::vector<float> values(loads.size());
    device.copy(stream, values.data(), bias.data, bias.bytes());
    device.synchronize(stream);
    double mean = 0;
    for (const float load : loads) mean += load;
    mean /= static_cast<double>(loads.size());
    for (std::size_t e = 0; e < loads.size(); ++e) {
      const double over = loads[e] - mean;
      if (over != 0)
        values[e] += static_cast<float>(over < 0 ? model_.bias_speed : -model_.bias_speed);
    }
    device.copy(stream, bias.data, values.data(), bias.bytes());
    device.synchronize(stream);  // `values` ends here
  }
}

void GptStage::rename_experts(int block) {
  int index = expert_tensor(block, 0);
  for (const ParameterSpec& spec : held_experts(block)) parameters_->rename(index++, spec);
}

Tensor GptStage::dense_gradients() const {
  return parameters_->span(parameters_->gradients, 0, first_expert_ - 1);
}

Tensor GptStage::expert_gradients() const {
  const int last = static_cast<int>(parameters_->list().size()) - 1;
  if (last < first_expert_) return {};
  return parameters_->span(parameters_->gradients, first_expert_, last);
}

double GptStage::head_flops() const {
  return has_head() ? 2.0 * static_cast<double>(shape_.elements()) * shape_.vocabulary_padded : 0;
}

double GptStage::forward_flops() const {
  double flops = head_flops();
  for (const MoeBlockLayer& block : moe_blocks_) {
    flops += block.dense_flops() + block.expert_flops(moe_->chosen());
  }
  return flops;
}

}  // namespace pipemark
