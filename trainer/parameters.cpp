#include "trainer/parameters.hpp"

#include <algorithm>
#include <cmath>

#include "trainer/initialise.hpp"

namespace pipemark {

namespace {
constexpr double kDeviation = 0.02;
constexpr int kEmbeddingTensors = 2, kAttentionTensors = 6;

int block_tensors(const ModelConfig& model) {
  return model.has_experts() ? kAttentionTensors + 4 + kExpertTensors * model.experts
                             : kAttentionTensors + 6;
}
double residual_deviation(const ModelConfig& model) {
  return kDeviation / std::sqrt(2.0 * model.layers);
}

ParameterSpec matrix(std::string name, int index, std::int64_t size, std::int64_t logical,
                     double deviation = kDeviation) {
  return {std::move(name), index, size, logical, Initial::normal, deviation, true};
}
ParameterSpec vector(std::string name, int index, std::int64_t size, Initial initial) {
  return {std::move(name), index, size, size, initial, 0, false};
}

std::vector<ParameterSpec> embedding_parameters(const ModelConfig& model) {
  const std::int64_t C = model.channels, T = model.context;
  return {matrix("embedding/token/weight", 0, model.vocabulary_padded() * C, model.vocabulary * C),
          matrix("embedding/position/weight", 1, T * C, T * C)};
}

std::vector<ParameterSpec> block_parameters(const ModelConfig& model, int block) {
  const std::int64_t C = model.channels;
  const double residual = residual_deviation(model);
  std::vector<ParameterSpec> specs;
  int index = kEmbeddingTensors + block * block_tensors(model);
  const std::string path = fmt::format("block/{}/", block);
  const auto norm = [&](const char* name) {
    specs.push_back(vector(path + name + "/weight", index++, C, Initial::one));
    specs.push_back(vector(path + name + "/bias", index++, C, Initial::zero));
  };
  const auto linear = [&](const char* name, std::int64_t out, std::int64_t in, double deviation) {
    specs.push_back(matrix(path + name + "/weight", index++, out * in, out * in, deviation));
    specs.push_back(vector(path + name + "/bias", index++, out, Initial::zero));
  };
  norm("attention/norm");
  linear("attention/qkv", 3 * C, C, kDeviation);
  linear("attention/projection", C, C, residual);
  norm("mlp/norm");
  if (model.has_experts()) {
    linear("mlp/router", model.experts, C, kDeviation);
    for (int expert = 0; expert < model.experts; ++expert) {
      for (ParameterSpec& spec : expert_parameters(model, block + 1, expert)) {
        specs.push_back(std::move(spec));
      }
    }
    return specs;
  }
  linear("mlp/expand", 4 * C, C, kDeviation);
  linear("mlp/projection", C, 4 * C, residual);
  return specs;
}

std::vector<ParameterSpec> head_parameters(const ModelConfig& model) {
  const std::int64_t C = model.channels;
  int index = kEmbeddingTensors + model.layers * block_tensors(model);
  std::vector<ParameterSpec> specs;
  specs.push_back(vector("head/norm/weight", index++, C, Initial::one));
  specs.push_back(vector("head/norm/bias", index++, C, Initial::zero));
  specs.push_back(
      matrix("head/weight", index, model.vocabulary_padded() * C, model.vocabulary * C));
  if (model.tied) {
    specs.back() = embedding_parameters(model).front();
    specs.back().tied_copy = true;
  }
  return specs;
}
}  // namespace

std::vector<ParameterSpec> expert_parameters(const ModelConfig& model, int layer, int expert) {
  const std::int64_t C = model.channels, Hd = model.hidden_of_expert();
  const int block = layer - 1;
  const int index = kEmbeddingTensors + block * block_tensors(model) + kAttentionTensors + 4 +
                    kExpertTensors * expert;
  const std::string path = fmt::format("block/{}/mlp/expert/{}/", block, expert);
  std::vector<ParameterSpec> specs{
      matrix(path + "expand/weight", index, Hd * C, Hd * C),
      vector(path + "expand/bias", index + 1, Hd, Initial::zero),
      matrix(path + "projection/weight", index + 2, C * Hd, C * Hd, residual_deviation(model)),
      vector(path + "projection/bias", index + 3, C, Initial::zero)};
  for (ParameterSpec& spec : specs) spec.expert = expert;
  return specs;
}

std::vector<ParameterSpec> layer_parameters(const ModelConfig& model, int layer) {
  check(layer >= 0 && layer <= model.layers + 1, "layer {} of {}", layer, model.layers + 2);
  if (layer == 0) return embedding_parameters(model);
  return layer <= model.layers ? block_parameters(model, layer - 1) : head_parameters(model);
}

std::vector<ParameterSpec> model_parameters(const ModelConfig& model) {
  std::vector<ParameterSpec> all;
  for (int layer = 0; layer <= model.layers + 1; ++layer) {
    for (ParameterSpec& spec : layer_parameters(model, layer)) {
      if (!spec.tied_copy) all.push_back(std::move(spec));
    }
  }
  return all;
}

Parameters::Parameters(Ops& ops, const std::vector<ParameterSpec>& specs, Arena& arena)
    : ops_(ops) {
  for (const ParameterSpec& spec : specs) {
    Parameter parameter{spec, {size, spec.size, spec.decay}};
    size += (spec.size + kParameterAlignment - 1) / kParameterAlignment * kParameterAlignment;
    ranges_.push_back(parameter.range);
    list_.push_back(std::move(parameter));
  }
  const DType act = ops.activation_dtype();
  master = arena.take(size, DType::f32, "parameters/master");
  weights = act == DType::f32 ? master : arena.take(size, act, "parameters/weights");
  gradients = arena.take(size, DType::f32, "parameters/gradients");
  m = arena.take(size, DType::f32, "parameters/m");
  v = arena.take(size, DType::f32, "parameters/v");
}

int Parameters::find(const std::string& name) const {
  const auto at = std::find_if(list_.begin(), list_.end(),
                               [&](const Parameter& parameter) { return parameter.name == name; });
  check(at != list_.end(), "this stage has no parameter {}", name);
  return static_cast<int>(at - list_.begin());
}

std::int64_t Parameters::count() const {
  std::int64_t count = 0;
  for (const Parameter& parameter : list_) {
    if (!parameter.tied_copy) count += parameter.logical_size;
  }
  return count;
}

Tensor Parameters::span(const Tensor& flat, int first, int last) const {
  const ParamRange& from = ranges_.at(static_cast<std::size_t>(first));
  const ParamRange& to = ranges_.at(static_cast<std::size_t>(last));
  const std::int64_t count = to.offset + to.size - from.offset;
  if (flat.data == nullptr) return {nullptr, count, flat.dtype};  // planning
  return flat.slice(from.offset, count);
}

void Parameters::rename(int index, const ParameterSpec& spec) {
  Parameter& parameter = list_.at(static_cast<std::size_t>(index));
  check(spec.size == parameter.size && spec.decay == parameter.decay,
        "Parameters::rename: {} can't take the place of {}", spec.name, parameter.name);
  static_cast<ParameterSpec&>(parameter) = spec;
}

void Parameters::initialise(std::uint64_t seed) {
  std::vector<float> values(static_cast<std::size_t>(size), 0.0f);
  for (const Parameter& parameter : list_) {
    pipemark::initialise(parameter, seed,
                         std::span(values).subspan(static_cast<std::size_t>(parameter.range.offset),
                                                   static_cast<std::size_t>(parameter.size)));
  }
  Device& device = ops_.device();
  const Stream stream = device.stream(StreamRole::compute);
  device.copy(stream, master.data, values.data(), master.bytes());
  if (weights.data != master.data) ops_.convert(stream, master, weights, size);
  device.fill_zero(stream, gradients.data, gradients.bytes());
  device.fill_zero(stream, m.data, m.bytes());
  device.fill_zero(stream, v.data, v.bytes());
  device.synchronize(stream);  // `values` ends here
}

std::vector<NamedTensor> Parameters::read(Stream stream, const Tensor& what) const {
  check(what.size == size && what.dtype == DType::f32, "Parameters::read of another buffer");
  std::vector<NamedTensor> tensors;
  for (const Parameter& parameter : list_) {
    NamedTensor& tensor = tensors.emplace_back();
    tensor.name = parameter.name;
    tensor.values.resize(static_cast<std::size_t>(parameter.logical_size));
    const Tensor part = what.slice(parameter.range.offset, parameter.logical_size);
    ops_.device().copy(stream, tensor.values.data(), part.data, part.bytes());
  }
  ops_.device().synchronize(stream);
  return tensors;
}

Tensor Parameters::cut(const Tensor& flat, int index) const {
  const ParamRange& range = ranges_.at(static_cast<std::size_t>(index));
  if (flat.data == nullptr) return {nullptr, range.size, flat.dtype};  // planning
  return flat.slice(range.offset, range.size);
}

}  // namespace pipemark
