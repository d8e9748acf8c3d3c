// The judge is judged: its gradients against central differences of its own forward, its forward
// against formulas written another way.
//
// A central difference with step h in fp32 tensors is wrong by u |f| / h (rounding) and h^2 |f'''|
// / 6; with h = 2^-7, |f| <= 16 and third derivatives of order 1: below 2e-4. kDifference leaves 5
// times.
#include "kernels/reference.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <vector>

namespace pipemark {
namespace {

constexpr float kStep = 1.0f / 128;
constexpr double kDifference = 1e-3;

using Values = std::vector<float>;

Values random_values(std::size_t count, unsigned seed, float scale = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0, scale);
  Values values(count);
  for (float& value : values) value = normal(engine);
  return values;
}

Tensor view(Values& values) { return {values.data(), static_cast<std::int64_t>(values.size())}; }
Tensor view(std::vector<std::int32_t>& values) {
  return {values.data(), static_cast<std::int64_t>(values.size()), DType::i32};
}

/// Compares `gradient` with the central differences of sum(weight * forward()) in `x`.
void expect_gradient(Values& x, const Values& gradient, const Values& weight,
                     const std::function<Values()>& forward) {
  const auto loss = [&] {
    const Values y = forward();
    double total = 0;
    for (std::size_t i = 0; i < y.size(); ++i) total += double{y[i]} * weight[i];
    return total;
  };
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float kept = x[i];
    x[i] = kept + kStep;
    const double up = loss();
    x[i] = kept - kStep;
    const double down = loss();
    x[i] = kept;
    EXPECT_NEAR((up - down) / (2 * kStep), gradient[i], kDifference) << "element " << i;
  }
}

TEST(ReferenceTest, LayerNormGradientsAreDifferences) {
  const auto ops = make_reference_ops();
  constexpr int kRows = 3, kChannels = 5;
  Values x = random_values(15, 1), w = random_values(5, 2), b = random_values(5, 3);
  Values dy = random_values(15, 4), y(15), mean(3), rstd(3), dx(15), dw(5), db(5);
  const auto forward = [&] {
    ops->layer_norm_forward({}, view(x), view(w), view(b), view(y), view(mean), view(rstd), kRows,
                            kChannels);
    return y;
  };
  forward();
  ops->layer_norm_backward({}, view(dy), view(x), view(w), view(mean), view(rstd), {}, view(dx),
                           view(dw), view(db), kRows, kChannels);
  expect_gradient(x, dx, dy, forward);
  expect_gradient(w, dw, dy, forward);
  expect_gradient(b, db, dy, forward);
}

TEST(ReferenceTest, LinearGradientsAreDifferences) {
  const auto ops = make_reference_ops();
  const LinearShape shape{3, 4, 5};
  Values x = random_values(12, 1), w = random_values(20, 2), b = random_values(5, 3);
  Values dy = random_values(15, 4), y(15), dx(12), dw(20), db(5);
  const auto forward = [&] {
    ops->linear_forward({}, shape, view(x), view(w), view(b), view(y));
    return y;
  };
  ops->linear_backward_input({}, shape, view(dy), view(w), view(dx));
  ops->linear_backward_weight({}, shape, view(dy), view(x), view(dw), view(db));
  expect_gradient(x, dx, dy, forward);
  expect_gradient(w, dw, dy, forward);
  expect_gradient(b, db, dy, forward);
}

TEST(ReferenceTest, GeluGradientIsADifference) {
  const auto ops = make_reference_ops();
  Values x = random_values(40, 1, 2), dy = random_values(40, 2), y(40), dx(40);
  ops->gelu_backward({}, view(dy), view(x), view(dx), 40);
  expect_gradient(x, dx, dy, [&] {
    ops->gelu_forward({}, view(x), view(y), 40);
    return y;
  });
}

TEST(ReferenceTest, AttentionGradientsAreDifferences) {
  const auto ops = make_reference_ops();
  const AttentionShape shape{2, 5, 6, 2};
  Values qkv = random_values(180, 1), dout = random_values(60, 2);
  Values out(60), lse(20), dqkv(180);
  const auto forward = [&] {
    ops->attention_forward({}, shape, view(qkv), view(out), view(lse));
    return out;
  };
  forward();
  ops->attention_backward({}, shape, view(dout), view(qkv), view(out), view(lse), view(dqkv));
  expect_gradient(qkv, dqkv, dout, forward);
}

TEST(ReferenceTest, AttentionIsCausal) {
  const auto ops = make_reference_ops();
  const AttentionShape shape{1, 6, 4, 1};
  Values qkv = random_values(72, 1), out(24), lse(6), later(24);
  ops->attention_forward({}, shape, view(qkv), view(out), view(lse));
  for (int c = 0; c < 12; ++c) qkv[5 * 12 + c] += 1;  // the last token
  ops->attention_forward({}, shape, view(qkv), view(later), view(lse));
  for (int i = 0; i < 20; ++i) EXPECT_EQ(out[i], later[i]);
  EXPECT_NE(out[20], later[20]);
  for (int c = 0; c < 4; ++c) EXPECT_EQ(out[c], qkv[8 + c]);  // the first token sees itself only
}

TEST(ReferenceTest, CrossEntropyGradientIsADifference) {
  const auto ops = make_reference_ops();
  constexpr int kRows = 3, kVocabulary = 5, kPadded = 8;
  Values logits = random_values(24, 1), losses(3);
  std::vector<std::int32_t> targets{4, 0, 2};
  const Values weight(3, 0.5f);
  const auto forward = [&] {
    Values copy = logits;
    ops->softmax_cross_entropy({}, view(copy), view(targets), view(losses), kRows, kVocabulary,
                               kPadded, 0.5f, false);
    return losses;
  };
  Values gradient = logits;
  ops->softmax_cross_entropy({}, view(gradient), view(targets), view(losses), kRows, kVocabulary,
                             kPadded, 0.5f, true);
  expect_gradient(logits, gradient, weight, forward);
  targets[1] = kVocabulary;
  EXPECT_THROW(forward(), LogicError);
}

TEST(ReferenceTest, EmbeddingGradientsCountTokens) {
  const auto ops = make_reference_ops();
  std::vector<std::int32_t> tokens{2, 0, 2, 2};
  Values dx(8, 1), dwte(6), dwpe(4);
  ops->embedding_backward({}, view(tokens), view(dx), view(dwte), view(dwpe), 4, 2, 2);
  EXPECT_EQ(dwte, (Values{1, 1, 0, 0, 3, 3}));
  EXPECT_EQ(dwpe, (Values{2, 2, 2, 2}));
  tokens[3] = 3;
  EXPECT_THROW(ops->embedding_backward({}, view(tokens), view(dx), view(dwte), view(dwpe), 4, 2, 2),
               LogicError);
}

TEST(ReferenceTest, AdamWFirstStepIsTheSignTimesTheRate) {
  const auto ops = make_reference_ops();
  Values master{1, 1}, gradients{4, -4}, m(2), v(2), scale{0.25f};
  AdamWSettings settings;
  settings.learning_rate = 0.125f;
  settings.weight_decay = 0.5f;
  const std::vector<ParamRange> ranges{{0, 1, true}, {1, 1, false}};
  ops->adamw({}, view(master), view(master), view(gradients), view(m), view(v), ranges, settings,
             view(scale));
  // Bias correction makes the first step g / |g|; decay takes rate * 0.5 of the first only.
  EXPECT_NEAR(master[0], 1 - 0.0625 - 0.125, 1e-6);
  EXPECT_NEAR(master[1], 1 + 0.125, 1e-6);
}

}  // namespace
}  // namespace pipemark
