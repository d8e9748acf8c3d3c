// Parameters: model order, layout, and initial weights that do not depend on the partition.
#include "trainer/parameters.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "kernels/ops.hpp"
#include "trainer/initialise.hpp"

namespace pipemark {
namespace {

ModelConfig small_model(bool tied) {
  ModelConfig model;
  model.layers = 3, model.channels = 24, model.heads = 2, model.context = 10;
  model.vocabulary = 1100;  // padded to 1152
  model.tied = tied;
  return model;
}

std::vector<ParameterSpec> specs_of(const ModelConfig& model, int first, int last) {
  std::vector<ParameterSpec> specs;
  for (int layer = first; layer < last; ++layer) {
    for (ParameterSpec& spec : layer_parameters(model, layer)) specs.push_back(std::move(spec));
  }
  return specs;
}

struct Held {
  Held(Ops& ops, const std::vector<ParameterSpec>& specs) {
    Arena planning;
    Parameters(ops, specs, planning);
    arena = Arena(ops.device(), MemoryKind::device, planning.used_bytes());
    parameters = std::make_unique<Parameters>(ops, specs, arena);
  }
  Arena arena;
  std::unique_ptr<Parameters> parameters;
};

TEST(Parameters, LayoutIsAlignedAndInOrder) {
  const auto ops = make_ops("reference");
  const ModelConfig model = small_model(true);
  const Held held(*ops, specs_of(model, 0, 5));
  std::int64_t end = 0;
  for (const Parameter& parameter : held.parameters->list()) {
    EXPECT_EQ(parameter.range.offset % kParameterAlignment, 0) << parameter.name;
    EXPECT_GE(parameter.range.offset, end);
    end = parameter.range.offset + parameter.range.size;
    const bool matrix = parameter.initial == Initial::normal;
    EXPECT_EQ(parameter.range.decay, matrix) << parameter.name;
  }
  EXPECT_EQ(held.parameters->count(), model.parameters());
  EXPECT_TRUE(held.parameters->list().back().tied_copy);
  EXPECT_EQ(held.parameters->weights.data, held.parameters->master.data);  // fp32: one memory
  EXPECT_THROW(held.parameters->find("block/3/mlp/norm/bias"), LogicError);
}

TEST(Parameters, InitialWeightsDoNotDependOnThePartition) {
  const auto ops = make_ops("reference");
  for (const bool tied : {true, false}) {
    const ModelConfig model = small_model(tied);
    const Held whole(*ops, specs_of(model, 0, 5));
    whole.parameters->initialise(11);
    const auto expected = whole.parameters->read({}, whole.parameters->master);
    std::size_t next = 0;
    for (int layer = 0; layer < 5; ++layer) {
      const Held part(*ops, specs_of(model, layer, layer + 1));
      part.parameters->initialise(11);
      for (const NamedTensor& tensor : part.parameters->read({}, part.parameters->master)) {
        EXPECT_EQ(tensor, expected[next]) << tensor.name;
        ++next;
      }
    }
    EXPECT_EQ(next, expected.size());
    // The head's copy of a tied table is the embedding's, an untied table is another.
    EXPECT_EQ(expected.front().values == expected.back().values, tied);
  }
}

TEST(Parameters, InitialWeightsAreGpt2s) {
  const ModelConfig model = small_model(true);
  for (const ParameterSpec& spec : model_parameters(model)) {
    std::vector<float> values(static_cast<std::size_t>(spec.size), -1.0f), again(values.size());
    initialise(spec, 5, values);
    initialise(spec, 6, again);
    double sum = 0, squares = 0;
    const auto count = static_cast<std::size_t>(spec.logical_size);
    for (std::size_t i = 0; i < count; ++i) {
      sum += values[i];
      squares += static_cast<double>(values[i]) * values[i];
    }
    for (std::size_t i = count; i < values.size(); ++i) EXPECT_EQ(values[i], 0) << "padding";
    const auto n = static_cast<double>(count);
    if (spec.initial != Initial::normal) {
      EXPECT_EQ(values, again);
      EXPECT_EQ(sum, spec.name.ends_with("norm/weight") ? n : 0) << spec.name;
      continue;
    }
    EXPECT_NE(values, again);
    const bool residual = spec.name.ends_with("projection/weight");
    const double deviation = residual ? 0.02 / std::sqrt(6.0) : 0.02;
    // Sample mean and deviation of n normal numbers, 5 standard errors.
    EXPECT_NEAR(sum / n, 0, 5 * deviation / std::sqrt(n)) << spec.name;
    EXPECT_NEAR(std::sqrt(squares / n), deviation, 5 * deviation / std::sqrt(2 * n)) << spec.name;
    EXPECT_GT(std::set<float>(values.begin(), values.end()).size(), count * 9 / 10) << spec.name;
  }
}

}  // namespace
}  // namespace pipemark
