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

bool GptScratch::fits_in_logits(const Ops& ops, const ModelConfig& model, int sequences) {
  const LayerShape shape(model, sequences);
  const std::size_t act = size_of(ops.activation_dtype());
  const std::size_t block = 8 * static_cast<std::size_t>(shape.elements()) * act;
  const std::size_t wanted =
      block + ops.workspace_bytes(shape.attention(), shape.vocabulary_padded);
  return wanted + 8 * Arena::kAlignment <=
         static_cast<std::size_t>(shape.rows()) * shape.vocabulary_padded * act;
}

GptScratch GptScratch::take(Ops& ops, const ModelConfig& model, int sequences, Arena& arena,
                            bool in_logits) {
  const LayerShape shape(model, sequences);
  const DType act = ops.activation_dtype();
  GptScratch scratch;
  scratch.in_logits = in_logits;
  scratch.addend = arena.take(shape.elements(), act, "scratch/addend");
  scratch.dnorm = in_logits ? scratch.addend : arena.take(shape.elements(), act, "scratch/dnorm");
  for (Tensor& gradient : scratch.gradient) {
    gradient = arena.take(shape.elements(), act, "scratch/gradient");
  }
  if (!in_logits) scratch.block = BlockDeferred::take(shape, act, arena);
  scratch.row_losses = arena.take(shape.rows(), DType::f32, "scratch/row_losses");
  AttentionShape served = shape.attention();
  if (in_logits) served.batch = 0;
  const std::size_t bytes = ops.workspace_bytes(served, shape.vocabulary_padded);
  const auto floats = static_cast<std::int64_t>((bytes + sizeof(float) - 1) / sizeof(float));
  scratch.workspace = arena.take(floats, DType::f32, "scratch/workspace");
  if (!arena.planning()) ops.set_workspace(scratch.workspace);
  return scratch;
}

}  // namespace pipemark
