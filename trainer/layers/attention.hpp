// AttentionLayer: the first half of a pre-LayerNorm transformer block,
//
//   r = x + projection(attention(qkv(norm(x))))    h = norm2(r)
//
// where h is the input of what follows (an MLP or experts). I makes the input gradients, the
// LayerNorms' dw, db and the projection's db, a sum of what it makes; W the two linear layers' dw
// and qkv's db. Both write the gradients where `accumulate` is false.
#pragma once

#include "trainer/layers/layer.hpp"

namespace pipemark {

/// What forward keeps for one micro-batch: N (8 C a + 16 + 4 H) bytes.
struct AttentionActivations {
  Tensor x;                    ///< [N, C] the block's input; the boundary on a first layer
  Tensor norm1, mean1, rstd1;  ///< [N, C], fp32 [N] twice
  Tensor qkv;                  ///< [N, 3C]
  Tensor attention, lse;       ///< [N, C], fp32 [B, H, T]
  Tensor residual;             ///< [N, C] r
  Tensor norm2, mean2, rstd2;  ///< [N, C] h, fp32 [N] twice

  /// `own_input`: the block is not its stage's first layer, so x is kept here.
  static AttentionActivations take(const LayerShape& shape, DType dtype, bool own_input,
                                   Arena& arena);
};

class AttentionLayer {
 public:
  static constexpr int kWeights = 8;  ///< in the order of layer_parameters()

  AttentionLayer(Ops& ops, const LayerShape& shape, const Weight* weights);

  /// x = flow.residual + flow.addend, kept in `kept.x` (when the addend is empty, kept.x must be
  /// flow.residual). Uses scratch.addend.
  void forward(Stream stream, Flow flow, AttentionActivations& kept, const GptScratch& scratch);
  /// dx [N, C] from dh in scratch.dnorm and dy, which reaches r directly; fills `deferred`. dx must
  /// not be dy.
  void backward_input(Stream stream, const AttentionActivations& kept, Tensor dy,
                      AttentionDeferred& deferred, const GptScratch& scratch, Tensor dx,
                      bool accumulate = true);
  void backward_weight(Stream stream, const AttentionActivations& kept,
                       const AttentionDeferred& deferred, bool accumulate = true);

 private:
  LinearShape linear(int out) const {
    return {shape_.rows(), shape_.channels, out * shape_.channels};
  }

  Ops& ops_;
  LayerShape shape_;
  Weight norm1_w_, norm1_b_, qkv_w_, qkv_b_, attention_w_, attention_b_, norm2_w_, norm2_b_;
};

}  // namespace pipemark
