// The table of cases: each operation's tensors in the order of its call.
#include "kernels/bench/op_case.hpp"

#include <cmath>

namespace pipemark {
namespace {

using Tensors = std::vector<Tensor>;
constexpr auto kAct = Storage::activation;
constexpr auto kFp32 = Storage::fp32;
constexpr auto kInt = Storage::int32;
constexpr auto kOut = Role::output;
constexpr auto kBoth = Role::in_out;
constexpr double kAttentionCondition = 4;
// e^-2u has a relative error of |2u| roundoffs, where gelu' still changes |2u| is 3 to 6.
constexpr double kGeluCondition = 3;

TensorSpec in(std::string label, std::int64_t count, double scale = 1, double mean = 0) {
  return {std::move(label), count, kAct, Role::input, scale, mean};
}
TensorSpec statistic(std::string label, std::int64_t count) {
  return {std::move(label), count, kFp32, Role::input, 0, 0};
}
TensorSpec out(std::string label, std::int64_t count, Storage storage = kAct) {
  return {std::move(label), count, storage, kOut, 0, 0};
}
TensorSpec added(std::string label, std::int64_t count, Storage storage = kFp32) {
  return {std::move(label), count, storage, kBoth, 1, 0};
}
TensorSpec ids(std::string label, std::int64_t count, int limit) {
  return {std::move(label), count, kInt, Role::input, double(limit), 0};
}

void add_embedding(std::vector<OpCase>& cases, const CaseShape& s, double act) {
  const auto rows = s.rows();
  const std::int64_t table = std::int64_t{s.vocabulary_padded} * s.channels;
  const std::int64_t places = std::int64_t{s.tokens} * s.channels, size = rows * s.channels;
  cases.push_back(
      {"embedding_forward",
       {ids("tokens", rows, s.vocabulary), in("wte", table), in("wpe", places), out("x", size)},
       {},
       [=](Ops& o, Tensors& t) {
         o.embedding_forward({}, t[0], t[1], t[2], t[3], rows, s.tokens, s.channels);
       },
       op_cost::embedding_forward(rows, s.channels, act)});
  cases.push_back({"embedding_backward",
                   {ids("tokens", rows, s.vocabulary), in("dx", size), added("dwte", table),
                    added("dwpe", places)},
                   {},
                   [=](Ops& o, Tensors& t) {
                     o.embedding_backward({}, t[0], t[1], t[2], t[3], rows, s.tokens, s.channels);
                   },
                   op_cost::embedding_backward(rows, s.channels, act),
                   double(rows)});
}

void add_layer_norm(std::vector<OpCase>& cases, const CaseShape& s, double act) {
  const auto rows = s.rows();
  const int c = s.channels;
  const std::int64_t size = rows * c;
  cases.push_back({"layer_norm_forward",
                   {in("x", size, 1, 0.5), in("w", c, 0.2, 1), in("b", c), out("y", size),
                    out("mean", rows, kFp32), out("rstd", rows, kFp32)},
                   {},
                   [=](Ops& o, Tensors& t) {
                     o.layer_norm_forward({}, t[0], t[1], t[2], t[3], t[4], t[5], rows, c);
                   },
                   op_cost::layer_norm_forward(rows, c, act),
                   double(c)});
  cases.push_back(
      {"residual_layer_norm_forward",
       {in("a", size), in("b", size), out("residual", size), in("w", c, 0.2, 1), in("bias", c),
        out("y", size), out("mean", rows, kFp32), out("rstd", rows, kFp32)},
       {},
       [=](Ops& o, Tensors& t) {
         o.residual_layer_norm_forward({}, t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], rows, c);
       },
       op_cost::residual_layer_norm_forward(rows, c, act),
       double(c)});
  // The last tensor only receives y of the forward that makes mean and rstd.
  cases.push_back({"layer_norm_backward",
                   {in("dy", size), in("x", size, 1, 0.5), in("w", c, 0.2, 1),
                    statistic("mean", rows), statistic("rstd", rows), in("dresidual", size),
                    out("dx", size), added("dw", c), added("db", c), statistic("y", size)},
                   [=](Ops& o, Tensors& t) {
                     o.layer_norm_forward({}, t[1], t[2], t[2], t[9], t[3], t[4], rows, c);
                   },
                   [=](Ops& o, Tensors& t) {
                     o.layer_norm_backward({}, t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8],
                                           rows, c);
                   },
                   op_cost::layer_norm_backward(rows, c, act),
                   double(rows + c)});
}

/// Weights are scaled by 1 / sqrt(fan-in), so that GELU sees the numbers it sees in training.
void add_linear(std::vector<OpCase>& cases, const LinearShape& s, const std::string& suffix,
                double act) {
  const std::int64_t x = s.rows * s.in, y = s.rows * s.out, w = std::int64_t{s.in} * s.out;
  const double scale = 1 / std::sqrt(double(s.in)), back = 1 / std::sqrt(double(s.out));
  cases.push_back({"linear_forward" + suffix,
                   {in("x", x), in("w", w, scale), in("b", s.out), out("y", y)},
                   {},
                   [=](Ops& o, Tensors& t) { o.linear_forward({}, s, t[0], t[1], t[2], t[3]); },
                   op_cost::linear_forward(s, act),
                   double(s.in)});
  cases.push_back({"linear_backward_input" + suffix,
                   {in("dy", y), in("w", w, back), out("dx", x)},
                   {},
                   [=](Ops& o, Tensors& t) { o.linear_backward_input({}, s, t[0], t[1], t[2]); },
                   op_cost::linear_backward_input(s, act),
                   double(s.out)});
  cases.push_back(
      {"linear_backward_weight" + suffix,
       {in("dy", y), in("x", x), added("dw", w), added("db", s.out)},
       {},
       [=](Ops& o, Tensors& t) { o.linear_backward_weight({}, s, t[0], t[1], t[2], t[3]); },
       op_cost::linear_backward_weight(s, act),
       double(s.rows)});
}

void add_gelu(std::vector<OpCase>& cases, const CaseShape& s, double act) {
  const LinearShape up{s.rows(), s.channels, s.hidden}, down{s.rows(), s.hidden, s.channels};
  const std::int64_t narrow = s.rows() * s.channels, wide = s.rows() * s.hidden;
  const std::int64_t w = std::int64_t{s.channels} * s.hidden;
  const double scale = 1 / std::sqrt(double(s.channels));
  cases.push_back(
      {"linear_gelu_forward",
       {in("x", narrow), in("w", w, scale), in("b", s.hidden), out("pre", wide), out("y", wide)},
       {},
       [=](Ops& o, Tensors& t) { o.linear_gelu_forward({}, up, t[0], t[1], t[2], t[3], t[4]); },
       op_cost::linear_gelu_forward(up, act),
       double(s.channels)});
  cases.push_back(
      {"linear_gelu_backward_input",
       {in("dy", narrow), in("w", w, scale), in("pre", wide), out("dpre", wide)},
       {},
       [=](Ops& o, Tensors& t) { o.linear_gelu_backward_input({}, down, t[0], t[1], t[2], t[3]); },
       op_cost::linear_gelu_backward_input(down, act),
       double(s.channels),
       kGeluCondition});
  cases.push_back({"gelu_forward",
                   {in("x", wide, 2), out("y", wide)},
                   {},
                   [=](Ops& o, Tensors& t) { o.gelu_forward({}, t[0], t[1], wide); },
                   op_cost::gelu_forward(wide, act)});
  cases.push_back({"gelu_backward",
                   {in("dy", wide), in("x", wide, 2), out("dx", wide)},
                   {},
                   [=](Ops& o, Tensors& t) { o.gelu_backward({}, t[0], t[1], t[2], wide); },
                   op_cost::gelu_backward(wide, act),
                   1,
                   kGeluCondition});
  cases.push_back({"residual_forward",
                   {in("a", narrow), in("b", narrow), out("out", narrow)},
                   {},
                   [=](Ops& o, Tensors& t) { o.residual_forward({}, t[0], t[1], t[2], narrow); },
                   op_cost::residual_forward(narrow, act)});
}

void add_attention(std::vector<OpCase>& cases, const CaseShape& s, double act) {
  const AttentionShape a{s.batch, s.tokens, s.channels, s.heads};
  const std::int64_t size = s.rows() * s.channels, sums = s.rows() * s.heads;
  const double terms = s.tokens + s.channels / s.heads;
  cases.push_back({"attention_forward",
                   {in("qkv", 3 * size), out("out", size), out("lse", sums, kFp32)},
                   {},
                   [=](Ops& o, Tensors& t) { o.attention_forward({}, a, t[0], t[1], t[2]); },
                   op_cost::attention_forward(a, act),
                   terms,
                   kAttentionCondition,
                   a});
  cases.push_back(
      {"attention_backward",
       {in("dout", size), in("qkv", 3 * size), in("out", size, 0), statistic("lse", sums),
        out("dqkv", 3 * size)},
       [=](Ops& o, Tensors& t) { o.attention_forward({}, a, t[1], t[2], t[3]); },
       [=](Ops& o, Tensors& t) { o.attention_backward({}, a, t[0], t[1], t[2], t[3], t[4]); },
       op_cost::attention_backward(a, act),
       terms,
       kAttentionCondition,
       a});
}

void add_loss(std::vector<OpCase>& cases, const CaseShape& s, double act) {
  const auto rows = s.rows();
  const float scale = 1.0f / float(rows);
  cases.push_back({"softmax_cross_entropy",
                   {{"logits", rows * s.vocabulary_padded, kAct, kBoth, 2, 0},
                    ids("targets", rows, s.vocabulary),
                    out("losses", rows, kFp32)},
                   {},
                   [=](Ops& o, Tensors& t) {
                     o.softmax_cross_entropy({}, t[0], t[1], t[2], rows, s.vocabulary,
                                             s.vocabulary_padded, scale, true);
                   },
                   op_cost::softmax_cross_entropy(rows, s.vocabulary_padded, act),
                   double(s.vocabulary),
                   1,
                   {},
                   s.vocabulary_padded});
  cases.push_back({"add_scaled_sum",
                   {{"x", rows, kFp32, Role::input, 1, 3}, added("sum", 1)},
                   {},
                   [=](Ops& o, Tensors& t) { o.add_scaled_sum({}, t[0], rows, scale, t[1]); },
                   op_cost::add_scaled_sum(rows),
                   double(rows)});
}

void add_optimizer(std::vector<OpCase>& cases, const CaseShape& s, double act) {
  const std::int64_t count = std::int64_t{s.channels} * s.hidden + s.hidden + 3;
  const std::int64_t matrix = std::int64_t{s.channels} * s.hidden;
  const std::vector<ParamRange> ranges{{0, matrix, true}, {matrix, count - matrix, false}};
  AdamWSettings settings;
  settings.learning_rate = 1e-2f;
  settings.step = 3;
  cases.push_back({"squared_norms",
                   {{"gradients", count, kFp32, Role::input, 1, 0}, out("squared", 2, kFp32)},
                   {},
                   [=](Ops& o, Tensors& t) { o.squared_norms({}, t[0], ranges, t[1]); },
                   op_cost::squared_norms(count),
                   double(matrix)});
  cases.push_back({"adamw",
                   {added("master", count),
                    out("weights", count),
                    {"gradients", count, kFp32, Role::input, 1, 0},
                    added("m", count),
                    {"v", count, kFp32, kBoth, 0.1, 1},
                    {"scale", 1, kFp32, Role::input, 0, 0.7}},
                   {},
                   [=](Ops& o, Tensors& t) {
                     o.adamw({}, t[0], t[1], t[2], t[3], t[4], ranges, settings, t[5]);
                   },
                   op_cost::adamw(count, act),
                   4});
  cases.push_back({"accumulate",
                   {{"x", count, kFp32, Role::input, 1, 0}, added("accumulator", count)},
                   {},
                   [=](Ops& o, Tensors& t) { o.accumulate({}, t[0], t[1], count); },
                   op_cost::accumulate(count)});
  cases.push_back({"convert",
                   {{"src", count, kFp32, Role::input, 1, 0}, out("dst", count)},
                   {},
                   [=](Ops& o, Tensors& t) { o.convert({}, t[0], t[1], count); },
                   op_cost::convert(count, act)});
}

}  // namespace

std::vector<OpCase> all_cases(const CaseShape& s, double act) {
  std::vector<OpCase> cases;
  add_embedding(cases, s, act);
  add_layer_norm(cases, s, act);
  add_linear(cases, {s.rows(), s.channels, 3 * s.channels}, "/qkv", act);
  add_linear(cases, {s.rows(), s.channels, s.channels}, "/projection", act);
  add_linear(cases, {s.rows(), s.channels, s.hidden}, "/mlp_up", act);
  add_linear(cases, {s.rows(), s.hidden, s.channels}, "/mlp_down", act);
  add_linear(cases, {s.rows(), s.channels, s.vocabulary_padded}, "/head", act);
  add_gelu(cases, s, act);
  add_attention(cases, s, act);
  add_moe_cases(cases, s, act);
  add_loss(cases, s, act);
  add_optimizer(cases, s, act);
  return cases;
}

}  // namespace pipemark
