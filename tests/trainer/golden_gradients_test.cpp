// Gradients, losses and AdamW steps of a GPT cut into stages against PyTorch's golden values: any
// partition, full and split backward, checkpointing, tied and untied, micro-batches 1 to 16; and
// the same bits from every partition.
#include <gtest/gtest.h>

#include "kernels/ops.hpp"
#include "tests/trainer/golden.hpp"
#include "tests/trainer/gpt_chain.hpp"
#include "trainer/data.hpp"

namespace pipemark {
namespace {

using golden::Golden;

const Golden& golden_of(bool tied) {
  static const Golden both[2] = {golden::load(false), golden::load(true)};
  return both[tied ? 1 : 0];
}

struct Case {
  const char* backend;
  std::vector<int> first;
  Order order;
  bool checkpointing;
  int micro_batches;
};

ChainConfig chain_config(const Golden& golden, const Case& test) {
  ChainConfig config{golden.model, golden.train, test.first, test.order, test.checkpointing};
  config.train.micro_batches = test.micro_batches;
  return config;
}

std::vector<Case> cases() {
  std::vector<int> sixteen;
  for (int i = 0; i <= 16; ++i) sixteen.push_back(i);
  std::vector<Case> list;
  for (const char* backend : {"reference", "kokkos"}) {
    for (const Order order : {Order::full, Order::split, Order::one_by_one}) {
      list.push_back({backend, {0, 16}, order, false, 1});
      list.push_back({backend, {0, 16}, order, true, 4});
      list.push_back({backend, {0, 5, 16}, order, false, 2});
      list.push_back({backend, {0, 1, 9, 15, 16}, order, true, 8});
      list.push_back({backend, {0, 1, 9, 15, 16}, order, false, 16});
      list.push_back({backend, sixteen, order, true, 2});
    }
  }
  return list;
}

TEST(GoldenData, BatchAndInitialWeightsAreOurs) {
  const Golden& golden = golden_of(false);
  const Dataset data({golden.text, "bytes", 0}, golden.model, golden.train.seed);
  std::vector<std::int32_t> tokens(golden.tokens.size()), targets(tokens.size());
  data.batch(0, golden.train.batch, 0, golden.train.batch, tokens, targets);
  EXPECT_EQ(tokens, golden.tokens);
  EXPECT_EQ(targets, golden.targets);

  const auto ops = make_ops("reference");
  GptChain chain(*ops, chain_config(golden, {"reference", {0, 16}, Order::full, false, 1}));
  const std::vector<NamedTensor> weights = chain.weights();
  ASSERT_EQ(weights.size(), golden.weights.size());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    EXPECT_EQ(weights[i].name, golden.weights[i].name);
    ASSERT_EQ(weights[i].values.size(), golden.weights[i].values.size());
    for (std::size_t k = 0; k < weights[i].values.size(); ++k) {
      // Equal but for the last bit of the two libraries' logarithm and cosine.
      EXPECT_FLOAT_EQ(weights[i].values[k], golden.weights[i].values[k]);
    }
  }
}

/// Norm and clip factor made beside the parameters give the bits of those made by the ranks' sum.
TEST(GoldenLosses, ClippingAloneIsClipping) {
  const Golden& golden = golden_of(true);
  for (const char* backend : {"reference", "kokkos"}) {
    const auto ops = make_ops(backend);
    const ChainConfig config = chain_config(golden, {backend, {0, 16}, Order::full, false, 1});
    GptChain host(*ops, config), alone(*ops, config);
    for (int step = 1; step <= 3; ++step) {
      host.gradients_of(golden.tokens, golden.targets);
      alone.gradients_of(golden.tokens, golden.targets);
      const double norm = host.apply(step);
      EXPECT_EQ(alone.apply_alone(step), static_cast<float>(norm));
      EXPECT_TRUE(host.weights() == alone.weights());
    }
  }
}

class GoldenGradients : public testing::TestWithParam<Case> {};

TEST_P(GoldenGradients, EqualPyTorchs) {
  const Case& test = GetParam();
  const auto ops = make_ops(test.backend);
  for (const bool tied : {true, false}) {
    const Golden& golden = golden_of(tied);
    GptChain chain(*ops, chain_config(golden, test));
    EXPECT_EQ(chain.arena().used_bytes(), chain.planned_bytes());
    const double loss = chain.gradients_of(golden.tokens, golden.targets);
    EXPECT_NEAR(loss, golden.loss, golden::loss_bound(golden));
    double worst = 0;
    EXPECT_EQ(golden::compare_gradients(chain.gradients(), golden, &worst), "");
    RecordProperty(tied ? "worst_share_of_bound_tied" : "worst_share_of_bound_untied",
                   fmt::format("{:.2e}", worst));
  }
}

/// The same micro-batches in the same order give the same bits however the model is cut.
TEST_P(GoldenGradients, BitwiseOfOneStage) {
  const Case& test = GetParam();
  const auto ops = make_ops(test.backend);
  for (const bool tied : {true, false}) {
    const Golden& golden = golden_of(tied);
    GptChain chain(*ops, chain_config(golden, test));
    GptChain one(
        *ops,
        chain_config(golden, {test.backend, {0, 16}, Order::full, false, test.micro_batches}));
    for (int step = 1; step <= 2; ++step) {
      EXPECT_EQ(chain.gradients_of(golden.tokens, golden.targets),
                one.gradients_of(golden.tokens, golden.targets));
      EXPECT_TRUE(chain.gradients() == one.gradients());
      EXPECT_EQ(chain.apply(step), one.apply(step));
      EXPECT_TRUE(chain.weights() == one.weights());
    }
  }
}

std::string name_of(const testing::TestParamInfo<Case>& info) {
  const Case& c = info.param;
  const char* order[] = {"full", "split", "one_by_one"};
  return fmt::format("{}_stages{}_{}{}_M{}", c.backend, c.first.size() - 1,
                     order[static_cast<int>(c.order)], c.checkpointing ? "_checkpointing" : "",
                     c.micro_batches);
}
INSTANTIATE_TEST_SUITE_P(Chains, GoldenGradients, testing::ValuesIn(cases()), name_of);

TEST(GoldenBound, PerturbedGradientsFail) {
  const Golden& golden = golden_of(true);
  const auto ops = make_ops("reference");
  GptChain chain(*ops, chain_config(golden, {"reference", {0, 5, 16}, Order::split, false, 4}));
  chain.gradients_of(golden.tokens, golden.targets);
  const std::vector<NamedTensor> right = chain.gradients();
  ASSERT_EQ(golden::compare_gradients(right, golden), "");
  for (std::size_t i = 0; i < right.size(); ++i) {
    // Each tensor by itself, 1 % too large: as if one of a hundred sequences were counted twice.
    std::vector<NamedTensor> wrong = right;
    for (float& value : wrong[i].values) value *= 1.01f;
    EXPECT_NE(golden::compare_gradients(wrong, golden), "") << right[i].name;
    wrong[i] = right[i];
    wrong[i].values[0] = std::nanf("");
    EXPECT_NE(golden::compare_gradients(wrong, golden), "") << right[i].name;
  }
  std::vector<NamedTensor> fewer(right.begin() + 1, right.end());
  EXPECT_NE(golden::compare_gradients(fewer, golden), "");
}

/// The largest difference of 20 losses from PyTorch's.
double train(Ops& ops, const Golden& golden, ChainConfig config) {
  const Dataset data({golden.text, "bytes", 0}, golden.model, golden.train.seed);
  GptChain chain(ops, config);
  std::vector<std::int32_t> tokens(golden.tokens.size()), targets(tokens.size());
  double worst = 0;
  for (int step = 0; step < golden.train.steps; ++step) {
    data.batch(step, golden.train.batch, 0, golden.train.batch, tokens, targets);
    const double loss = chain.gradients_of(tokens, targets);
    worst = std::max(worst, std::abs(loss - golden.losses[static_cast<std::size_t>(step)]));
    chain.apply(step + 1);
  }
  return worst;
}

TEST(GoldenLosses, TwentyAdamWStepsEqualPyTorchs) {
  for (const char* backend : {"reference", "kokkos"}) {
    const auto ops = make_ops(backend);
    for (const bool tied : {true, false}) {
      const Golden& golden = golden_of(tied);
      const double worst = train(
          *ops, golden, chain_config(golden, {backend, {0, 1, 9, 16}, Order::split, false, 4}));
      EXPECT_LT(worst, golden::loss_bound(golden)) << backend;
      RecordProperty(std::string("worst_loss_") + backend + (tied ? "_tied" : "_untied"),
                     fmt::format("{:.2e}", worst));
    }
  }
}

TEST(GoldenLosses, AWrongOptimizerFails) {
  const auto ops = make_ops("kokkos");
  const Golden& golden = golden_of(true);
  const ChainConfig right = chain_config(golden, {"kokkos", {0, 16}, Order::full, false, 1});
  const auto worst_with = [&](auto change) {
    ChainConfig wrong = right;
    change(wrong.train);
    return train(*ops, golden, wrong);
  };
  const double bound = golden::loss_bound(golden);
  EXPECT_LT(worst_with([](TrainConfig&) {}), bound);
  EXPECT_GT(worst_with([](TrainConfig& t) { t.learning_rate *= 1.01; }), bound);
  EXPECT_GT(worst_with([](TrainConfig& t) { t.clip = 0; }), bound);
  EXPECT_GT(worst_with([](TrainConfig& t) { t.weight_decay = 0; }), bound);
  EXPECT_GT(worst_with([](TrainConfig& t) { t.beta2 = 0.96; }), bound);
  EXPECT_GT(worst_with([](TrainConfig& t) { t.warmup_steps = 5; }), bound);
  EXPECT_GT(worst_with([](TrainConfig& t) { t.final_learning_rate_fraction = 0.2; }), bound);
}

}  // namespace
}  // namespace pipemark
