#include "trainer/layers/head.hpp"

namespace pipemark {

HeadActivations HeadActivations::take(const LayerShape& shape, DType dtype, bool own_input,
                                      Arena& arena) {
  HeadActivations kept;
  if (own_input) kept.x = arena.take(shape.elements(), dtype, "head/x");
  kept.norm = arena.take(shape.elements(), dtype, "head/norm");
  kept.mean = arena.take(shape.rows(), DType::f32, "head/norm/mean");
  kept.rstd = arena.take(shape.rows(), DType::f32, "head/norm/rstd");
  kept.logits = arena.take(shape.rows() * shape.vocabulary_padded, dtype, "head/logits");
  return kept;
}

void HeadLayer::forward(Stream stream, Flow flow, HeadActivations& kept, const GptScratch& scratch,
                        const Loss& loss) {
  const std::int64_t N = shape_.rows();
  if (flow.addend) {
    ops_.residual_layer_norm_forward(stream, flow.residual, flow.addend, kept.x, norm_w_.w,
                                     norm_b_.w, kept.norm, kept.mean, kept.rstd, N,
                                     shape_.channels);
  } else {
    ops_.layer_norm_forward(stream, kept.x, norm_w_.w, norm_b_.w, kept.norm, kept.mean, kept.rstd,
                            N, shape_.channels);
  }
  ops_.linear_softmax_cross_entropy(stream, linear(), kept.norm, table_.w, kept.logits,
                                    loss.targets, scratch.row_losses, shape_.vocabulary,
                                    loss.gradient_scale, loss.with_gradient);
  if (!loss.mean) return;
  ops_.device().fill_zero(stream, loss.mean.data, loss.mean.bytes());
  ops_.add_scaled_sum(stream, scratch.row_losses, N, 1.0f / static_cast<float>(N), loss.mean);
}

void HeadLayer::backward_input(Stream stream, const HeadActivations& kept,
                               const GptScratch& scratch, Tensor dx, bool accumulate) {
  ops_.linear_backward_input(stream, linear(), kept.logits, table_.w, scratch.dnorm);
  ops_.layer_norm_backward(stream, scratch.dnorm, kept.x, norm_w_.w, kept.mean, kept.rstd, Tensor{},
                           dx, norm_w_.dw, norm_b_.dw, shape_.rows(), shape_.channels, Tensor{},
                           accumulate);
}

void HeadLayer::backward_weight(Stream stream, const HeadActivations& kept, bool accumulate) {
  ops_.linear_backward_weight(stream, linear(), kept.logits, kept.norm, table_.dw, Tensor{},
                              accumulate);
}

}  // namespace pipemark
