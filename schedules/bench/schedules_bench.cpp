// pipemark_schedules_bench: actions a second of both simulators, of the generators and of validate,
// and 10^9 actions (16,384 ranks x 32,768 micro-batches) from loops.
#include <benchmark/benchmark.h>

#include "schedules/catalogue.hpp"
#include "schedules/simulate.hpp"
#include "schedules/validate.hpp"

namespace pipemark {

namespace {

constexpr StageCost kTimes{1, 1.1, 0.9};
constexpr double kMessage = 0.05;

ScheduleRequest request_of(const benchmark::State& state) {
  ScheduleRequest request;
  request.ranks = static_cast<int>(state.range(0));
  request.micro_batches = static_cast<int>(state.range(1));
  return request;
}

void count(benchmark::State& state, std::int64_t actions) {
  state.SetItemsProcessed(state.iterations() * actions);
}

std::int64_t actions_of(const Schedule& schedule) {
  std::int64_t sum = 0;
  for (const auto& row : schedule.ranks) sum += static_cast<std::int64_t>(row.size());
  return sum;
}

void simulate_schedule(benchmark::State& state, const char* name) {
  const ScheduleRequest request = request_of(state);
  const Schedule schedule = make_schedule(name, request);
  const CostModel cost =
      CostModel::uniform(request.ranks, schedule.placement.stages, kTimes, kMessage);
  for (auto _ : state) benchmark::DoNotOptimize(simulate(schedule, cost).makespan);
  count(state, actions_of(schedule));
}

void simulate_loops(benchmark::State& state, const char* name) {
  const Program program = find_schedule(name).program(request_of(state));
  const PlacedCost cost = PlacedCost::uniform(program.placement, kTimes, kMessage);
  std::int64_t actions = 0;
  for (const Row& row : program.rows) actions += row.actions();
  for (auto _ : state) benchmark::DoNotOptimize(simulate(program, cost).makespan);
  count(state, actions);
}

void make(benchmark::State& state, const char* name) {
  std::int64_t actions = 0;
  for (auto _ : state) actions = actions_of(make_schedule(name, request_of(state)));
  count(state, actions);
}

void prove(benchmark::State& state, const char* name) {
  const Schedule schedule = make_schedule(name, request_of(state));
  for (auto _ : state) benchmark::DoNotOptimize(validate(schedule).size());
  count(state, actions_of(schedule));
}

BENCHMARK_CAPTURE(simulate_schedule, gpipe, "gpipe")->Args({16, 1024});
BENCHMARK_CAPTURE(simulate_schedule, 1f1b, "1f1b")->Args({16, 1024})->Args({256, 1024});
BENCHMARK_CAPTURE(simulate_schedule, zb_h1, "zb-h1")->Args({16, 1024});
BENCHMARK_CAPTURE(simulate_schedule, dualpipe, "dualpipe")->Args({16, 1024});
BENCHMARK_CAPTURE(simulate_loops, 1f1b, "1f1b")->Args({16, 1024})->Args({1024, 2048});
BENCHMARK_CAPTURE(make, dualpipe, "dualpipe")->Args({16, 1024});
BENCHMARK_CAPTURE(make, v_half, "v-half")->Args({16, 256});
BENCHMARK_CAPTURE(prove, 1f1b, "1f1b")->Args({16, 1024});
BENCHMARK_CAPTURE(prove, dualpipe, "dualpipe")->Args({16, 1024});
BENCHMARK_CAPTURE(simulate_loops, 1f1b_1e9, "1f1b")
    ->Args({16384, 32768})
    ->Iterations(1)
    ->Unit(benchmark::kSecond);
BENCHMARK_CAPTURE(simulate_loops, gpipe_1e9, "gpipe")
    ->Args({16384, 32768})
    ->Iterations(1)
    ->Unit(benchmark::kSecond);

}  // namespace

}  // namespace pipemark

BENCHMARK_MAIN();
