// What the Kokkos backend promises beyond right numbers: no allocation after set-up, scratch that
// does not grow as B H T T, a row's bits independent of which micro-batch it came in, reductions
// that are tested at start.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

#include "kernels/bench/op_case.hpp"
#include "kernels/kokkos/runtime.hpp"

namespace {
std::atomic<long> allocations{0};
}

void* operator new(std::size_t bytes) {
  ++allocations;
  void* memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace pipemark {
namespace {

TEST(KokkosTest, NoOperationAllocatesAfterItsFirstCall) {
  const auto ops = make_ops("kokkos");
  for (const OpCase& op : all_cases({2, 33, 32, 2, 11, 16, 128}, 4)) {
    CaseRun run(op, *ops);
    run.call();
    const long before = allocations;
    run.call();
    EXPECT_EQ(allocations - before, 0) << op.name;
  }
  const long before = allocations;  // the counter counts
  ::operator delete(::operator new(4));
  EXPECT_EQ(allocations - before, 1);
}

TEST(KokkosTest, AttentionScratchGrowsWithTokensOnly) {
  const auto ops = make_ops("kokkos");
  const AttentionShape small{1, 1024, 768, 12}, large{32, 1024, 768, 12}, longer{1, 2048, 768, 12};
  EXPECT_EQ(ops->workspace_bytes(small, 50304), ops->workspace_bytes(large, 50304));
  EXPECT_LE(ops->workspace_bytes(longer, 50304), 2 * ops->workspace_bytes(small, 50304));
  const double scores = 4.0 * 12 * 1024 * 1024;  // of one sequence, all heads, fp32
  EXPECT_LT(double(ops->workspace_bytes(small, 50304)), scores / 20);
}

TEST(KokkosTest, AttentionChecksItsScratch) {
  const auto ops = make_ops("kokkos");
  const AttentionShape shape{1, 8, 16, 2};
  std::vector<float> qkv(384), out(128), lse(16);
  ops->set_workspace({});
  EXPECT_THROW(
      ops->attention_forward({}, shape, {qkv.data(), 384}, {out.data(), 128}, {lse.data(), 16}),
      LogicError);
}

// Two micro-batches in one buffer, at an offset that breaks any alignment: the same bits.
TEST(KokkosTest, BitsDoNotDependOnPlaceOrNeighbours) {
  const auto ops = make_ops("kokkos");
  for (const OpCase& op : all_cases({2, 19, 24, 2, 11, 16, 40}, 4)) {
    CaseRun run(op, *ops);
    run.call();
    std::vector<std::vector<float>> buffers;
    run.reset();
    std::vector<Tensor> shifted = run.tensors();
    for (Tensor& tensor : shifted) {
      buffers.emplace_back(static_cast<std::size_t>(tensor.size) + 3, 1e30f);
      std::memcpy(buffers.back().data() + 3, tensor.data, tensor.bytes());
      tensor.data = buffers.back().data() + 3;
    }
    run.call();
    op.call(*ops, shifted);
    for (std::size_t i = 0; i < shifted.size(); ++i) {
      EXPECT_EQ(std::memcmp(shifted[i].data, run.tensors()[i].data, shifted[i].bytes()), 0)
          << op.name << ": " << op.tensors[i].label;
    }
  }
}

TEST(KokkosTest, LayerNormBackwardWorksInPlace) {
  const auto ops = make_ops("kokkos");
  for (OpCase op : all_cases({2, 9, 24, 2, 11, 16, 40}, 4)) {
    if (op.name != "layer_norm_backward") continue;
    CaseRun run(op, *ops);
    run.call();
    const std::vector<float> apart = run.download(6);
    std::vector<Tensor> tensors = run.tensors();
    tensors[6] = tensors[5];  // dx is dresidual
    op.call(*ops, tensors);
    EXPECT_EQ(run.download(5), apart);
    return;
  }
  FAIL() << "no layer_norm_backward among the cases";
}

TEST(KokkosTest, ReductionsAreTestedAndStartingTwiceIsFine) {
  kokkos::start();
  EXPECT_NO_THROW(kokkos::self_test());
  EXPECT_NO_THROW(kokkos::start());
  EXPECT_EQ(kokkos::backend_name().rfind("Kokkos ", 0), 0u);
}

}  // namespace
}  // namespace pipemark
