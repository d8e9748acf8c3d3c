#include "trainer/layer_times.hpp"

#include <algorithm>
#include <array>

#include "trainer/run_plan.hpp"

namespace pipemark {

namespace {

constexpr int kWarmUps = 2, kRounds = 5;  // medians of five; the first touch memory and code
/// A GPU's rounds go on for this long, so that the fast ranks of a shared one load the slow ones.
constexpr double kLoadS = 0.05;

struct Bench {
  GptScratch scratch;
  std::unique_ptr<GptStage> stage;
  Tensor input, output, grad_output, grad_input;
};

std::array<double, 3> median_times(Ops& ops, const ModelConfig& model, const MicroBatchShape& shape,
                                   int layer) {
  MicroBatchShape one = shape;
  one.micro_batches = 1;
  const auto build = [&](Arena& arena) {
    Bench bench;
    bench.scratch = GptScratch::take(ops, model, one.sequences, arena);
    for (Tensor* tensor : {&bench.input, &bench.output, &bench.grad_output, &bench.grad_input}) {
      *tensor = arena.take(LayerShape(model, one.sequences).elements(), ops.activation_dtype(),
                           "layer times/boundary");
    }
    return bench;
  };
  const auto add_stage = [&](Bench& bench, Arena& arena) {
    bench.stage = std::make_unique<GptStage>(ops, model, LayerRange{layer, layer + 1}, one,
                                             StageSlots{1, 1}, false, bench.scratch, arena);
  };
  Arena planning;
  {
    Bench planned = build(planning);
    add_stage(planned, planning);
  }
  Arena arena(ops.device(), MemoryKind::device, planning.used_bytes());
  Bench bench = build(arena);
  add_stage(bench, arena);

  Device& device = ops.device();
  const Stream stream = device.stream(StreamRole::compute);
  for (const Tensor& tensor : {bench.input, bench.grad_output}) {
    device.fill_zero(stream, tensor.data, tensor.bytes());
  }
  bench.stage->parameters().initialise(1);
  const std::vector<std::int32_t> tokens(static_cast<std::size_t>(one.sequences) * model.context,
                                         1);
  bench.stage->set_batch(stream, tokens, tokens);
  const bool first = bench.stage->has_embedding(), last = bench.stage->has_head();
  const Tensor in = first ? Tensor{} : bench.input, out = last ? Tensor{} : bench.output;
  const Tensor grad_out = last ? Tensor{} : bench.grad_output;
  const Tensor grad_in = first ? Tensor{} : bench.grad_input;

  std::array<Event, 4> events;
  for (auto& event : events) event = device.make_event();
  std::array<std::vector<double>, 3> times;
  const double load_s = device.is_host() ? 0 : kLoadS;
  const double begin_s = now_s();
  for (int round = 0; round < kWarmUps + kRounds || now_s() - begin_s < load_s; ++round) {
    device.record(events[0], stream);
    bench.stage->forward(stream, 0, 0, in, out);
    device.record(events[1], stream);
    bench.stage->backward_input(stream, 0, 0, 0, grad_out, grad_in);
    device.record(events[2], stream);
    bench.stage->backward_weight(stream, 0, 0, 0);
    device.record(events[3], stream);
    device.synchronize(stream);
    for (std::size_t i = 0; round >= kWarmUps && i < 3; ++i) {
      times[i].push_back(device.elapsed_s(events[i], events[i + 1]));
    }
  }
  for (const auto& event : events) device.destroy(event);
  std::array<double, 3> medians{};
  for (std::size_t i = 0; i < 3; ++i) {
    const auto middle = times[i].begin() + static_cast<std::ptrdiff_t>(times[i].size() / 2);
    std::nth_element(times[i].begin(), middle, times[i].end());
    medians[i] = *middle;
  }
  return medians;
}

}  // namespace

std::vector<LayerCost> measure_layer_times(Ops& ops, const ModelConfig& model,
                                           const MicroBatchShape& shape, Group& world,
                                           const Grid& grid, std::vector<double>& speeds) {
  std::vector<LayerCost> layers = layer_parameter_costs(model);
  const std::array<int, 3> kinds{0, 1, model.layers + 1};
  std::vector<double> times;
  for (const int layer : kinds) {
    world.barrier();
    for (const double t : median_times(ops, model, shape, layer)) times.push_back(t);
  }
  const double block_s = times[3] + times[4] + times[5];
  world.allreduce_sum(std::span<double>(times), "layer times");
  const int ranks = grid.pipeline.size();
  std::vector<double> relative(static_cast<std::size_t>(ranks), 0.0);
  relative[static_cast<std::size_t>(grid.pipeline_rank)] =
      block_s * ranks / (times[3] + times[4] + times[5]);
  world.allreduce_sum(std::span<double>(relative), "speeds of ranks");
  if (world.allreduce_sum(ops.device().is_host() ? 0.0 : 1.0, "GPUs") > 0) {
    for (const double time : relative) speeds.push_back(1 / time);
  }
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    const std::size_t kind = layer == 0 ? 0 : layer + 1 == layers.size() ? 2 : 1;
    layers[layer].forward_s = times[3 * kind] / world.size();
    layers[layer].input_grad_s = times[3 * kind + 1] / world.size();
    layers[layer].weight_grad_s = times[3 * kind + 2] / world.size();
  }
  return layers;
}

}  // namespace pipemark
