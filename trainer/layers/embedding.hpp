// EmbeddingLayer: x[n] = token table[tokens[n]] + position table[n mod T]. Its backward is all W:
// there is no input gradient, and its output's gradient is what W needs.
#pragma once

#include "trainer/layers/layer.hpp"

namespace pipemark {

class EmbeddingLayer {
 public:
  EmbeddingLayer(Ops& ops, const LayerShape& shape, Weight token, Weight position)
      : ops_(ops), shape_(shape), token_(token), position_(position) {}

  /// tokens [N] i32 -> x [N, C].
  void forward(Stream stream, Tensor tokens, Tensor x);
  void backward_weight(Stream stream, Tensor tokens, Tensor dx);

 private:
  Ops& ops_;
  LayerShape shape_;
  Weight token_, position_;
};

}  // namespace pipemark
