// The CUDA backend's mixture-of-experts operations against the reference: the router, the moves of
// rows, and grouped linear layers whose rows change from call to call. Bounds: cuda_side.hpp.
#include <numeric>
#include <tuple>

#include "kernels/cuda/cuda_ops.hpp"
#include "tests/kernels/cuda_fixture.hpp"
#include "tests/kernels/cuda_side.hpp"

namespace pipemark::testing {
namespace {

class CudaMoeTest : public CudaFixture {};

TEST_F(CudaMoeTest, RouterForwardAndBackward) {
  for (const auto& [B, T, E, k] :
       {std::tuple{2, 64, 8, 2}, {1, 33, 256, 8}, {3, 40, 40, 1}, {2, 16, 4, 4}}) {
    const std::int64_t N = std::int64_t{B} * T;
    const RouterShape shape{N, T, E, k};
    const Floats logits = draw(N * E, 1, 2.0f), bias = draw(E, 2, 0.1f), dgates = draw(N * k, 3);
    const Floats balance = draw(std::int64_t{B} * E, 4, 0.3f);
    const auto run = [&, B = B, E = E, k = k](Side& s) {
      const Tensor p = s.f32_out(N * E), gates = s.f32_out(N * k), dlogits = s.act_out(N * E);
      const Tensor chosen = s.i32(std::vector<std::int32_t>(static_cast<std::size_t>(N * k), -1));
      s.ops.router_forward(s.stream, shape, s.act(logits), s.f32(bias), p, chosen, gates);
      s.ops.router_backward(s.stream, shape, p, chosen, gates, s.f32(dgates), s.f32(balance),
                            dlogits);
      std::vector<std::int32_t> experts(static_cast<std::size_t>(N * k));
      s.ops.device().copy(s.stream, experts.data(), chosen.data, chosen.bytes());
      s.ops.device().synchronize(s.stream);
      return Outputs{s.read(p), s.read(gates), Floats(experts.begin(), experts.end()),
                     s.read(dlogits)};
    };
    // Where p is near 1, dp and its mean under p cancel.
    compare(run, {{"probabilities", fp32_bound(E)},
                  {"gates", fp32_bound(E)},
                  {"chosen", fp32_bound(1)},
                  {"dlogits", bf16_bound(1.1)}});
    expect_repeats(run);
  }
}

TEST_F(CudaMoeTest, RowsGoOutAndComeBack) {
  for (const auto& [N, k, C] : {std::tuple{70, 2, 768}, {33, 8, 64}, {128, 1, 20}}) {
    const std::int64_t M = std::int64_t{N} * k;
    std::vector<std::int32_t> place(static_cast<std::size_t>(M)), index(place.size());
    std::iota(place.rbegin(), place.rend(), 0);
    for (std::size_t m = 0; m < index.size(); ++m) index[m] = static_cast<std::int32_t>(m) % N;
    place[3] = index[5] = -1;
    const Floats x = draw(std::int64_t{N} * C, 1), rows = draw(M * C, 2), gates = draw(M, 3);
    const Floats dy = draw(std::int64_t{N} * C, 4);
    const auto run = [&, N = N, k = k, C = C](Side& s) {
      const Tensor at = s.i32(place), held = s.act(rows), weights = s.f32(gates);
      const Tensor out = s.act_out(M * C), y = s.act_out(std::int64_t{N} * C);
      const Tensor sum = s.act_out(std::int64_t{N} * C), drows = s.act(rows);
      const Tensor dgates = s.f32_out(M);
      s.ops.gather_rows(s.stream, s.act(x), s.i32(index), out, M, C);
      s.ops.combine_rows(s.stream, held, at, weights, y, N, k, C);
      s.ops.combine_rows(s.stream, held, at, {}, sum, N, k, C);
      s.ops.combine_rows_backward(s.stream, s.act(dy), held, at, weights, drows, dgates, N, k, C);
      return Outputs{s.read(out), s.read(y), s.read(sum), s.read(drows), s.read(dgates)};
    };
    compare(run, {{"gathered", bf16_bound(0.1)},
                  {"combined", bf16_bound(1.1)},
                  {"summed", bf16_bound(1.1)},
                  {"drows", bf16_bound(1.1)},
                  {"dgates", fp32_bound(C)}});
    expect_repeats(run);
  }
}

TEST_F(CudaMoeTest, GroupedLinearsOfVaryingRows) {
  constexpr int kIn = 64, kOut = 128;
  constexpr std::int64_t kStride = kIn * kOut;
  // Sizes that share a bucket of tuned algorithms, one that does not, an empty group.
  for (const auto& rows :
       {std::vector<std::int64_t>{70, 0, 100, 3}, std::vector<std::int64_t>{80, 65, 120, 1},
        std::vector<std::int64_t>{500, 7, 33, 256}}) {
    std::vector<std::int64_t> offsets{0};
    for (const std::int64_t count : rows) offsets.push_back(offsets.back() + count);
    const std::int64_t N = offsets.back(), w = kStride * static_cast<std::int64_t>(rows.size());
    const GroupedShape up{offsets, kIn, kOut, kStride}, down{offsets, kOut, kIn, kStride};
    const Floats x = draw(N * kIn, 1), weights = draw(w, 2, 0.05f), bias = draw(w, 3);
    const Floats dy = draw(N * kOut, 4), narrow = draw(N * kIn, 5), kept = draw(N * kOut, 6);
    const Floats before = draw(w, 7);
    const auto run = [&](Side& s) {
      s.workspace({1, 64, kIn, 1}, kOut);
      const Tensor pre = s.act_out(N * kOut), y = s.act_out(N * kOut), z = s.act_out(N * kOut);
      const Tensor dx = s.act_out(N * kIn), dpre = s.act_out(N * kOut);
      const Tensor dw = s.f32(before), db = s.f32(before), wt = s.act(weights), b = s.act(bias);
      s.ops.grouped_linear_gelu_forward(s.stream, up, s.act(x), wt, b, pre, y);
      s.ops.grouped_linear_forward(s.stream, up, s.act(x), wt, b, z);
      s.ops.grouped_linear_backward_input(s.stream, up, s.act(dy), wt, dx);
      s.ops.grouped_linear_gelu_backward_input(s.stream, down, s.act(narrow), wt, s.act(kept),
                                               dpre);
      s.ops.grouped_linear_backward_weight(s.stream, up, s.act(dy), s.act(x), dw, db);
      return Outputs{s.read(pre),  s.read(y),  s.read(z), s.read(dx),
                     s.read(dpre), s.read(dw), s.read(db)};
    };
    compare(run, {{"pre", bf16_bound(1.1)},
                  {"y", bf16_bound(2.5)},
                  {"z", bf16_bound(1.1)},
                  {"dx", bf16_bound(1.1)},
                  {"dpre", bf16_bound(2.5)},
                  {"dw", fp32_bound(double(N))},
                  {"db", fp32_bound(double(N))}});
  }
}

}  // namespace
}  // namespace pipemark::testing
