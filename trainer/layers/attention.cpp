#include "trainer/layers/attention.hpp"

namespace pipemark {

AttentionActivations AttentionActivations::take(const LayerShape& shape, DType dtype,
                                                bool own_input, Arena& arena) {
  const std::int64_t NC = shape.elements(), N = shape.rows();
  const auto activation = [&](std::int64_t count, const char* label) {
    return arena.take(count, dtype, label);
  };
  const auto statistic = [&](std::int64_t count, const char* label) {
    return arena.take(count, DType::f32, label);
  };
  AttentionActivations kept;
  if (own_input) kept.x = activation(NC, "block/x");
  kept.norm1 = activation(NC, "block/attention/norm");
  kept.mean1 = statistic(N, "block/attention/norm/mean");
  kept.rstd1 = statistic(N, "block/attention/norm/rstd");
  kept.qkv = activation(3 * NC, "block/attention/qkv");
  kept.attention = activation(NC, "block/attention/output");
  kept.lse = statistic(N * shape.heads, "block/attention/lse");
  kept.residual = activation(NC, "block/residual");
  kept.norm2 = activation(NC, "block/mlp/norm");
  kept.mean2 = statistic(N, "block/mlp/norm/mean");
  kept.rstd2 = statistic(N, "block/mlp/norm/rstd");
  return kept;
}

AttentionLayer::AttentionLayer(Ops& ops, const LayerShape& shape, const Weight* weights)
    : ops_(ops),
      shape_(shape),
      norm1_w_(weights[0]),
      norm1_b_(weights[1]),
      qkv_w_(weights[2]),
      qkv_b_(weights[3]),
      attention_w_(weights[4]),
      attention_b_(weights[5]),
      norm2_w_(weights[6]),
      norm2_b_(weights[7]) {}

void AttentionLayer::forward(Stream stream, Flow flow, AttentionActivations& kept,
                             const GptScratch& scratch) {
  const std::int64_t N = shape_.rows();
  const int C = shape_.channels;
  if (flow.addend) {
    ops_.residual_layer_norm_forward(stream, flow.residual, flow.addend, kept.x, norm1_w_.w,
                                     norm1_b_.w, kept.norm1, kept.mean1, kept.rstd1, N, C);
  } else {
    ops_.layer_norm_forward(stream, kept.x, norm1_w_.w, norm1_b_.w, kept.norm1, kept.mean1,
                            kept.rstd1, N, C);
  }
  ops_.linear_forward(stream, linear(3), kept.norm1, qkv_w_.w, qkv_b_.w, kept.qkv);
  ops_.attention_forward(stream, shape_.attention(), kept.qkv, kept.attention, kept.lse);
  ops_.linear_forward(stream, linear(1), kept.attention, attention_w_.w, attention_b_.w,
                      scratch.addend);
  ops_.residual_layer_norm_forward(stream, kept.x, scratch.addend, kept.residual, norm2_w_.w,
                                   norm2_b_.w, kept.norm2, kept.mean2, kept.rstd2, N, C);
}

void AttentionLayer::backward_input(Stream stream, const AttentionActivations& kept, Tensor dy,
                                    AttentionDeferred& deferred, const GptScratch& scratch,
                                    Tensor dx, bool accumulate) {
  const std::int64_t N = shape_.rows();
  const int C = shape_.channels;
  ops_.layer_norm_backward(stream, scratch.dnorm, kept.residual, norm2_w_.w, kept.mean2, kept.rstd2,
                           dy, deferred.dresidual, norm2_w_.dw, norm2_b_.dw, N, C, attention_b_.dw,
                           accumulate);
  // dresidual reaches x both directly and through the attention.
  ops_.linear_backward_input(stream, linear(1), deferred.dresidual, attention_w_.w, scratch.dnorm);
  ops_.attention_backward(stream, shape_.attention(), scratch.dnorm, kept.qkv, kept.attention,
                          kept.lse, deferred.dqkv);
  ops_.linear_backward_input(stream, linear(3), deferred.dqkv, qkv_w_.w, scratch.dnorm);
  ops_.layer_norm_backward(stream, scratch.dnorm, kept.x, norm1_w_.w, kept.mean1, kept.rstd1,
                           deferred.dresidual, dx, norm1_w_.dw, norm1_b_.dw, N, C, Tensor{},
                           accumulate);
}

void AttentionLayer::backward_weight(Stream stream, const AttentionActivations& kept,
                                     const AttentionDeferred& deferred, bool accumulate) {
  ops_.linear_backward_weight(stream, linear(1), deferred.dresidual, kept.attention,
                              attention_w_.dw, Tensor{}, accumulate);
  ops_.linear_backward_weight(stream, linear(3), deferred.dqkv, kept.norm1, qkv_w_.dw, qkv_b_.dw,
                              accumulate);
}

}  // namespace pipemark
