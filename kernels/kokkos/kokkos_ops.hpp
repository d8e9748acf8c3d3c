// KokkosOps: Ops in fp32 by Kokkos kernels on the host execution space, one thread a rank, large
// products by oneDNN. Kernels are in one file a topic; every sum has an order that depends on
// shapes alone, so a row's bits do not depend on what else is in memory or which rank computes it.
#pragma once

#include "kernels/host_device.hpp"
#include "kernels/ops.hpp"

namespace pipemark::kokkos {

class KokkosOps final : public Ops {
 public:
  KokkosOps();

  std::string name() const override { return "kokkos"; }
  Device& device() override { return device_; }
  DType activation_dtype() const override { return DType::f32; }
  std::size_t workspace_bytes(const AttentionShape& attention,
                              int vocabulary_padded) const override;
  void set_workspace(Tensor workspace) override { workspace_ = workspace; }

  void embedding_forward(Stream, Tensor tokens_i32, Tensor wte, Tensor wpe, Tensor x,
                         std::int64_t rows, int tokens, int channels) override;
  void embedding_backward(Stream, Tensor tokens_i32, Tensor dx, Tensor dwte, Tensor dwpe,
                          std::int64_t rows, int tokens, int channels) override;

  void layer_norm_forward(Stream, Tensor x, Tensor w, Tensor b, Tensor y, Tensor mean, Tensor rstd,
                          std::int64_t rows, int channels) override;
  void residual_layer_norm_forward(Stream, Tensor a, Tensor b, Tensor residual_out, Tensor w,
                                   Tensor bias, Tensor y, Tensor mean, Tensor rstd,
                                   std::int64_t rows, int channels) override;
  void layer_norm_backward(Stream, Tensor dy, Tensor x, Tensor w, Tensor mean, Tensor rstd,
                           Tensor dresidual, Tensor dx, Tensor dw, Tensor db, std::int64_t rows,
                           int channels, Tensor dx_sums, bool accumulate) override;

  void linear_forward(Stream, LinearShape, Tensor x, Tensor w, Tensor b, Tensor y) override;
  void linear_gelu_forward(Stream, LinearShape, Tensor x, Tensor w, Tensor b, Tensor pre,
                           Tensor y) override;
  void linear_backward_input(Stream, LinearShape, Tensor dy, Tensor w, Tensor dx) override;
  void linear_gelu_backward_input(Stream, LinearShape, Tensor dy, Tensor w, Tensor pre, Tensor dpre,
                                  Tensor db, bool accumulate) override;
  void linear_backward_weight(Stream, LinearShape, Tensor dy, Tensor x, Tensor dw, Tensor db,
                              bool accumulate) override;

  void gelu_forward(Stream, Tensor x, Tensor y, std::int64_t count) override;
  void gelu_backward(Stream, Tensor dy, Tensor x, Tensor dx, std::int64_t count) override;
  void residual_forward(Stream, Tensor a, Tensor b, Tensor out, std::int64_t count) override;

  void attention_forward(Stream, AttentionShape, Tensor qkv, Tensor out, Tensor lse) override;
  void attention_backward(Stream, AttentionShape, Tensor dout, Tensor qkv, Tensor out, Tensor lse,
                          Tensor dqkv) override;

  void softmax_cross_entropy(Stream, Tensor logits, Tensor targets_i32, Tensor losses,
                             std::int64_t rows, int vocabulary, int vocabulary_padded, float scale,
                             bool with_gradient) override;

  void router_forward(Stream, RouterShape, Tensor logits, Tensor bias, Tensor probabilities,
                      Tensor chosen_i32, Tensor gates) override;
  void router_backward(Stream, RouterShape, Tensor probabilities, Tensor chosen_i32, Tensor gates,
                       Tensor dgates, Tensor balance, Tensor dlogits) override;
  void gather_rows(Stream, Tensor x, Tensor index_i32, Tensor out, std::int64_t count,
                   int channels) override;
  void combine_rows(Stream, Tensor rows, Tensor place_i32, Tensor gates, Tensor y,
                    std::int64_t count, int top_k, int channels) override;
  void combine_rows_backward(Stream, Tensor dy, Tensor rows, Tensor place_i32, Tensor gates,
                             Tensor drows, Tensor dgates, std::int64_t count, int top_k,
                             int channels) override;

  void add_scaled_sum(Stream, Tensor x, std::int64_t count, float scale, Tensor sum) override;

  void squared_norms(Stream, Tensor gradients, std::span<const ParamRange> ranges,
                     Tensor squared) override;
  void clip_scale(Stream, Tensor squared, std::int64_t count, double clip, Tensor norm,
                  Tensor scale) override;
  void adamw(Stream, Tensor master, Tensor weights, Tensor gradients, Tensor m, Tensor v,
             std::span<const ParamRange> ranges, const AdamWSettings& settings,
             Tensor gradient_scale) override;
  void accumulate(Stream, Tensor x, Tensor accumulator, std::int64_t count) override;
  void convert(Stream, Tensor src, Tensor dst, std::int64_t count) override;

 private:
  HostDevice device_;
  Tensor workspace_;
};

std::unique_ptr<Ops> make_kokkos_ops();

}  // namespace pipemark::kokkos
