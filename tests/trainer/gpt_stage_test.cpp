// GptStage: memory by its formula, evaluation, a padded vocabulary, and refused calls. Its numbers
// are judged against PyTorch in golden_gradients_test.
#include "trainer/gpt_stage.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/trainer/gpt_chain.hpp"
#include "trainer/random.hpp"

namespace pipemark {
namespace {

ModelConfig small_model() {
  ModelConfig model;
  model.layers = 3, model.channels = 64, model.heads = 2, model.context = 8, model.vocabulary = 64;
  return model;
}

/// What a stage takes of an arena, in bytes.
std::int64_t stage_bytes(Ops& ops, const ModelConfig& model, LayerRange layers, StageSlots slots,
                         bool checkpointing) {
  Arena planning;
  const GptScratch scratch = GptScratch::take(ops, model, 4, planning);
  const std::size_t before = planning.used_bytes();
  const GptStage stage(ops, model, layers, {4, 8, 256}, slots, checkpointing, scratch, planning);
  return static_cast<std::int64_t>(planning.used_bytes() - before);
}

TEST(GptStage, BytesOfASlotAreTheHeadersFormula) {
  const auto ops = make_ops("reference");
  const ModelConfig model = small_model();
  // B 4, T 8: N = 32; all tensors are multiples of the arena's 256 bytes but the fp32 [N].
  const std::int64_t N = 32, C = 64, H = 2, V = 64, a = 4;
  const auto rounded = [](std::int64_t bytes) { return (bytes + 255) / 256 * 256; };
  const std::int64_t block = N * 16 * C * a + 4 * rounded(4 * N) + rounded(N * 4 * H);
  const std::int64_t head = N * (2 * C + V) * a + 2 * rounded(4 * N);
  const auto growth = [&](LayerRange layers, StageSlots more, bool checkpointing) {
    StageSlots one;
    one.weights = more.weights > 0 ? 1 : 0;
    return stage_bytes(*ops, model, layers, more, checkpointing) -
           stage_bytes(*ops, model, layers, one, checkpointing);
  };
  EXPECT_EQ(growth({0, 2}, {2, 0}, false), block);
  EXPECT_EQ(growth({1, 2}, {2, 0}, false), block - N * C * a);
  EXPECT_EQ(growth({1, 4}, {3, 0}, false), 2 * (3 * block - N * C * a));
  EXPECT_EQ(growth({3, 5}, {2, 0}, false), block - N * C * a + head);
  EXPECT_EQ(growth({0, 5}, {2, 0}, false), 3 * block + head);
  EXPECT_EQ(growth({1, 4}, {1, 2}, false), 3 * 8 * N * C * a + 2 * N * C * a);
  // Checkpointing: slots are free, a deferred W keeps the recomputed activations as well.
  EXPECT_EQ(growth({1, 4}, {7, 0}, true), 0);
  EXPECT_EQ(growth({1, 4}, {7, 2}, true),
            3 * block - N * C * a + 3 * 8 * N * C * a + 2 * N * C * a);
}

class GptStageTest : public testing::Test {
 protected:
  GptStageTest() : ops_(make_ops("reference")) {
    config_.model = small_model();
    config_.train.batch = 8;
    config_.train.micro_batches = 2;
    config_.first = {0, 2, 5};
  }
  void draw_batch() {
    const CounterRandom random(1, 1);
    const auto size = static_cast<std::size_t>(config_.train.batch) *
                      static_cast<std::size_t>(config_.model.context);
    for (std::size_t i = 0; i < size; ++i) {
      const auto V = static_cast<std::uint64_t>(config_.model.vocabulary);
      tokens_.push_back(static_cast<std::int32_t>(random.below(2 * i, V)));
      targets_.push_back(static_cast<std::int32_t>(random.below(2 * i + 1, V)));
    }
  }
  std::unique_ptr<Ops> ops_;
  ChainConfig config_;
  std::vector<std::int32_t> tokens_, targets_;
};

TEST_F(GptStageTest, EvaluationGivesTheLossAndTouchesNoGradient) {
  draw_batch();
  for (const bool checkpointing : {false, true}) {
    config_.checkpointing = checkpointing;
    GptChain chain(*ops_, config_);
    const double loss = chain.gradients_of(tokens_, targets_);
    const auto gradients = chain.gradients();
    EXPECT_EQ(chain.evaluate(tokens_, targets_), loss);
    EXPECT_EQ(chain.gradients(), gradients);
    EXPECT_EQ(chain.gradients_of(tokens_, targets_), loss) << "training goes on as before";
    EXPECT_EQ(chain.gradients(), gradients);
    // Untrained: near a uniform guess, ln V.
    EXPECT_NEAR(loss, std::log(config_.model.vocabulary), 0.2);
  }
}

TEST_F(GptStageTest, APaddedVocabularyKeepsItsPaddingZero) {
  config_.model.vocabulary = 1030;  // padded to 1152
  config_.model.channels = 16;
  draw_batch();
  for (const bool tied : {true, false}) {
    config_.model.tied = tied;
    GptChain chain(*ops_, config_);
    for (int step = 1; step <= 2; ++step) {
      chain.gradients_of(tokens_, targets_);
      chain.apply(step);
    }
    const Parameters& parameters = chain.stage(1).parameters();
    const Parameter& table = parameters.list().back();
    ASSERT_EQ(table.size - table.logical_size, (1152 - 1030) * 16);
    const float* weights = parameters.weight(static_cast<int>(parameters.list().size()) - 1).f32();
    float largest = 0;
    for (std::int64_t i = 0; i < table.size; ++i) {
      if (i >= table.logical_size) {
        ASSERT_EQ(weights[i], 0) << i;
      }
      largest = std::max(largest, std::abs(weights[i]));
    }
    EXPECT_GT(largest, 0);
  }
}

TEST_F(GptStageTest, LossesAreThoseOfTheMicroBatchesThatRan) {
  draw_batch();
  GptChain chain(*ops_, config_);
  chain.begin(tokens_, targets_);
  chain.forward(1, 0);
  const std::vector<float> losses = chain.stage(1).read_losses(chain.stream());
  ASSERT_EQ(losses.size(), 2U);
  EXPECT_EQ(losses[0], 0);
  EXPECT_GT(losses[1], 1);
  EXPECT_TRUE(chain.stage(0).read_losses(chain.stream()).empty());
}

TEST_F(GptStageTest, RefusesWhatItHasNoRoomFor) {
  draw_batch();
  GptChain chain(*ops_, config_);
  chain.begin(tokens_, targets_);
  EXPECT_THROW(chain.forward(2, 0), LogicError) << "micro-batch";
  EXPECT_THROW(chain.stage(0).forward({}, 2, 0, {}, {}), LogicError) << "slot";
  EXPECT_THROW(chain.stage(0).forward({}, 0, 0, {}, {}), LogicError) << "no output";
  chain.forward(0, 0);
  EXPECT_THROW(chain.backward_input(0, 0, 0), LogicError) << "no deferred-weight slots";
  EXPECT_THROW(chain.stage(0).set_batch({}, std::span(tokens_).first(5), {}), LogicError);
  config_.model.heads = 3;
  EXPECT_THROW(GptChain(*ops_, config_), UserError);
}

}  // namespace
}  // namespace pipemark
