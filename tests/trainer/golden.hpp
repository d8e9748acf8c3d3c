// Golden values of a tiny GPT (scripts/golden/gpt_gradients.py: PyTorch, float64) and the bound
// within which fp32 gradients must agree with them.
//
// Bound of a tensor's error, in the Euclidean norm:
//   |g - g*| <= kFactor eps sqrt(n) (|g*| + kFloor G sqrt(size)),   n = layers 16 + B T
// eps = 2^-24, the unit roundoff; n counts the roundings that follow one another: about 16 in a
// layer (sums over C = 8 channels each way) and the sum over the B T rows of the batch; independent
// roundings add up as sqrt(n). A gradient is also a sum of parts that cancel, and their roundings
// don't: G, the root mean square of all the model's gradient elements, stands for those parts.
// kFactor covers the norms' statistics.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/config.hpp"
#include "trainer/parameters.hpp"

namespace pipemark::golden {

inline constexpr double kUnitRoundoff = 0x1p-24;
inline constexpr double kFactor = 2;
inline constexpr double kFloor = 0.01;

struct Golden {
  ModelConfig model;
  TrainConfig train;  ///< steps, batch, optimizer, seed; micro_batches is left to the test
  std::string text;   ///< path of the training bytes (format "bytes", validation_fraction 0)
  std::vector<std::int32_t> tokens, targets;    ///< of step 0, [batch, T]
  std::vector<NamedTensor> weights, gradients;  ///< initial; of step 0, before clipping
  double loss = 0;                              ///< of step 0
  std::vector<double> losses, gradient_norms;   ///< of 20 AdamW steps
};

inline std::string folder() { return std::string(PIPEMARK_GOLDEN_DIR) + "/gpt/"; }
inline std::string moe_folder() { return std::string(PIPEMARK_GOLDEN_DIR) + "/moe/"; }

inline std::vector<float> read_floats(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::vector<float> floats(static_cast<std::size_t>(file.tellg()) / sizeof(float));
  file.seekg(0).read(reinterpret_cast<char*>(floats.data()),
                     static_cast<std::streamsize>(floats.size() * sizeof(float)));
  return floats;
}

inline void read_settings(const nlohmann::json& index, Golden& golden) {
  const auto& model = index.at("model");
  golden.model.preset = "golden";
  model.at("layers").get_to(golden.model.layers);
  model.at("channels").get_to(golden.model.channels);
  model.at("heads").get_to(golden.model.heads);
  model.at("context").get_to(golden.model.context);
  model.at("vocabulary").get_to(golden.model.vocabulary);
  const auto& train = index.at("train");
  train.at("steps").get_to(golden.train.steps);
  train.at("batch").get_to(golden.train.batch);
  train.at("learning_rate").get_to(golden.train.learning_rate);
  train.at("warmup_steps").get_to(golden.train.warmup_steps);
  train.at("final_learning_rate_fraction").get_to(golden.train.final_learning_rate_fraction);
  train.at("weight_decay").get_to(golden.train.weight_decay);
  train.at("beta1").get_to(golden.train.beta1);
  train.at("beta2").get_to(golden.train.beta2);
  train.at("epsilon").get_to(golden.train.epsilon);
  train.at("clip").get_to(golden.train.clip);
  train.at("seed").get_to(golden.train.seed);
}

inline Golden load(bool tied) {
  std::ifstream file(folder() + "golden.json");
  if (!file) throw std::runtime_error("cannot read " + folder() + "golden.json");
  const auto index = nlohmann::json::parse(file);
  const std::vector<float> floats = read_floats(folder() + "golden.bin");
  Golden golden;
  read_settings(index, golden);
  golden.model.tied = tied;
  golden.text = folder() + "text.bin";
  index.at("tokens").get_to(golden.tokens);
  index.at("targets").get_to(golden.targets);
  const auto& one = index.at("cases").at(tied ? "tied" : "untied");
  one.at("loss").get_to(golden.loss);
  one.at("losses").get_to(golden.losses);
  one.at("gradient_norms").get_to(golden.gradient_norms);

  const auto cut = [&](const nlohmann::json& tensor, const char* key) {
    const auto at = floats.begin() + tensor.at(key).get<std::ptrdiff_t>();
    return NamedTensor{tensor.at("name"), {at, at + tensor.at("size").get<std::ptrdiff_t>()}};
  };
  for (const auto& tensor : one.at("tensors")) golden.gradients.push_back(cut(tensor, "gradient"));
  // The tied model starts from the untied one's weights; they are stored there.
  for (const auto& tensor : index.at("cases").at("untied").at("tensors")) {
    if (tied && tensor.at("name") == "head/weight") continue;
    golden.weights.push_back(cut(tensor, "weight"));
  }
  return golden;
}

/// Of a mixture-of-experts GPT (scripts/golden/moe_gradients.py), the same text.
struct MoeGolden : Golden {
  std::vector<std::vector<float>> loads;   ///< of step 0, by block and expert
  std::vector<std::vector<float>> biases;  ///< after the last step
  int capacity_group = 0;                  ///< sequences whose rows share an expert's capacity
};

/// `name`: "bias", "auxiliary", "top1" or "capacity".
inline MoeGolden load_moe(const std::string& name) {
  std::ifstream file(moe_folder() + "golden.json");
  if (!file) throw std::runtime_error("cannot read " + moe_folder() + "golden.json");
  const auto index = nlohmann::json::parse(file);
  const std::vector<float> floats = read_floats(moe_folder() + "golden.bin");
  MoeGolden golden;
  read_settings(index, golden);
  golden.text = folder() + "text.bin";
  index.at("tokens").get_to(golden.tokens);
  index.at("targets").get_to(golden.targets);
  index.at("capacity_group").get_to(golden.capacity_group);
  index.at("model").at("experts").get_to(golden.model.experts);
  index.at("model").at("expert_hidden").get_to(golden.model.expert_hidden);
  const auto& one = index.at("cases").at(name);
  one.at("router").get_to(golden.model.router);
  one.at("top_k").get_to(golden.model.top_k);
  one.at("bias_speed").get_to(golden.model.bias_speed);
  one.at("auxiliary_scale").get_to(golden.model.auxiliary_scale);
  one.at("capacity_factor").get_to(golden.model.capacity_factor);
  one.at("loss").get_to(golden.loss);
  one.at("losses").get_to(golden.losses);
  one.at("gradient_norms").get_to(golden.gradient_norms);
  one.at("loads").get_to(golden.loads);
  one.at("biases").get_to(golden.biases);
  for (const auto& tensor : one.at("tensors")) {
    const auto at = floats.begin() + tensor.at("gradient").get<std::ptrdiff_t>();
    golden.gradients.push_back(
        {tensor.at("name"), {at, at + tensor.at("size").get<std::ptrdiff_t>()}});
  }
  return golden;
}

inline double norm(const std::vector<float>& values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  return std::sqrt(sum);
}

/// The golden training, on a pipeline of `ranks`.
inline RunConfig run_of(const Golden& golden, const std::string& schedule, int ranks) {
  RunConfig run;
  run.model = golden.model;
  run.train = golden.train;
  run.train.validation_batches = 0;
  run.train.wait_timeout_s = 30;
  run.data = {golden.text, "bytes", 0.0};
  run.parallel.pipeline = ranks;
  run.schedule.name = schedule;
  return run;
}

/// One line for each tensor that is missing, doubled, of another size or outside the bound; empty:
/// equal. `actual` is any range of {name, values}, in any order. `worst` gets the largest error as
/// a share of its bound. `units` widens the bound by another arithmetic's unit roundoff over
/// fp32's.
template <class Tensors>
std::string compare_gradients(const Tensors& actual, const Golden& golden, double* worst = nullptr,
                              double units = 1) {
  double squares = 0, elements = 0;
  for (const NamedTensor& tensor : golden.gradients) {
    squares += std::pow(norm(tensor.values), 2);
    elements += static_cast<double>(tensor.values.size());
  }
  const double G = std::sqrt(squares / elements);
  const double n = 16.0 * (golden.model.layers + 2) + static_cast<double>(golden.tokens.size());
  const double unit = kFactor * units * kUnitRoundoff * std::sqrt(n);

  std::map<std::string, const std::vector<float>*> by_name;
  std::string wrong;
  for (const auto& tensor : actual) {
    if (!by_name.emplace(tensor.name, &tensor.values).second) wrong += tensor.name + ": twice\n";
  }
  if (worst != nullptr) *worst = 0;
  for (const NamedTensor& expected : golden.gradients) {
    const auto found = by_name.find(expected.name);
    const std::size_t size = expected.values.size();
    if (found == by_name.end() || found->second->size() != size) {
      wrong += expected.name + ": missing, or of another size\n";
      continue;
    }
    std::vector<float> error(size);
    for (std::size_t i = 0; i < size; ++i) error[i] = (*found->second)[i] - expected.values[i];
    const double bound =
        unit * (norm(expected.values) + kFloor * G * std::sqrt(static_cast<double>(size)));
    const double share = norm(error) / bound;
    if (worst != nullptr) *worst = std::max(*worst, share);
    if (!(share <= 1)) {  // also when it is NaN
      wrong += expected.name + ": error " + std::to_string(share) + " times its bound\n";
    }
  }
  if (by_name.size() > golden.gradients.size()) wrong += "more tensors than the golden model's\n";
  return wrong;
}

/// Of a mean loss near ln V: n roundings of relative size eps, as above, after none and after 20
/// AdamW steps (the settings are tame, so that rounding does not grow from step to step). A step
/// with a wrong learning rate, clip or moment is outside (golden_gradients_test.cpp tries them).
inline double loss_bound(const Golden& golden, double units = 1) {
  const double n = 16.0 * (golden.model.layers + 2) + static_cast<double>(golden.tokens.size());
  return kFactor * units * kUnitRoundoff * std::sqrt(n) * std::log(golden.model.vocabulary);
}

}  // namespace pipemark::golden
