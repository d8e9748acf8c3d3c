// The CUDA backend against the reference backend, op by op, at shapes that meet the whole-vector
// paths and the tails. Bounds: cuda_side.hpp; each call here names its count of bf16 roundings.
//
// Legend: B, T, C, H, V, Vp, N as in kernels/ops.hpp.
#include <tuple>

#include "kernels/cuda/cuda_ops.hpp"
#include "tests/kernels/cuda_fixture.hpp"
#include "tests/kernels/cuda_side.hpp"

namespace pipemark::testing {
namespace {

class CudaOpsTest : public CudaFixture {};

TEST_F(CudaOpsTest, EmbeddingForwardAndBackward) {
  for (const auto& [B, T, C, V] :
       {std::tuple{2, 64, 48, 100}, {3, 40, 768, 5}, {4, 256, 40, 50257}}) {
    const std::int64_t N = std::int64_t{B} * T;
    const auto tokens = draw_tokens(N, V, 1);
    const Floats wte = draw(std::int64_t{V} * C, 2), wpe = draw(std::int64_t{T} * C, 3);
    const Floats dx = draw(N * C, 4), before = draw(std::int64_t{V} * C, 5);
    const auto run = [&, B = B, T = T, C = C, V = V](Side& s) {
      s.workspace({B, T, C, 1}, V);
      const Tensor ids = s.i32(tokens), x = s.act_out(N * C);
      s.ops.embedding_forward(s.stream, ids, s.act(wte), s.act(wpe), x, N, T, C);
      const Tensor dwte = s.f32(before), dwpe = s.f32(Floats(std::size_t(T) * C));
      s.ops.embedding_backward(s.stream, ids, s.act(dx), dwte, dwpe, N, T, C);
      return Outputs{s.read(x), s.read(dwte), s.read(dwpe)};
    };
    compare(run, {{"x", bf16_bound(1)}, {"dwte", fp32_bound(double(N))}, {"dwpe", fp32_bound(B)}});
    expect_repeats(run);
  }
}

TEST_F(CudaOpsTest, LayerNormForward) {
  for (const auto& [N, C] :
       {std::tuple{70, 768}, {33, 1600}, {5, 100}, {9, 3000}, {64, 256}, {3, 8}}) {
    const Floats a = draw(std::int64_t{N} * C, 1, 2.0f, 0.5f), b = draw(std::int64_t{N} * C, 2);
    const Floats w = draw(C, 3, 0.3f, 1.0f), bias = draw(C, 4);
    const auto run = [&, N = N, C = C](Side& s) {
      const Tensor y = s.act_out(N * C), mean = s.f32_out(N), rstd = s.f32_out(N);
      s.ops.layer_norm_forward(s.stream, s.act(a), s.act(w), s.act(bias), y, mean, rstd, N, C);
      return Outputs{s.read(y), s.read(mean), s.read(rstd)};
    };
    compare(run, {{"y", bf16_bound(1.1)}, {"mean", fp32_bound(C)}, {"rstd", fp32_bound(C)}});
    const auto fused = [&, N = N, C = C](Side& s) {
      const Tensor r = s.act_out(N * C), y = s.act_out(N * C);
      const Tensor mean = s.f32_out(N), rstd = s.f32_out(N);
      s.ops.residual_layer_norm_forward(s.stream, s.act(a), s.act(b), r, s.act(w), s.act(bias), y,
                                        mean, rstd, N, C);
      return Outputs{s.read(r), s.read(y), s.read(mean), s.read(rstd)};
    };
    // Two roundings: the residual's moves the statistics and every x by up to u; |x - mean| rstd
    // reaches 4.
    compare(fused, {{"residual", bf16_bound(1)},
                    {"y", bf16_bound(3)},
                    {"mean", bf16_bound(1)},
                    {"rstd", bf16_bound(1)}});
  }
}

TEST_F(CudaOpsTest, LayerNormBackward) {
  for (const auto& [N, C] :
       {std::tuple{700, 768}, {333, 1600}, {50, 100}, {9, 3000}, {2000, 256}}) {
    const Floats x = draw(std::int64_t{N} * C, 1, 2.0f, 0.5f), dy = draw(std::int64_t{N} * C, 2);
    const Floats w = draw(C, 3, 0.3f, 1.0f), dres = draw(std::int64_t{N} * C, 4);
    const Floats before = draw(C, 5), zero(static_cast<std::size_t>(C));
    for (const bool residual : {false, true}) {
      const auto run = [&, N = N, C = C](Side& s) {
        s.workspace({1, N, C, 1}, 8);
        const Tensor xt = s.act(x), wt = s.act(w), mean = s.f32_out(N), rstd = s.f32_out(N);
        s.ops.layer_norm_forward(s.stream, xt, wt, s.act(zero), s.act_out(N * C), mean, rstd, N, C);
        const Tensor dx = residual ? s.act(dres) : s.act_out(N * C);
        const Tensor dw = s.f32(before), db = s.f32(before), sums = s.f32(before);
        const Tensor dyt = s.act(dy), written = s.f32(before), apart = s.act_out(N * C);
        s.ops.layer_norm_backward(s.stream, dyt, xt, wt, mean, rstd, Tensor{}, apart, dw, written,
                                  N, C, sums, false);
        s.ops.layer_norm_backward(s.stream, dyt, xt, wt, mean, rstd, residual ? dx : Tensor{}, dx,
                                  dw, db, N, C, sums);
        return Outputs{s.read(dx), s.read(dw), s.read(db), s.read(written), s.read(sums)};
      };
      // The sums of dx of each call: of values before or after they are rounded, as is faster. Of N
      // roundings of rms u / 4, the sum is u / 4 of its own rms off, five times that at most.
      compare(run, {{"dx", bf16_bound(1.1)},
                    {"dw", fp32_bound(N)},
                    {"db", fp32_bound(N)},
                    {"db written", fp32_bound(N)},
                    {"dx_sums", bf16_bound(2)}});
      expect_repeats(run);
    }
  }
}

TEST_F(CudaOpsTest, Linear) {
  for (const auto& [N, Cin, Cout] : {std::tuple{256, 128, 384}, {320, 768, 1024}, {72, 64, 200}}) {
    const LinearShape shape{N, Cin, Cout};
    const Floats x = draw(std::int64_t{N} * Cin, 1), w = draw(std::int64_t{Cin} * Cout, 2, 0.05f);
    const Floats b = draw(Cout, 3), dy = draw(std::int64_t{N} * Cout, 4);
    const Floats dw = draw(std::int64_t{Cin} * Cout, 5, 8.0f), db = draw(Cout, 6);
    const auto run = [&, N = N, Cin = Cin, Cout = Cout](Side& s) {
      s.workspace({1, N, Cin, 1}, Cout);
      const Tensor xt = s.act(x), wt = s.act(w), dyt = s.act(dy);
      const Tensor y = s.act_out(N * Cout), plain = s.act_out(N * Cout), dx = s.act_out(N * Cin);
      const Tensor dwt = s.f32(dw), dbt = s.f32(db), dw2 = s.f32(dw);
      s.ops.linear_forward(s.stream, shape, xt, wt, s.act(b), y);
      s.ops.linear_forward(s.stream, shape, xt, wt, {}, plain);
      s.ops.linear_backward_input(s.stream, shape, dyt, wt, dx);
      s.ops.linear_backward_weight(s.stream, shape, dyt, xt, dwt, dbt);
      s.ops.linear_backward_weight(s.stream, shape, dyt, xt, dw2, {});
      const Tensor dw3 = s.f32(dw), db3 = s.f32(db);
      s.ops.linear_backward_weight(s.stream, shape, dyt, xt, dw3, db3, false);
      return Outputs{s.read(y),   s.read(plain), s.read(dx),  s.read(dwt),
                     s.read(dw2), s.read(dbt),   s.read(dw3), s.read(db3)};
    };
    compare(run, {{"y", bf16_bound(1.1)},
                  {"without bias", bf16_bound(1.1)},
                  {"dx", bf16_bound(1.1)},
                  {"dw", fp32_bound(N)},
                  {"dw without db", fp32_bound(N)},
                  {"db", fp32_bound(N)},
                  {"dw written", fp32_bound(N)},
                  {"db written", fp32_bound(N)}});
    expect_repeats(run);
  }
}

TEST_F(CudaOpsTest, LinearGelu) {
  for (const auto& [N, Cin, Cout] : {std::tuple{256, 128, 512}, {320, 768, 1024}}) {
    const LinearShape up{N, Cin, Cout}, down{N, Cout, Cin};
    const Floats x = draw(std::int64_t{N} * Cin, 1), w = draw(std::int64_t{Cin} * Cout, 2, 0.05f);
    const Floats b = draw(Cout, 3), dy = draw(std::int64_t{N} * Cin, 4);
    const Floats w2 = draw(std::int64_t{Cin} * Cout, 5, 0.05f),
                 kept = draw(std::int64_t{N} * Cout, 6);
    const auto run = [&, N = N, Cin = Cin, Cout = Cout](Side& s) {
      s.workspace({1, N, Cin, 1}, Cout);
      const Tensor pre = s.act_out(N * Cout), y = s.act_out(N * Cout), dpre = s.act_out(N * Cout);
      s.ops.linear_gelu_forward(s.stream, up, s.act(x), s.act(w), s.act(b), pre, y);
      const Tensor dpre2 = s.act_out(N * Cout), db = s.f32(b), db2 = s.f32(b);
      s.ops.linear_gelu_backward_input(s.stream, down, s.act(dy), s.act(w2), s.act(kept), dpre);
      s.ops.linear_gelu_backward_input(s.stream, down, s.act(dy), s.act(w2), s.act(kept), dpre2,
                                       db);
      s.ops.linear_gelu_backward_input(s.stream, down, s.act(dy), s.act(w2), s.act(kept), dpre2,
                                       db2, false);
      return Outputs{s.read(pre), s.read(y), s.read(dpre), s.read(dpre2), s.read(db), s.read(db2)};
    };
    // y, dpre: the fused form rounds once, the other one twice; tanh.approx errs by 2^-11. A sum of
    // N such errors is as far off, of its rms, as one.
    compare(run, {{"pre", bf16_bound(1.1)},
                  {"y", bf16_bound(2.5)},
                  {"dpre", bf16_bound(2.5)},
                  {"dpre with db", bf16_bound(2.5)},
                  {"db", bf16_bound(2.5)},
                  {"db written", bf16_bound(2.5)}});
  }
}

TEST_F(CudaOpsTest, Elementwise) {
  for (const std::int64_t n : {1, 7, 4096, 100003}) {
    const Floats a = draw(n, 1, 2.0f), b = draw(n, 2);
    const auto run = [&](Side& s) {
      const Tensor at = s.act(a), bt = s.act(b), y = s.act_out(n), dx = s.act_out(n);
      const Tensor sum = s.act_out(n), total = s.f32(b), as = s.act_out(n), one = s.f32({3.0f});
      s.ops.gelu_forward(s.stream, at, y, n);
      s.ops.gelu_backward(s.stream, bt, at, dx, n);
      s.ops.residual_forward(s.stream, at, bt, sum, n);
      s.ops.accumulate(s.stream, s.f32(a), total, n);
      s.ops.convert(s.stream, s.f32(a), as, n);
      s.ops.add_scaled_sum(s.stream, s.f32(a), n, 0.25f, one);
      return Outputs{s.read(y), s.read(dx), s.read(sum), s.read(total), s.read(as), s.read(one)};
    };
    compare(run, {{"gelu", bf16_bound(1.5)},
                  {"dgelu", bf16_bound(2)},
                  {"sum", bf16_bound(1)},
                  {"accumulate", fp32_bound(1)},
                  {"convert", bf16_bound(1)},
                  {"add_scaled_sum", fp32_bound(double(n))}});
  }
}

TEST_F(CudaOpsTest, SoftmaxCrossEntropy) {
  for (const auto& [N, V, Vp] :
       {std::tuple{20, 1000, 1024}, {5, 50257, 50304}, {7, 257, 257}, {3, 131000, 131072}}) {
    const Floats logits = draw(std::int64_t{N} * Vp, 1, 3.0f);
    const auto targets = draw_tokens(N, V, 2);
    const auto run = [&, N = N, V = V, Vp = Vp](Side& s) {
      const Tensor x = s.act(logits), losses = s.f32_out(N), only = s.f32_out(N);
      const Tensor ids = s.i32(targets);
      s.ops.softmax_cross_entropy(s.stream, x, ids, losses, N, V, Vp, 0.125f, true);
      s.ops.softmax_cross_entropy(s.stream, s.act(logits), ids, only, N, V, Vp, 0.125f, false);
      return Outputs{s.read(x), s.read(losses), s.read(only)};
    };
    compare(run,
            {{"dlogits", bf16_bound(1.1)}, {"losses", fp32_bound(V)}, {"only", fp32_bound(V)}});
    expect_repeats(run);
  }
}

/// By chunks of rows (128 at least), the last one short, against the two calls it stands for.
TEST_F(CudaOpsTest, LinearSoftmaxCrossEntropy) {
  constexpr int N = 300, C = 64, V = 50000, Vp = 50048;
  const Floats x = draw(N * C, 1), w = draw(std::int64_t{Vp} * C, 2, 0.1f);
  const auto targets = draw_tokens(N, V, 3);
  const auto run = [&](Side& s) {
    s.workspace({1, N, C, 1}, Vp);
    const Tensor logits = s.act_out(std::int64_t{N} * Vp), losses = s.f32_out(N);
    s.ops.linear_softmax_cross_entropy(s.stream, {N, C, Vp}, s.act(x), s.act(w), logits,
                                       s.i32(targets), losses, V, 0.5f, true);
    return Outputs{s.read(logits), s.read(losses)};
  };
  // The logits, rounded to bf16 before the softmax, are up to about 4: u 4 on each exponent, and u
  // for the result.
  compare(run, {{"dlogits", bf16_bound(5)}, {"losses", bf16_bound(1)}});
}

TEST_F(CudaOpsTest, Attention) {
  for (const auto& [B, T, H, D] : {std::tuple{2, 128, 3, 64},
                                   {1, 200, 2, 64},
                                   {2, 96, 2, 32},
                                   {1, 160, 2, 128},
                                   {1, 512, 4, 64},
                                   {1, 77, 1, 80}}) {
    check_attention({B, T, H * D, H});
  }
}

TEST_F(CudaOpsTest, Optimizer) {
  const std::vector<ParamRange> ranges = {
      {0, 1000, true}, {1000, 37, false}, {1040, 70000, true}, {71040, 1, false}};
  const std::int64_t n = 71048;
  const Floats p = draw(n, 1), g = draw(n, 2, 0.1f), m = draw(n, 3, 0.1f);
  Floats v = draw(n, 4, 0.1f);
  for (float& value : v) value = value * value;
  AdamWSettings settings;
  settings.learning_rate = 1e-2f;
  settings.step = 3;
  const auto run = [&](Side& s) {
    const Tensor master = s.f32(p), gt = s.f32(g), mt = s.f32(m), vt = s.f32(v);
    s.workspace({1, 8, 8, 1}, 8);
    const Tensor squared = s.f32_out(4), clipped = s.f32_out(4);
    s.ops.squared_norms(s.stream, gt, ranges, squared);
    s.ops.clip_scale(s.stream, squared, 4, 1.0, clipped.slice(0, 1), clipped.slice(1, 1));
    s.ops.clip_scale(s.stream, squared, 3, 0.0, clipped.slice(2, 1), clipped.slice(3, 1));
    const Tensor weights = s.act(p);
    s.ops.adamw(s.stream, master, weights, gt, mt, vt, ranges, settings, s.f32({0.7f}));
    return Outputs{s.read(squared), s.read(clipped), s.read(master),
                   s.read(mt),      s.read(vt),      s.read(weights)};
  };
  compare(run, {{"squared", fp32_bound(70000)},
                {"norm and factor", fp32_bound(70000)},
                {"master", fp32_bound(4)},
                {"m", fp32_bound(2)},
                {"v", fp32_bound(2)},
                {"weights", bf16_bound(1.1)}});
  expect_repeats(run);
}

}  // namespace
}  // namespace pipemark::testing
