// What the CUDA tests share: both backends, made once; a test body run on each and compared output
// by output; a check that repeating it gives the same bits.
#pragma once

#include <cstring>
#include <functional>
#include <vector>

#include "kernels/cuda/cuda_ops.hpp"
#include "tests/kernels/cuda_side.hpp"

namespace pipemark::testing {

using Outputs = std::vector<Floats>;
using Body = std::function<Outputs(Side&)>;

struct Expected {
  const char* name;
  double bound;
};

class CudaFixture : public ::testing::Test {
 protected:
  static Ops& cuda() {
    static const std::unique_ptr<Ops> ops = make_cuda_ops(0);
    return *ops;
  }
  static Ops& reference() {
    static const std::unique_ptr<Ops> ops = make_ops("reference");
    return *ops;
  }

  static Outputs run_cuda(const Body& body) {
    Side side(cuda());
    return body(side);
  }
  static void compare(const Body& body, const std::vector<Expected>& expected) {
    Side judge(reference());
    const Outputs right = body(judge);
    const Outputs ours = run_cuda(body);
    ASSERT_EQ(ours.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      expect_close(expected[i].name, ours[i], right[i], expected[i].bound);
    }
  }
  static void expect_repeats(const Body& body) {
    const Outputs first = run_cuda(body);
    const Outputs second = run_cuda(body);
    for (std::size_t i = 0; i < first.size(); ++i) {
      ASSERT_EQ(first[i].size(), second[i].size());
      EXPECT_EQ(std::memcmp(first[i].data(), second[i].data(), first[i].size() * sizeof(float)), 0)
          << "output " << i << " does not repeat bitwise";
    }
  }
  /// Forward, then backward from the forward's own output and lse. Roundings: P and the output
  /// (2), and in backward P, dS, the output inside delta and the result (4), of which those inside
  /// sums count for several standard deviations of their rms.
  static void check_attention(const AttentionShape& shape) {
    const std::int64_t n = std::int64_t{shape.batch} * shape.tokens * shape.channels;
    const Floats qkv = draw(3 * n, 1), dout = draw(n, 2);
    const auto run = [&](Side& s) {
      s.workspace(shape, 8);
      const Tensor in = s.act(qkv), out = s.act_out(n), dqkv = s.act_out(3 * n);
      const Tensor lse = s.f32_out(std::int64_t{shape.batch} * shape.heads * shape.tokens);
      s.ops.attention_forward(s.stream, shape, in, out, lse);
      s.ops.attention_backward(s.stream, shape, s.act(dout), in, out, lse, dqkv);
      return Outputs{s.read(out), s.read(lse), s.read(dqkv)};
    };
    compare(run,
            {{"out", bf16_bound(4)}, {"lse", fp32_bound(shape.tokens)}, {"dqkv", bf16_bound(8)}});
    expect_repeats(run);
  }
};

}  // namespace pipemark::testing
