// Every operation on every backend of this build against the reference, at shapes that divide by
// nothing: one body, its bound from kernels/bench/op_case.hpp, and proof that the bound can fail.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "kernels/bench/op_case.hpp"

namespace pipemark {
namespace {

/// "kokkos", or the one that PIPEMARK_TEST_BACKEND names.
std::vector<std::string> backends() {
  const char* named = std::getenv("PIPEMARK_TEST_BACKEND");
  return {named != nullptr ? named : "kokkos"};
}

struct NamedShape {
  const char* name;
  CaseShape shape;
};

// batch, tokens, channels, heads, vocabulary, padded, hidden
const NamedShape kShapes[] = {
    {"even", {2, 32, 64, 4, 65, 128, 256}},        {"odd", {3, 7, 15, 3, 13, 17, 31}},
    {"one_token", {2, 1, 16, 1, 5, 16, 64}},       {"one_head", {1, 33, 24, 1, 50, 50, 40}},
    {"past_a_block", {2, 131, 40, 2, 29, 32, 56}}, {"many_rows", {7, 96, 32, 2, 31, 32, 33}},
};

using Parameter = std::tuple<std::string, NamedShape>;
class OpsTest : public ::testing::TestWithParam<Parameter> {};

TEST_P(OpsTest, EveryOperationEqualsTheReferenceWithinItsBound) {
  const auto& [backend, named] = GetParam();
  const auto ops = make_ops(backend);
  const auto cases = all_cases(named.shape, 4);
  ASSERT_GE(cases.size(), 28u);
  for (const OpCase& op : cases) {
    CaseRun run(op, *ops);
    std::string where;
    const double error = run.error(&where);
    EXPECT_LE(error, error_bound(op, ops->activation_dtype())) << op.name << ": " << where;
  }
}

TEST_P(OpsTest, APerturbedOutputFails) {
  const auto& [backend, named] = GetParam();
  const auto ops = make_ops(backend);
  for (const OpCase& op : all_cases(named.shape, 4)) {
    CaseRun run(op, *ops);
    run.call();
    const double bound = error_bound(op, ops->activation_dtype());
    for (std::size_t i = 0; i < op.tensors.size(); ++i) {
      if (op.tensors[i].role == Role::input) continue;
      // Of the size of the rms, one element off by twice the bound.
      std::vector<float> wrong = run.expected()[i];
      double squares = 0;
      for (float value : wrong) squares += double{value} * value;
      const double rms = std::sqrt(squares / double(wrong.size()));
      if (rms == 0) continue;
      float& victim = wrong[wrong.size() / 2];
      // The step is at least two of the element's own spacings, so that fp32 can hold it.
      const double step = std::max(2 * bound * rms, 4 * kUnitRoundoffFp32 * std::abs(victim));
      victim = static_cast<float>(victim + step);
      EXPECT_GT(relative_error(wrong, run.expected()[i]), bound) << op.name;
      victim = NAN;
      EXPECT_GT(relative_error(wrong, run.expected()[i]), bound) << op.name;
    }
  }
}

TEST_P(OpsTest, TwoRunsGiveTheSameBits) {
  const auto& [backend, named] = GetParam();
  const auto ops = make_ops(backend);
  for (const OpCase& op : all_cases(named.shape, 4)) {
    CaseRun run(op, *ops);
    std::vector<std::vector<float>> first;
    for (int repetition = 0; repetition < 2; ++repetition) {
      run.reset();
      run.call();
      for (std::size_t i = 0; i < op.tensors.size(); ++i) {
        if (repetition == 0) {
          first.push_back(run.download(i));
        } else {
          EXPECT_EQ(run.download(i), first[i]) << op.name << ": " << op.tensors[i].label;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, OpsTest,
                         ::testing::Combine(::testing::ValuesIn(backends()),
                                            ::testing::ValuesIn(kShapes)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + std::get<1>(info.param).name;
                         });

/// accumulate = false on old values is accumulate = true on zeros, and the sums that ride along are
/// those of what was made.
TEST(WrittenGradients, AreAddedToZero) {
  constexpr int N = 37, Cin = 24, Cout = 40;
  for (const char* backend : {"reference", "kokkos"}) {
    const auto ops = make_ops(backend);
    Arena arena(ops->device(), MemoryKind::device, 1 << 22);
    const std::size_t bytes = ops->workspace_bytes({1, N, Cin, 1}, Cout);
    ops->set_workspace(arena.take(static_cast<std::int64_t>(bytes / sizeof(float)) + 1, DType::f32,
                                  "test/workspace"));
    const auto filled = [&](std::int64_t count, float step) {
      const Tensor t = arena.take(count, DType::f32, "test");
      for (std::int64_t i = 0; i < count; ++i) t.f32()[i] = std::sin(step * float(i + 1));
      return t;
    };
    const auto equal = [](const Tensor& a, const Tensor& b) {
      return std::equal(a.f32(), a.f32() + a.size, b.f32());
    };
    const LinearShape down{N, Cout, Cin}, up{N, Cin, Cout};
    const Tensor x = filled(N * Cin, 0.7f), wide = filled(N * Cout, 0.3f);
    const Tensor w = filled(Cin * Cout, 0.9f), mean = filled(N, 0.1f), rstd = filled(N, 0.2f);
    const Tensor dx = filled(N * Cin, 1.0f), dpre = filled(N * Cout, 1.0f);
    Tensor sums[2][6];
    for (Tensor(&set)[6] : sums) {
      const int sizes[6] = {Cin, Cin, Cin, Cout, Cin * Cout, Cout};
      const bool zero = &set == &sums[1];
      for (int i = 0; i < 6; ++i) {
        set[i] = filled(sizes[i], zero ? 0.0f : 5.0f);
      }
      ops->layer_norm_backward({}, x, x, w, mean, rstd, {}, dx, set[0], set[1], N, Cin, set[2],
                               zero);
      ops->linear_gelu_backward_input({}, down, x, w, wide, dpre, set[3], zero);
      ops->linear_backward_weight({}, up, wide, x, set[4], set[5], zero);
    }
    for (int i = 0; i < 6; ++i) EXPECT_TRUE(equal(sums[0][i], sums[1][i])) << backend << " " << i;
    for (int c = 0; c < Cin; ++c) {
      double sum = 0;
      for (int n = 0; n < N; ++n) sum += dx.f32()[n * Cin + c];
      EXPECT_NEAR(sums[0][2].f32()[c], sum, 1e-6 * N) << backend;
    }
    for (int c = 0; c < Cout; ++c) {
      double sum = 0;
      for (int n = 0; n < N; ++n) sum += dpre.f32()[n * Cout + c];
      EXPECT_NEAR(sums[0][3].f32()[c], sum, 1e-6 * N) << backend;
    }
  }
}

TEST(OpCaseTest, ASkippedCallIsFoundWrong) {
  const auto ops = make_ops("kokkos");
  for (OpCase op : all_cases({2, 8, 16, 2, 11, 16, 64}, 4)) {
    const auto call = op.call;
    op.call = [call](Ops& o, std::vector<Tensor>& t) {
      if (o.name() == "reference") call(o, t);
    };
    CaseRun run(op, *ops);
    // Outputs hold the inputs' random fill or zeros; add_scaled_sum's sum changes by its own size.
    EXPECT_GT(run.error(), error_bound(op, DType::f32)) << op.name;
  }
}

TEST(MakeOpsTest, AnUnknownBackendNamesTheOnesBuiltIn) {
  try {
    make_ops("opencl");
    FAIL() << "no error";
  } catch (const UserError& error) {
    EXPECT_NE(std::string(error.what()).find("opencl"), std::string::npos);
    EXPECT_NE(error.hint().find("kokkos"), std::string::npos);
  }
}

}  // namespace
}  // namespace pipemark
