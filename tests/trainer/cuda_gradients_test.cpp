// The GPT on the CUDA backend (bf16) against the reference backend (fp32, which
// golden_gradients_test proves equal to PyTorch's float64): gradients of every partition, order and
// number of micro-batches within the golden bound widened to bf16's unit roundoff, and the same
// bits from every partition.
//
// The golden model's heads are too small for a GPU's attention, so the model here is its own.
#include <gtest/gtest.h>

#include "kernels/cuda/cuda_ops.hpp"
#include "tests/trainer/golden.hpp"
#include "tests/trainer/gpt_chain.hpp"
#include "trainer/random.hpp"

namespace pipemark {
namespace {

/// bf16 keeps 8 bits: unit roundoff 2^-9, in units of fp32's.
constexpr double kBf16Units = 0x1p-9 / golden::kUnitRoundoff;

struct Case {
  std::vector<int> first;
  Order order;
  bool checkpointing;
  int micro_batches;
};

class CudaGradients : public testing::Test {
 protected:
  static constexpr int kLayers = 3;

  CudaGradients() : cuda_(make_cuda_ops(0)), reference_(make_ops("reference")) {
    model_.layers = kLayers, model_.channels = 64, model_.heads = 2, model_.context = 32;
    model_.vocabulary = 200;
    train_.batch = 8, train_.seed = 5, train_.steps = 20, train_.warmup_steps = 0;
    const CounterRandom random(3, 0);
    for (int i = 0; i < train_.batch * model_.context; ++i) {
      tokens_.push_back(static_cast<std::int32_t>(random.below(2 * i, 200)));
      targets_.push_back(static_cast<std::int32_t>(random.below(2 * i + 1, 200)));
    }
  }

  ChainConfig config_of(const Case& test, bool tied) const {
    ChainConfig config{model_, train_, test.first, test.order, test.checkpointing};
    config.model.tied = tied;
    config.train.micro_batches = test.micro_batches;
    return config;
  }
  /// What compare_gradients() wants: the reference's gradients. Tokens are left out: the roundings
  /// of a batch's rows are independent of one another and their sum is fp32, so a chain of
  /// roundings is as long as the model is deep.
  golden::Golden judge(bool tied) {
    GptChain chain(*reference_, config_of({{0, kLayers + 2}, Order::full, false, 1}, tied));
    golden::Golden right;
    right.model = model_;
    right.loss = chain.gradients_of(tokens_, targets_);
    right.gradients = chain.gradients();
    return right;
  }

  std::unique_ptr<Ops> cuda_, reference_;
  ModelConfig model_;
  TrainConfig train_;
  std::vector<std::int32_t> tokens_, targets_;
};

const std::vector<Case> kCases = {{{0, 5}, Order::full, false, 1},
                                  {{0, 5}, Order::split, false, 4},
                                  {{0, 5}, Order::full, true, 2},
                                  {{0, 2, 5}, Order::one_by_one, false, 4},
                                  {{0, 1, 2, 3, 4, 5}, Order::full, false, 1},
                                  {{0, 1, 4, 5}, Order::split, true, 2}};

TEST_F(CudaGradients, WithinBf16OfTheReference) {
  double most = 0;
  for (const bool tied : {true, false}) {
    const golden::Golden right = judge(tied);
    for (const Case& test : kCases) {
      GptChain chain(*cuda_, config_of(test, tied));
      EXPECT_EQ(chain.arena().used_bytes(), chain.planned_bytes());
      const double loss = chain.gradients_of(tokens_, targets_);
      EXPECT_NEAR(loss, right.loss, golden::loss_bound(right, kBf16Units));
      double worst = 0;
      EXPECT_EQ(golden::compare_gradients(chain.gradients(), right, &worst, kBf16Units), "");
      most = std::max(most, worst);
    }
  }
  fmt::print("largest error: {:.2f} of its bound\n", most);
  EXPECT_GT(most, 0.01) << "a bound that nothing comes near proves nothing";
}

TEST_F(CudaGradients, PerturbedFail) {
  const golden::Golden right = judge(true);
  GptChain chain(*cuda_, config_of(kCases[0], true));
  chain.gradients_of(tokens_, targets_);
  const std::vector<NamedTensor> ours = chain.gradients();
  for (std::size_t i = 0; i < ours.size(); ++i) {
    // As if one of the eight sequences were counted twice.
    std::vector<NamedTensor> wrong = ours;
    for (float& value : wrong[i].values) value *= 1.125f;
    EXPECT_NE(golden::compare_gradients(wrong, right, nullptr, kBf16Units), "") << ours[i].name;
  }
}

TEST_F(CudaGradients, BitwiseOfOneStageAndOfOneRun) {
  for (const bool tied : {true, false}) {
    for (const Case& test : kCases) {
      GptChain chain(*cuda_, config_of(test, tied));
      GptChain one(*cuda_, config_of({{0, 5}, Order::full, false, test.micro_batches}, tied));
      for (int step = 1; step <= 3; ++step) {  // gradients of one step must not leak into the next
        EXPECT_EQ(chain.gradients_of(tokens_, targets_), one.gradients_of(tokens_, targets_));
        EXPECT_TRUE(chain.gradients() == one.gradients());
        EXPECT_EQ(chain.apply(step), one.apply(step));
        EXPECT_TRUE(chain.weights() == one.weights());
      }
    }
  }
}

/// Norm and clip factor made on the device give the bits of those made on the host.
TEST_F(CudaGradients, ClippingAloneIsClipping) {
  const ChainConfig config = config_of(kCases[0], true);
  GptChain host(*cuda_, config), device(*cuda_, config);
  for (int step = 1; step <= 2; ++step) {
    host.gradients_of(tokens_, targets_);
    device.gradients_of(tokens_, targets_);
    const double norm = host.apply(step);
    EXPECT_EQ(device.apply_alone(step), static_cast<float>(norm));
    EXPECT_TRUE(host.weights() == device.weights());
  }
}

}  // namespace
}  // namespace pipemark
