#include "trainer/layers/block.hpp"

namespace pipemark {

BlockActivations BlockActivations::take(const LayerShape& shape, DType dtype, bool own_input,
                                        Arena& arena) {
  const AttentionActivations attention = AttentionActivations::take(shape, dtype, own_input, arena);
  return {attention, arena.take(4 * shape.elements(), dtype, "block/mlp/pre"),
          arena.take(4 * shape.elements(), dtype, "block/mlp/gelu")};
}

BlockLayer::BlockLayer(Ops& ops, const LayerShape& shape, const Weight (&weights)[kWeights])
    : ops_(ops),
      shape_(shape),
      attention_(ops, shape, weights),
      expand_w_(weights[AttentionLayer::kWeights]),
      expand_b_(weights[AttentionLayer::kWeights + 1]),
      mlp_w_(weights[AttentionLayer::kWeights + 2]),
      mlp_b_(weights[AttentionLayer::kWeights + 3]) {}

Flow BlockLayer::forward(Stream stream, Flow flow, BlockActivations& kept,
                         const GptScratch& scratch) {
  attention_.forward(stream, flow, kept, scratch);
  ops_.linear_gelu_forward(stream, linear(1, 4), kept.norm2, expand_w_.w, expand_b_.w, kept.pre,
                           kept.gelu);
  ops_.linear_forward(stream, linear(4, 1), kept.gelu, mlp_w_.w, mlp_b_.w, scratch.addend);
  return {kept.residual, scratch.addend};
}

void BlockLayer::backward_input(Stream stream, const BlockActivations& kept, Tensor dy,
                                BlockDeferred& deferred, const GptScratch& scratch, Tensor dx,
                                bool accumulate) {
  // dy reaches r both directly and through the MLP.
  ops_.linear_gelu_backward_input(stream, linear(4, 1), dy, mlp_w_.w, kept.pre, deferred.dpre,
                                  expand_b_.dw, accumulate);
  ops_.linear_backward_input(stream, linear(1, 4), deferred.dpre, expand_w_.w, scratch.dnorm);
  attention_.backward_input(stream, kept, dy, deferred, scratch, dx, accumulate);
}

void BlockLayer::backward_weight(Stream stream, const BlockActivations& kept, Tensor dy,
                                 const BlockDeferred& deferred, bool accumulate) {
  ops_.linear_backward_weight(stream, linear(4, 1), dy, kept.gelu, mlp_w_.dw, mlp_b_.dw,
                              accumulate);
  ops_.linear_backward_weight(stream, linear(1, 4), deferred.dpre, kept.norm2, expand_w_.dw,
                              Tensor{}, accumulate);
  attention_.backward_weight(stream, kept, deferred, accumulate);
}

}  // namespace pipemark
