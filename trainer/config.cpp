// Presets, counts of a model, and the checks of values. Sizes of the presets are GPT-2's (Radford
// et al., 2019, table 2; 350M is its 345M).
#include "trainer/config.hpp"

#include <array>

#include "kernels/check.hpp"
#include "trainer/nearest_name.hpp"

namespace pipemark {

namespace {
const std::vector<ModelConfig>& presets() {
  static const std::vector<ModelConfig> list = {
      {"tiny", 4, 64, 4, 64, 256, true},          {"gpt2-124m", 12, 768, 12, 1024, 50257, true},
      {"350m", 24, 1024, 16, 1024, 50257, true},  {"774m", 36, 1280, 20, 1024, 50257, true},
      {"1558m", 48, 1600, 25, 1024, 50257, true},
  };
  return list;
}

/// Four matrices (12 C^2), their biases (9 C) and two LayerNorms (4 C). With experts, of which
/// `experts` count, the MLP's are the router (E C, its bias E) and theirs (2 C Hd + C + Hd each).
std::int64_t block_parameters(const ModelConfig& model, int experts) {
  const std::int64_t C = model.channels, Hd = model.hidden_of_expert();
  if (!model.has_experts()) return 12 * C * C + 13 * C;
  return 4 * C * C + 8 * C + model.experts * (C + 1) + experts * (2 * C * Hd + C + Hd);
}

void require(bool right, const std::string& what, const std::string& hint) {
  if (!right) throw UserError(what, hint);
}

template <class T>
void at_least(const char* key, T value, T least) {
  require(value >= least, fmt::format("{} = {}", key, value),
          fmt::format("{} must be at least {}", key, least));
}

void within(const char* key, double value, double low, double high) {
  require(value >= low && value < high, fmt::format("{} = {}", key, value),
          fmt::format("{} must be at least {} and below {}", key, low, high));
}
}  // namespace

const std::vector<std::string>& ModelConfig::preset_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const ModelConfig& preset : presets()) list.push_back(preset.preset);
    return list;
  }();
  return names;
}

ModelConfig ModelConfig::from_preset(const std::string& name) {
  for (const ModelConfig& preset : presets()) {
    if (preset.preset == name) return preset;
  }
  throw UserError(fmt::format("model.preset = \"{}\" is not known", name),
                  fmt::format("did you mean \"{}\"? known: {}", nearest_name(name, preset_names()),
                              fmt::join(preset_names(), ", ")));
}

int ModelConfig::vocabulary_padded() const {
  constexpr int kMultiple = 128;  // GPU matrix tiles; a byte-level vocabulary needs none
  return vocabulary > 1024 ? (vocabulary + kMultiple - 1) / kMultiple * kMultiple : vocabulary;
}

std::int64_t ModelConfig::parameters() const {
  const std::int64_t C = channels, table = C * vocabulary;
  return layers * block_parameters(*this, experts) + 2 * C + C * context + (tied ? 1 : 2) * table;
}

double ModelConfig::flops_per_token() const {
  // Each parameter that a token is multiplied by: 2 FLOPs forward, 4 backward. The head's table
  // counts once; looking up a token or a position is no arithmetic. Attention: QK^T and PV are
  // 2 * 2 T C FLOPs a token and block, half of it causal, three times that with the backward.
  const double C = channels;
  const double N =
      static_cast<double>(layers * block_parameters(*this, top_k)) + 2 * C + C * vocabulary;
  return 6.0 * N + 6.0 * layers * C * context;
}

void check_model(const ModelConfig& model) {
  at_least("model.layers", model.layers, 1);
  at_least("model.channels", model.channels, 1);
  at_least("model.heads", model.heads, 1);
  at_least("model.context", model.context, 1);
  at_least("model.vocabulary", model.vocabulary, 2);
  require(model.channels % model.heads == 0,
          fmt::format("model.heads = {} does not divide model.channels = {}", model.heads,
                      model.channels),
          "a head has channels / heads elements, a whole number");
  at_least("model.experts", model.experts, 0);
  if (!model.has_experts()) return;
  at_least("model.top_k", model.top_k, 1);
  require(model.top_k <= model.experts,
          fmt::format("model.top_k = {} of model.experts = {}", model.top_k, model.experts),
          "model.top_k must be at most model.experts");
  at_least("model.expert_hidden", model.expert_hidden, 0);
  require(model.router == "bias" || model.router == "auxiliary",
          fmt::format("model.router = \"{}\" is not known", model.router),
          "use \"bias\" or \"auxiliary\"");
  at_least("model.bias_speed", model.bias_speed, 0.0);
  at_least("model.auxiliary_scale", model.auxiliary_scale, 0.0);
  at_least("model.capacity_factor", model.capacity_factor, 0.0);
  at_least("model.expert_room", model.expert_room, 0.0);
  at_least("model.router_skew", model.router_skew, 0.0);
}

void check_experts(const RunConfig& config) {
  const ModelConfig& model = config.model;
  const ParallelConfig& parallel = config.parallel;
  require(parallel.expert == 1 || model.has_experts(),
          fmt::format("parallel.expert = {}, but the model has no experts", parallel.expert),
          "set parallel.expert = 1, or model.experts");
  require(parallel.redundant_experts == 0 || model.has_experts(),
          fmt::format("parallel.redundant_experts = {}, but the model has no experts",
                      parallel.redundant_experts),
          "set parallel.redundant_experts = 0, or model.experts");
  at_least("parallel.redundant_experts", parallel.redundant_experts, 0);
  const int places = model.experts + parallel.redundant_experts;
  require(places % parallel.expert == 0,
          fmt::format("model.experts = {} and parallel.redundant_experts = {} do not divide among "
                      "parallel.expert = {} ranks",
                      model.experts, parallel.redundant_experts, parallel.expert),
          fmt::format("make their sum a multiple of {}", parallel.expert));
  at_least("balancer.expert_interval", config.balancer.expert_interval, 1);
  const std::string& balancer = config.balancer.experts;
  require(balancer == "none" || balancer == "eplb",
          fmt::format("balancer.experts = \"{}\" is not known", balancer),
          "use \"none\" or \"eplb\"");
}

void check_train(const TrainConfig& train, const ParallelConfig& parallel) {
  at_least("parallel.pipeline", parallel.pipeline, 1);
  at_least("parallel.data", parallel.data, 1);
  at_least("parallel.expert", parallel.expert, 1);
  at_least("train.steps", train.steps, 1);
  at_least("train.batch", train.batch, 1);
  at_least("train.micro_batches", train.micro_batches, 1);
  const int parts = train.micro_batches * parallel.data * parallel.expert;
  require(train.batch % parts == 0,
          fmt::format("train.batch = {} sequences do not divide into train.micro_batches = {} of "
                      "each of parallel.data = {} x parallel.expert = {} ranks",
                      train.batch, train.micro_batches, parallel.data, parallel.expert),
          fmt::format("make train.batch a multiple of {}", parts));
  at_least("train.warmup_steps", train.warmup_steps, 0);
  at_least("train.validation_batches", train.validation_batches, 0);
  require(train.learning_rate > 0, fmt::format("train.learning_rate = {}", train.learning_rate),
          "train.learning_rate must be above 0");
  within("train.beta1", train.beta1, 0, 1);
  within("train.beta2", train.beta2, 0, 1);
  require(train.epsilon > 0, fmt::format("train.epsilon = {}", train.epsilon),
          "train.epsilon must be above 0");
  at_least("train.weight_decay", train.weight_decay, 0.0);
  at_least("train.clip", train.clip, 0.0);
  require(
      train.final_learning_rate_fraction >= 0 && train.final_learning_rate_fraction <= 1,
      fmt::format("train.final_learning_rate_fraction = {}", train.final_learning_rate_fraction),
      "train.final_learning_rate_fraction must be between 0 and 1");
  require(train.wait_timeout_s > 0, fmt::format("train.wait_timeout_s = {}", train.wait_timeout_s),
          "train.wait_timeout_s must be above 0");
}

}  // namespace pipemark
