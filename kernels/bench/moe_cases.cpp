// The cases of a mixture of experts: router, moves of rows, grouped linear layers. Rows are shared
// out unevenly and one group is empty.
#include "kernels/bench/op_case.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace pipemark {
namespace {

using Tensors = std::vector<Tensor>;
constexpr auto kAct = Storage::activation;
constexpr auto kFp32 = Storage::fp32;
constexpr auto kInt = Storage::int32;
constexpr int kExperts = 8, kTopK = 2;
// Where p is near 1, dp and its mean under p cancel: dlogits' rms is about a quarter of dp's.
constexpr double kRouterCondition = 4;

TensorSpec in(std::string label, std::int64_t count, double scale = 1, Storage storage = kAct) {
  return {std::move(label), count, storage, Role::input, scale, 0};
}
TensorSpec out(std::string label, std::int64_t count, Storage storage = kAct) {
  const double limit = storage == kInt ? 1 : 0;  // filled with 0
  return {std::move(label), count, storage, Role::output, limit, 0};
}
TensorSpec added(std::string label, std::int64_t count) {
  return {std::move(label), count, kFp32, Role::in_out, 1, 0};
}
TensorSpec ids(std::string label, std::int64_t count, std::int64_t limit) {
  return {std::move(label), count, kInt, Role::input, double(limit), 0};
}

/// place[i] = a permutation of [0, count), every seventh -1: each row has one writer.
void make_places(Tensor place) {
  for (std::int64_t i = 0; i < place.size; ++i) {
    place.i32()[i] = i % 7 == 6 ? -1 : static_cast<std::int32_t>(place.size - 1 - i);
  }
}

void add_router(std::vector<OpCase>& cases, const CaseShape& s, double act, int top_k) {
  const RouterShape r{s.rows(), s.tokens, kExperts, top_k};
  const std::int64_t size = r.rows * kExperts, taken = r.rows * top_k, sequences = s.batch;
  const std::string suffix = top_k == 1 ? "/top1" : "/top2";
  cases.push_back(
      {"router_forward" + suffix,
       {in("logits", size, 2), in("bias", kExperts, 0.1, kFp32), out("probabilities", size, kFp32),
        out("chosen", taken, kInt), out("gates", taken, kFp32)},
       {},
       [=](Ops& o, Tensors& t) { o.router_forward({}, r, t[0], t[1], t[2], t[3], t[4]); },
       op_cost::router_forward(r, act),
       kExperts});
  cases.push_back(
      {"router_backward" + suffix,
       {in("logits", size, 2), in("bias", size, 0.1, kFp32), in("probabilities", size, 0, kFp32),
        ids("chosen", taken, 1), in("gates", taken, 0, kFp32), in("dgates", taken, 1, kFp32),
        in("balance", sequences * kExperts, 0.3, kFp32), out("dlogits", size)},
       [=](Ops& o, Tensors& t) { o.router_forward({}, r, t[0], t[1], t[2], t[3], t[4]); },
       [=](Ops& o, Tensors& t) { o.router_backward({}, r, t[2], t[3], t[4], t[5], t[6], t[7]); },
       op_cost::router_backward(r, act),
       double(kExperts + top_k),
       kRouterCondition});
}

void add_moves(std::vector<OpCase>& cases, const CaseShape& s, double act) {
  const std::int64_t rows = s.rows(), size = rows * s.channels, taken = rows * kTopK;
  const int C = s.channels;
  cases.push_back({"gather_rows",
                   {in("x", size), ids("index", taken, rows), out("out", taken * C)},
                   [](Ops&, Tensors& t) { t[1].i32()[0] = -1; },
                   [=](Ops& o, Tensors& t) { o.gather_rows({}, t[0], t[1], t[2], taken, C); },
                   op_cost::gather_rows(taken, C, act)});
  cases.push_back(
      {"combine_rows",
       {in("rows", taken * C), ids("place", taken, taken), in("gates", taken, 1, kFp32),
        out("y", size)},
       [](Ops&, Tensors& t) { make_places(t[1]); },
       [=](Ops& o, Tensors& t) { o.combine_rows({}, t[0], t[1], t[2], t[3], rows, kTopK, C); },
       op_cost::combine_rows(rows, kTopK, C, act),
       kTopK});
  cases.push_back(
      {"combine_rows/sum",
       {in("rows", taken * C), ids("place", taken, taken), out("y", size)},
       [](Ops&, Tensors& t) { make_places(t[1]); },
       [=](Ops& o, Tensors& t) { o.combine_rows({}, t[0], t[1], {}, t[2], rows, kTopK, C); },
       op_cost::combine_rows(rows, kTopK, C, act),
       kTopK});
  cases.push_back({"combine_rows_backward",
                   {in("dy", size),
                    in("rows", taken * C),
                    ids("place", taken, taken),
                    in("gates", taken, 1, kFp32),
                    {"drows", taken * C, kAct, Role::in_out, 1, 0},
                    out("dgates", taken, kFp32)},
                   [](Ops&, Tensors& t) { make_places(t[2]); },
                   [=](Ops& o, Tensors& t) {
                     o.combine_rows_backward({}, t[0], t[1], t[2], t[3], t[4], t[5], rows, kTopK,
                                             C);
                   },
                   op_cost::combine_rows_backward(rows, kTopK, C, act),
                   double(C)});
}

/// The groups' weights lie `stride` apart: weight, then bias, then the gap to a multiple of 8.
void add_grouped(std::vector<OpCase>& cases, const CaseShape& s, double act) {
  const std::int64_t rows = s.rows(), part = rows / 4;
  const auto offsets = std::make_shared<std::vector<std::int64_t>>(
      std::vector<std::int64_t>{0, part, part, 3 * part, rows});
  const int C = s.channels, H = s.hidden;
  const std::int64_t groups = 4, stride = (std::int64_t{C} * H + 7) / 8 * 8;
  const std::int64_t narrow = rows * C, wide = rows * H, w = groups * stride;
  const auto shape = [=](int from, int to) { return GroupedShape{*offsets, from, to, stride}; };
  const LinearShape all{rows, C, H};
  const double scale = 1 / std::sqrt(double(C));
  const double terms = C + H;
  cases.push_back({"grouped_linear_forward",
                   {in("x", wide), in("w", w, scale), in("b", w), out("y", narrow)},
                   {},
                   [=](Ops& o, Tensors& t) {
                     o.grouped_linear_forward({}, shape(H, C), t[0], t[1], t[2], t[3]);
                   },
                   op_cost::linear_forward(all, act),
                   terms});
  cases.push_back(
      {"grouped_linear_gelu_forward",
       {in("x", narrow), in("w", w, scale), in("b", w), out("pre", wide), out("y", wide)},
       {},
       [=](Ops& o, Tensors& t) {
         o.grouped_linear_gelu_forward({}, shape(C, H), t[0], t[1], t[2], t[3], t[4]);
       },
       op_cost::linear_gelu_forward(all, act),
       terms});
  cases.push_back({"grouped_linear_backward_input",
                   {in("dy", wide), in("w", w, scale), out("dx", narrow)},
                   {},
                   [=](Ops& o, Tensors& t) {
                     o.grouped_linear_backward_input({}, shape(C, H), t[0], t[1], t[2]);
                   },
                   op_cost::linear_backward_input(all, act),
                   terms});
  cases.push_back({"grouped_linear_gelu_backward_input",
                   {in("dy", narrow), in("w", w, scale), in("pre", wide), out("dpre", wide)},
                   {},
                   [=](Ops& o, Tensors& t) {
                     o.grouped_linear_gelu_backward_input({}, shape(H, C), t[0], t[1], t[2], t[3]);
                   },
                   op_cost::linear_gelu_backward_input({rows, H, C}, act),
                   terms,
                   3});  // as linear_gelu_backward_input
  cases.push_back({"grouped_linear_backward_weight",
                   {in("dy", wide), in("x", narrow), added("dw", w), added("db", w)},
                   {},
                   [=](Ops& o, Tensors& t) {
                     o.grouped_linear_backward_weight({}, shape(C, H), t[0], t[1], t[2], t[3]);
                   },
                   op_cost::linear_backward_weight(all, act),
                   double(rows)});
}

}  // namespace

void add_moe_cases(std::vector<OpCase>& cases, const CaseShape& shape, double activation_bytes) {
  add_router(cases, shape, activation_bytes, 1);
  add_router(cases, shape, activation_bytes, kTopK);
  add_moves(cases, shape, activation_bytes);
  add_grouped(cases, shape, activation_bytes);
}

}  // namespace pipemark
