// BlockLayer: one pre-LayerNorm transformer block, AttentionLayer and the MLP,
//
//   y = r + projection(gelu(expand(h)))
//
// whose last sum is left to the next layer's LayerNorm (Flow). I makes all input gradients, the
// LayerNorms' dw, db and the biases' gradients that are sums of what it makes (expand's and the
// attention projection's); W the four linear layers' dw and the other two's db, from the
// activations, the block's output gradient and BlockDeferred. Both add to the gradients, or write
// them where `accumulate` is false.
#pragma once

#include "trainer/layers/attention.hpp"

namespace pipemark {

/// What forward keeps for one micro-batch: N (16 C a + 16 + 4 H) bytes.
struct BlockActivations : AttentionActivations {
  Tensor pre, gelu;  ///< [N, 4C] twice

  /// `own_input`: the block is not its stage's first layer, so x is kept here.
  static BlockActivations take(const LayerShape& shape, DType dtype, bool own_input, Arena& arena);
};

class BlockLayer {
 public:
  static constexpr int kWeights = 12;  ///< in the order of layer_parameters()

  BlockLayer(Ops& ops, const LayerShape& shape, const Weight (&weights)[kWeights]);

  /// x = flow.residual + flow.addend, kept in `kept.x` (when the addend is empty, kept.x must be
  /// flow.residual). The result's addend lies in `scratch.addend`.
  Flow forward(Stream stream, Flow flow, BlockActivations& kept, const GptScratch& scratch);
  /// dx [N, C] from dy [N, C]; fills `deferred`. dx must not be dy.
  void backward_input(Stream stream, const BlockActivations& kept, Tensor dy,
                      BlockDeferred& deferred, const GptScratch& scratch, Tensor dx,
                      bool accumulate);
  void backward_weight(Stream stream, const BlockActivations& kept, Tensor dy,
                       const BlockDeferred& deferred, bool accumulate);

 private:
  LinearShape linear(int in, int out) const {
    return {shape_.rows(), in * shape_.channels, out * shape_.channels};
  }

  Ops& ops_;
  LayerShape shape_;
  AttentionLayer attention_;
  Weight expand_w_, expand_b_, mlp_w_, mlp_b_;
};

}  // namespace pipemark
