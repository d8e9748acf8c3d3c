// pipemark_balancers_bench: time of a plan. The exact chain partition must stay far below a step,
// so that it can be the yardstick of every other balancer.
#include <benchmark/benchmark.h>

#include <random>

#include "balancers/expert_moves.hpp"
#include "balancers/optimal.hpp"

namespace pipemark {

namespace {

/// Layers that differ by up to 4x on devices of `kinds` speeds.
ChainCosts random_costs(int layers, int devices, int kinds) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> layer_s(1, 4), speed(0.5, 2);
  std::vector<LayerCost> chain(static_cast<std::size_t>(layers));
  for (auto& layer : chain) layer.forward_s = layer_s(random);
  std::vector<double> kind_speeds(static_cast<std::size_t>(kinds)), speeds;
  for (double& s : kind_speeds) s = speed(random);
  for (int d = 0; d < devices; ++d)
    speeds.push_back(kind_speeds[static_cast<std::size_t>(d % kinds)]);
  return ChainCosts::of(chain, speeds);
}

ChainCosts costs_of(const benchmark::State& state) {
  return random_costs(static_cast<int>(state.range(0)), static_cast<int>(state.range(1)),
                      static_cast<int>(state.range(2)));
}

void optimal_chain(benchmark::State& state) {
  const ChainCosts costs = costs_of(state);
  const Placement placement = Placement::linear(costs.devices());
  for (auto _ : state) benchmark::DoNotOptimize(optimal_partition(costs, placement).bottleneck_s);
}

void optimal_bidirectional(benchmark::State& state) {
  const ChainCosts costs = costs_of(state);
  const Placement placement = Placement::bidirectional(costs.devices());
  for (auto _ : state) benchmark::DoNotOptimize(optimal_partition(costs, placement).bottleneck_s);
}

void optimal_any_order(benchmark::State& state) {
  const ChainCosts costs = costs_of(state);
  double gap = 0;
  for (auto _ : state) gap = optimal_order(costs).gap();
  state.counters["gap_percent"] = 100 * gap;
}

Matrix<float> expert_loads(int layers, int experts, unsigned seed) {
  std::mt19937 random(seed);
  std::lognormal_distribution<float> load(0, 1);
  Matrix<float> loads(layers, experts);
  for (float& value : loads.values) value = load(random);
  return loads;
}

/// DeepSeek-V3's: 58 layers of 256 experts, 288 replicas on 32 GPUs.
void expert_eplb(benchmark::State& state) {
  const auto loads = expert_loads(58, 256, 1);
  const ExpertGrid grid{288, static_cast<int>(state.range(0)), static_cast<int>(state.range(1)),
                        32};
  for (auto _ : state) benchmark::DoNotOptimize(rebalance_experts(loads, grid).max_count);
}

void expert_adapt(benchmark::State& state) {
  const ExpertGrid grid{288, 8, 4, 32};
  const auto current = rebalance_experts(expert_loads(58, 256, 1), grid);
  const auto loads = expert_loads(58, 256, 2);
  for (auto _ : state) {
    benchmark::DoNotOptimize(adapt_experts(loads, grid, current, {{}, 1, 100, 1}).cost_s);
  }
}

// Arguments: groups, nodes.
BENCHMARK(expert_eplb)->Args({8, 4})->Args({1, 1})->Args({8, 3})->Unit(benchmark::kMillisecond);
BENCHMARK(expert_adapt)->Unit(benchmark::kMillisecond);
// Arguments: layers, devices, kinds of devices.
BENCHMARK(optimal_chain)->Args({128, 32, 32})->Args({50, 8, 8})->Unit(benchmark::kMicrosecond);
BENCHMARK(optimal_bidirectional)
    ->Args({128, 32, 32})
    ->Args({50, 8, 8})
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(optimal_any_order)
    ->Args({128, 12, 12})
    ->Args({128, 32, 3})
    ->Args({128, 32, 32})
    ->Unit(benchmark::kMillisecond);

}  // namespace

}  // namespace pipemark

BENCHMARK_MAIN();
