// HeadLayer: final LayerNorm, logits = norm table^T [N, Vp], and the loss. F leaves the gradient of
// the mean loss in the logits' memory, so I and W need no other room.
#pragma once

#include "trainer/layers/layer.hpp"

namespace pipemark {

/// N (2 C a + 8 + Vp a) bytes.
struct HeadActivations {
  Tensor x;                 ///< [N, C] the head's input; the boundary on a first layer
  Tensor norm, mean, rstd;  ///< [N, C], fp32 [N] twice
  Tensor logits;            ///< [N, Vp], then their gradient

  static HeadActivations take(const LayerShape& shape, DType dtype, bool own_input, Arena& arena);
};

class HeadLayer {
 public:
  HeadLayer(Ops& ops, const LayerShape& shape, Weight norm_w, Weight norm_b, Weight table)
      : ops_(ops), shape_(shape), norm_w_(norm_w), norm_b_(norm_b), table_(table) {}

  struct Loss {
    Tensor targets;  ///< [N] i32
    Tensor mean;     ///< one fp32: set to the mean loss of the micro-batch; empty: not wanted
    float gradient_scale = 0;  ///< 1 / tokens of the whole batch
    bool with_gradient = true;
  };
  /// As BlockLayer::forward.
  void forward(Stream stream, Flow flow, HeadActivations& kept, const GptScratch& scratch,
               const Loss& loss);
  /// Gradients are added to, or written where `accumulate` is false.
  void backward_input(Stream stream, const HeadActivations& kept, const GptScratch& scratch,
                      Tensor dx, bool accumulate);
  void backward_weight(Stream stream, const HeadActivations& kept, bool accumulate);

 private:
  LinearShape linear() const { return {shape_.rows(), shape_.channels, shape_.vocabulary_padded}; }

  Ops& ops_;
  LayerShape shape_;
  Weight norm_w_, norm_b_, table_;
};

}  // namespace pipemark
