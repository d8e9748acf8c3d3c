// Executor overhead: time neither in a kernel nor in a wait, an action, with empty stages. Alone,
// one rank runs all stages (hand-over in memory); under mpirun each rank its row (messages of 4
// KiB).
//   pipemark_executor_bench            mpirun -n 2 pipemark_executor_bench
// Counter overhead_us is the mean over the actions of the slowest rank; the project's bound is 20.
#include <benchmark/benchmark.h>

#include <fstream>

#include "kernels/host_device.hpp"
#include "schedules/catalogue.hpp"
#include "trainer/cluster.hpp"
#include "trainer/executor.hpp"
#include "trainer/transport_mpi.hpp"

namespace pipemark {
namespace {

Cluster* cluster = nullptr;

class EmptyStage final : public Stage {
 public:
  std::int64_t boundary_size() const override { return 1024; }
  DType boundary_dtype() const override { return DType::f32; }
  void forward(Stream, int, int, Tensor, Tensor) override {}
  void backward_input(Stream, int, int, int, Tensor, Tensor) override {}
  void backward_weight(Stream, int, int, int) override {}
  void backward(Stream, int, int, int, Tensor, Tensor) override {}
};

/// All stages of a schedule of four ranks in GPipe's order on one rank.
Schedule on_one_rank() {
  Schedule schedule;
  schedule.name = "one-rank";
  schedule.micro_batches = 32;
  schedule.placement = Placement::looped(1, 4);
  schedule.ranks.resize(1);
  for (std::int32_t m = 0; m < schedule.micro_batches; ++m) {
    for (std::int16_t s = 0; s < 4; ++s) schedule.ranks[0].push_back({Kind::F, 0, s, m});
    for (std::int16_t s = 3; s >= 0; --s) schedule.ranks[0].push_back({Kind::B, 0, s, m});
  }
  return schedule;
}

void run(benchmark::State& state, const char* name) {
  const int ranks = cluster->size();
  ScheduleRequest request;
  request.ranks = ranks;
  request.micro_batches = 16 * ranks;
  const Schedule schedule = ranks == 1 ? on_one_rank() : make_schedule(name, request);
  HostDevice device("empty stages");
  TransportMpi transport(cluster->world(), device, {60, cluster->wait_policy()});
  const ExecutorPlan plan = plan_step(schedule, cluster->rank());
  Arena planning;
  take_boundary_buffers(planning, {&plan}, 1024, DType::f32);
  Arena arena(device, MemoryKind::device, planning.used_bytes());
  EmptyStage stage;
  Executor executor(plan, std::vector<Stage*>(plan.held.size(), &stage),
                    take_boundary_buffers(arena, {&plan}, 1024, DType::f32), device, &transport);
  ActionTimes times;
  double overhead_s = 0;
  std::int64_t step = 0;
  for (auto _ : state) {
    executor.run_step(step++, times);
    if (step > 1) overhead_s += times.overhead_per_action_s();  // the first step makes its records
    state.SetIterationTime(times.host_s);
  }
  const double mean_s = step > 1 ? overhead_s / static_cast<double>(step - 1) : 0;
  state.counters["overhead_us"] = 1e6 * cluster->world().allreduce_max(mean_s);
  state.counters["actions"] = static_cast<double>(plan.actions.size());
  state.counters["ranks_per_core"] = cluster->ranks_per_core();
}

}  // namespace
}  // namespace pipemark

/// All ranks run the same number of steps: a fixed count, and only rank 0 reports.
int main(int argc, char** argv) {
  using namespace pipemark;
  Cluster job;
  cluster = &job;
  constexpr int kSteps = 500;
  benchmark::Initialize(&argc, argv);
  for (const char* name : {"gpipe", "1f1b", "dualpipe"}) {
    ScheduleRequest request;
    request.ranks = job.size();
    request.micro_batches = 16 * job.size();
    if (job.size() > 1 && !find_schedule(name).refuse(request).empty()) continue;
    benchmark::RegisterBenchmark(job.size() == 1 ? "executor/one-rank" : name,
                                 [name](benchmark::State& state) { run(state, name); })
        ->Iterations(kSteps)
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
    if (job.size() == 1) break;
  }
  if (job.rank() == 0) {
    benchmark::RunSpecifiedBenchmarks();
  } else {
    std::ofstream nowhere("/dev/null");
    benchmark::ConsoleReporter silent;
    silent.SetOutputStream(&nowhere);
    silent.SetErrorStream(&nowhere);
    benchmark::RunSpecifiedBenchmarks(&silent);
  }
  return 0;
}
