// The learning rate's course, the clip factor, and norms that count each tensor once. AdamW itself
// is judged against PyTorch in golden_gradients_test.
#include "trainer/optimizer.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/ops.hpp"

namespace pipemark {
namespace {

TEST(LearningRate, WarmsUpThenFallsAlongACosine) {
  TrainConfig train;
  train.steps = 110, train.warmup_steps = 10, train.learning_rate = 2.0;
  train.final_learning_rate_fraction = 0.1;
  EXPECT_DOUBLE_EQ(learning_rate(train, 1), 0.2);
  EXPECT_DOUBLE_EQ(learning_rate(train, 10), 2.0);
  EXPECT_DOUBLE_EQ(learning_rate(train, 60), 2.0 * (0.1 + 0.9 / 2));  // half-way: cos = 0
  EXPECT_DOUBLE_EQ(learning_rate(train, 110), 0.2);
  EXPECT_DOUBLE_EQ(learning_rate(train, 1000), 0.2);
  for (int step = 11; step < 110; ++step) {
    EXPECT_LT(learning_rate(train, step + 1), learning_rate(train, step));
  }
  train.warmup_steps = 0;
  EXPECT_LT(learning_rate(train, 1), 2.0);
  train.warmup_steps = 200;  // longer than the run
  EXPECT_DOUBLE_EQ(learning_rate(train, 110), 2.0 * 110 / 200);
  EXPECT_THROW(learning_rate(train, 0), LogicError);
}

TEST(ClipFactor, ScalesDownOnly) {
  EXPECT_EQ(clip_factor(1.0, 0.5), 1.0);
  EXPECT_NEAR(clip_factor(1.0, 4.0), 0.25, 1e-6);
  EXPECT_EQ(clip_factor(0, 1e9), 1.0) << "0: no clipping";
}

TEST(Optimizer, NormsCountTheTiedTableOnce) {
  const auto ops = make_ops("reference");
  ModelConfig model;
  model.layers = 1, model.channels = 8, model.heads = 1, model.context = 4, model.vocabulary = 16;
  const std::vector<ParameterSpec> head = layer_parameters(model, 2);
  Arena planning;
  Parameters planned(*ops, head, planning);
  Optimizer(*ops, planned, {}, planning);
  Arena arena(ops->device(), MemoryKind::device, planning.used_bytes());
  Parameters parameters(*ops, head, arena);
  parameters.initialise(1);
  Optimizer optimizer(*ops, parameters, {}, arena);
  for (std::int64_t i = 0; i < parameters.size; ++i) parameters.gradients.f32()[i] = 2;

  const std::vector<double> squared = optimizer.squared_norms({}, 16);
  ASSERT_EQ(squared.size(), 16U);
  for (std::size_t i = 0; i < 14; ++i) EXPECT_EQ(squared[i], 0);
  EXPECT_EQ(squared[14], 8 * 4.0);
  EXPECT_EQ(squared[15], 8 * 4.0);
  EXPECT_DOUBLE_EQ(total_norm(squared), 8.0);
}

}  // namespace
}  // namespace pipemark
