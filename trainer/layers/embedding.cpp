#include "trainer/layers/embedding.hpp"

namespace pipemark {

void EmbeddingLayer::forward(Stream stream, Tensor tokens, Tensor x) {
  ops_.embedding_forward(stream, tokens, token_.w, position_.w, x, shape_.rows(), shape_.tokens,
                         shape_.channels);
}

void EmbeddingLayer::backward_weight(Stream stream, Tensor tokens, Tensor dx) {
  ops_.embedding_backward(stream, tokens, dx, token_.dw, position_.dw, shape_.rows(), shape_.tokens,
                          shape_.channels);
}

}  // namespace pipemark
