// BlockLayer: one pre-LayerNorm transformer block,
//
//   r = x + projection(attention(qkv(norm(x))))
//   y = r + projection(gelu(expand(norm(r))))
//
// whose last sum is left to the next layer's LayerNorm (Flow). I makes all input gradients and the
// LayerNorms' dw, db; W the four linear layers' dw, db, from the activations, the block's output
// gradient and BlockDeferred.
#pragma once

#include "trainer/layers/layer.hpp"

namespace pipemark {

/// What forward keeps for one micro-batch: N (16 C a + 16 + 4 H) bytes.
struct BlockActivations {
  Tensor x;                    ///< [N, C] the block's input; the boundary on a first layer
  Tensor norm1, mean1, rstd1;  ///< [N, C], fp32 [N] twice
  Tensor qkv;                  ///< [N, 3C]
  Tensor attention, lse;       ///< [N, C], fp32 [B, H, T]
  Tensor residual;             ///< [N, C] r
  Tensor norm2, mean2, rstd2;  ///< [N, C], fp32 [N] twice
  Tensor pre, gelu;            ///< [N, 4C] twice

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
                      BlockDeferred& deferred, const GptScratch& scratch, Tensor dx);
  void backward_weight(Stream stream, const BlockActivations& kept, Tensor dy,
                       const BlockDeferred& deferred);

 private:
  LinearShape linear(int in, int out) const {
    return {shape_.rows(), in * shape_.channels, out * shape_.channels};
  }

  Ops& ops_;
  LayerShape shape_;
  Weight norm1_w_, norm1_b_, qkv_w_, qkv_b_, attention_w_, attention_b_;
  Weight norm2_w_, norm2_b_, expand_w_, expand_b_, mlp_w_, mlp_b_;
};

}  // namespace pipemark
