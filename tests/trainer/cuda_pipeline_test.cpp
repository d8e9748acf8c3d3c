// Pipelines on GPUs (or slices of one; ranks that share one without MPS take turns): under every
// schedule the gradients are those of the fp32 host backend within bf16's rounding, and bit for bit
// the same by IPC as by MPI; pipelines of GPU and host ranks too. Skipped, loudly, without a GPU.
//
// Bound of a tensor's error, in the Euclidean norm: 2 eps sqrt(8 (L + 2)) (|g| + 0.01 G sqrt(size)):
// about 8 roundings of bf16, eps = 2^-9, follow one another in each of L + 2 layers and add up as
// sqrt(n); G is the root mean square of all gradient elements (golden.hpp).
#include <gtest/gtest.h>

#include <cmath>

#include "schedules/catalogue.hpp"
#include "tests/trainer/golden.hpp"
#include "tests/trainer/gpt_chain.hpp"
#include "trainer/cluster.hpp"
#include "trainer/data.hpp"
#include "trainer/trainer.hpp"

namespace pipemark {
namespace {

Cluster& cluster() {
  static auto* instance = new Cluster(60);  // MPI is ended by main()
  return *instance;
}

/// Set by the user of a machine with a GPU a rank; else all ranks take GPU 0.
bool own_gpus() { return std::getenv("PIPEMARK_TEST_OWN_GPUS") != nullptr; }

RunConfig run_of(const std::string& schedule, int micro_batches, const std::string& transport) {
  RunConfig run;
  run.model = {"test", 14, 64, 4, 32, 256, true};
  run.train.batch = 16;
  run.train.micro_batches = micro_batches;
  run.train.validation_batches = 0;
  run.train.wait_timeout_s = 30;
  run.data = {golden::folder() + "text.bin", "bytes", 0.0};
  run.parallel.pipeline = cluster().size();
  run.schedule.name = schedule;
  run.device.backend = "cuda";
  run.device.transport = transport;
  run.device.devices = fmt::format("mps:{}", cluster().size());  // all on GPU 0
  if (own_gpus()) run.device.devices.clear();
  return run;
}

const std::vector<NamedTensor>& host_gradients() {
  static const std::vector<NamedTensor> gradients = [] {
    const RunConfig run = run_of("gpipe", 4, "mpi");
    const auto ops = make_ops("kokkos");
    GptChain chain(*ops, {run.model, run.train, {0, run.model.layers + 2}, Order::full, false});
    const Dataset data(run.data, run.model, run.train.seed);
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(run.train.batch) * run.model.context);
    std::vector<std::int32_t> targets(tokens.size());
    data.batch(0, run.train.batch, 0, run.train.batch, tokens, targets);
    chain.gradients_of(tokens, targets);
    return chain.gradients();
  }();
  return gradients;
}

/// One line a tensor outside of the bound.
std::string compare(const std::vector<NamedTensor>& actual) {
  const std::vector<NamedTensor>& expected = host_gradients();
  double squares = 0, elements = 0;
  for (const NamedTensor& tensor : expected) {
    squares += std::pow(golden::norm(tensor.values), 2);
    elements += static_cast<double>(tensor.values.size());
  }
  const double G = std::sqrt(squares / elements), unit = 2 * 0x1p-9 * std::sqrt(8.0 * (14 + 2));
  std::string wrong;
  for (std::size_t t = 0; t < expected.size(); ++t) {
    const auto size = expected[t].values.size();
    if (t >= actual.size() || actual[t].name != expected[t].name ||
        actual[t].values.size() != size) {
      return expected[t].name + ": missing, or of another size\n";
    }
    std::vector<float> error(size);
    for (std::size_t i = 0; i < size; ++i) error[i] = actual[t].values[i] - expected[t].values[i];
    const double bound = unit * (golden::norm(expected[t].values) +
                                 0.01 * G * std::sqrt(static_cast<double>(size)));
    const double share = golden::norm(error) / bound;
    if (!(share <= 1)) wrong += fmt::format("{}: error {:.2f} of its bound\n", actual[t].name, share);
  }
  return wrong;
}

std::vector<NamedTensor> gradients_of(const RunConfig& run) {
  Trainer trainer(cluster(), run);
  return trainer.gradients_of_step(0);
}

class CudaPipeline : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string missing;
    try {
      make_ops("cuda", 0);
    } catch (const std::exception& error) {
      missing = error.what();
    }
    if (!missing.empty()) {
      fmt::print(stderr, "SKIPPED: {}\n", missing);
      GTEST_SKIP() << missing;
    }
  }
};

TEST_F(CudaPipeline, EveryScheduleHasTheHostsGradientsAndOneTransportsAreTheOthers) {
  int ran = 0;
  for (const CatalogueRow& row : catalogue()) {
    ScheduleRequest request;
    request.ranks = cluster().size();
    request.micro_batches = 16;
    if (!row.refuse(request).empty()) continue;
    SCOPED_TRACE(row.name);
    const auto by_mpi = gradients_of(run_of(row.name, 16, "mpi"));
    const auto by_ipc = gradients_of(run_of(row.name, 16, "ipc"));
    std::vector<NamedTensor> by_nccl = by_ipc;
    if (own_gpus()) by_nccl = gradients_of(run_of(row.name, 16, "nccl"));
    ++ran;
    if (cluster().rank() != 0) continue;
    EXPECT_TRUE(cluster().size() > 2 || by_nccl == by_mpi) << "NCCL's gradients differ";
    EXPECT_EQ(compare(by_nccl), "");
    EXPECT_EQ(compare(by_ipc), "");
    EXPECT_TRUE(by_ipc == by_mpi) << "the transports' gradients differ";
  }
  EXPECT_GE(ran, 5);
}

TEST_F(CudaPipeline, DataParallelSums) {
  RunConfig run = run_of("1f1b", 8, "ipc");
  run.parallel.pipeline = cluster().size() / 2;
  run.parallel.data = 2;
  const auto by_ipc = gradients_of(run);
  run.device.transport = "mpi";
  const auto by_mpi = gradients_of(run);
  if (cluster().rank() != 0) return;
  EXPECT_EQ(compare(by_ipc), "");
  EXPECT_TRUE(by_ipc == by_mpi);
}

TEST_F(CudaPipeline, GpuAndHostRanksInOnePipeline) {
  for (const bool host_first : {true, false}) {
    RunConfig run = run_of("1f1b", 8, "auto");
    std::string backends;
    for (int r = 0; r < cluster().size(); ++r) {
      backends += std::string(r == 0 ? "" : ",") + ((r % 2 == 0) == host_first ? "kokkos" : "cuda");
    }
    run.device.backend = backends;
    const auto gradients = gradients_of(run);
    if (cluster().rank() == 0) {
      EXPECT_EQ(compare(gradients), "") << backends;
    }
  }
}

TEST_F(CudaPipeline, APerturbedGradientFails) {
  std::vector<NamedTensor> gradients = host_gradients();
  ASSERT_EQ(compare(gradients), "");
  for (NamedTensor& tensor : gradients) {
    const auto kept = tensor.values;
    for (float& value : tensor.values) value *= 0.85f;  // as if 2.4 of 16 sequences were missing
    EXPECT_NE(compare(gradients), "") << tensor.name;
    tensor.values = kept;
  }
}

}  // namespace
}  // namespace pipemark
