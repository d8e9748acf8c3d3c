#include "trainer/layers/layer.hpp"

namespace pipemark {

AttentionDeferred AttentionDeferred::take(const LayerShape& shape, DType dtype, Arena& arena) {
  return {arena.take(shape.elements(), dtype, "block/deferred/dresidual"),
          arena.take(3 * shape.elements(), dtype, "block/deferred/dqkv")};
}

BlockDeferred BlockDeferred::take(const LayerShape& shape, DType dtype, Arena& arena) {
  return {AttentionDeferred::take(shape, dtype, arena),
          arena.take(4 * shape.elements(), dtype, "block/deferred/dpre")};
}

GptScratch GptScratch::take(Ops& ops, const ModelConfig& model, int sequences, Arena& arena) {
  const LayerShape shape(model, sequences);
  const DType act = ops.activation_dtype();
  GptScratch scratch;
  scratch.addend = arena.take(shape.elements(), act, "scratch/addend");
  scratch.dnorm = arena.take(shape.elements(), act, "scratch/dnorm");
  for (Tensor& gradient : scratch.gradient) {
    gradient = arena.take(shape.elements(), act, "scratch/gradient");
  }
  scratch.block = BlockDeferred::take(shape, act, arena);
  scratch.row_losses = arena.take(shape.rows(), DType::f32, "scratch/row_losses");
  const std::size_t bytes = ops.workspace_bytes(shape.attention(), shape.vocabulary_padded);
  const auto floats = static_cast<std::int64_t>((bytes + sizeof(float) - 1) / sizeof(float));
  scratch.workspace = arena.take(floats, DType::f32, "scratch/workspace");
  if (!arena.planning()) ops.set_workspace(scratch.workspace);
  return scratch;
}

}  // namespace pipemark
