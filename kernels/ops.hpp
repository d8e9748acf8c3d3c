// Ops: the trainer's operations on one device, as contracts. Each call takes a stream, enqueues and
// returns. Backends: reference (plain loops, the judge), kokkos (fp32), cuda (bf16 activations and
// weights, fp32 accumulation, statistics, gradients of weights, master weights and moments).
//
// Legend: B sequences of a micro-batch, T tokens of a sequence, C channels, H heads, D = C / H head
// size, V vocabulary, Vp vocabulary padded, N = B T rows, E experts of which a row takes k. `act`
// is activation_dtype(). All matrices are row-major; a linear layer is y[N, Cout] = x[N, Cin]
// w[Cout, Cin]^T + b[Cout], as PyTorch's. FLOPs count a multiply-add as 2. Gradients of weights
// (dw, db) are fp32 and are ADDED to, or written where the call says `accumulate` false (a step's
// first micro-batch: nothing to zero or to read); gradients of activations are written. FLOPs and
// bytes of each call are functions in kernels/op_cost.hpp. On the host backends a token or target
// that is not below V is a broken contract (LogicError).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "kernels/device.hpp"

namespace pipemark {

struct LinearShape {
  std::int64_t rows = 0;  ///< N
  int in = 0;             ///< Cin
  int out = 0;            ///< Cout
  /// N is another from call to call: a backend that tunes by shape must not do so for each N.
  bool varying_rows = false;
};

struct AttentionShape {
  int batch = 0;     ///< B
  int tokens = 0;    ///< T
  int channels = 0;  ///< C
  int heads = 0;     ///< H, divides C
};

/// A router over E experts of which each row takes k.
struct RouterShape {
  std::int64_t rows = 0;  ///< N
  int tokens = 0;         ///< T: rows of a sequence
  int experts = 0;        ///< E
  int top_k = 0;          ///< k
};

/// G linear layers of one shape side by side, each on its own rows.
struct GroupedShape {
  std::span<const std::int64_t> offsets;  ///< G + 1: group g has rows [offsets[g], offsets[g + 1])
  int in = 0, out = 0;
  std::int64_t stride = 0;  ///< elements from a group's weight (or bias) to the next group's
  int groups() const { return static_cast<int>(offsets.size()) - 1; }
};

/// A contiguous part of a stage's flat parameter buffer: one parameter tensor.
struct ParamRange {
  std::int64_t offset = 0;  ///< elements
  std::int64_t size = 0;
  bool decay = false;  ///< weight decay applies (matrices, not biases or LayerNorm)
};

/// AdamW (Loshchilov & Hutter, 2019), bias-corrected, `step` counted from 1.
struct AdamWSettings {
  float learning_rate = 0, beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f, weight_decay = 0.1f;
  std::int64_t step = 1;
};

class Ops {
 public:
  Ops() = default;
  Ops(const Ops&) = delete;
  Ops& operator=(const Ops&) = delete;
  virtual ~Ops() = default;

  virtual std::string name() const = 0;  ///< "reference", "kokkos" or "cuda"
  virtual Device& device() = 0;
  virtual DType activation_dtype() const = 0;
  /// Bytes of scratch that a call may need at the largest shapes; taken from the arena once by the
  /// owner and handed over by set_workspace before the first call. With attention.batch 0: what
  /// the calls other than attention and embedding need.
  virtual std::size_t workspace_bytes(const AttentionShape& attention,
                                      int vocabulary_padded) const = 0;
  virtual void set_workspace(Tensor workspace) = 0;

  /// x[N, C] = wte[tokens[n], :] + wpe[n mod T, :]. N C FLOPs; N C read twice and
  /// written once.
  virtual void embedding_forward(Stream, Tensor tokens_i32, Tensor wte, Tensor wpe, Tensor x,
                                 std::int64_t rows, int tokens, int channels) = 0;
  /// dwte[tokens[n], :] += dx[n, :], dwpe[n mod T, :] += dx[n, :], in a fixed order of n (bitwise
  /// repeatable).
  virtual void embedding_backward(Stream, Tensor tokens_i32, Tensor dx, Tensor dwte, Tensor dwpe,
                                  std::int64_t rows, int tokens, int channels) = 0;
  /// Whether a call adds one number to an element of dwte: the finished sum over its rows. Then
  /// adding to another part of a gradient gives the bits of a sum of the two parts.
  virtual bool embedding_adds_once() const { return false; }

  /// y = (x - mean) rstd w + b over C, eps 1e-5, variance over C (not C - 1); mean[N], rstd[N]
  /// are fp32 and are kept for backward. 8 N C FLOPs; x read once, y written once.
  virtual void layer_norm_forward(Stream, Tensor x, Tensor w, Tensor b, Tensor y, Tensor mean,
                                  Tensor rstd, std::int64_t rows, int channels) = 0;
  /// residual_out = a + b, then y = layer_norm(residual_out): one pass over memory.
  virtual void residual_layer_norm_forward(Stream, Tensor a, Tensor b, Tensor residual_out,
                                           Tensor w, Tensor bias, Tensor y, Tensor mean,
                                           Tensor rstd, std::int64_t rows, int channels) = 0;
  /// With hat = (x - mean) rstd, g = dy w and means over C:
  /// dx = [dresidual +] rstd (g - mean(g) - hat mean(g hat)); dw += sum_n dy hat, db += sum_n dy.
  /// `dresidual` may be empty or may be dx itself (in place). 15 N C FLOPs. dx_sums[C] += column
  /// sums of dx unless it is empty: the bias gradient of the linear layer whose output was added to
  /// the residual stream here.
  virtual void layer_norm_backward(Stream, Tensor dy, Tensor x, Tensor w, Tensor mean, Tensor rstd,
                                   Tensor dresidual, Tensor dx, Tensor dw, Tensor db,
                                   std::int64_t rows, int channels, Tensor dx_sums = {},
                                   bool accumulate = true) = 0;

  /// y = x w^T + b (b may be empty). 2 N Cin Cout FLOPs.
  virtual void linear_forward(Stream, LinearShape, Tensor x, Tensor w, Tensor b, Tensor y) = 0;
  /// pre = x w^T + b, y = gelu(pre), both kept.
  virtual void linear_gelu_forward(Stream, LinearShape, Tensor x, Tensor w, Tensor b, Tensor pre,
                                   Tensor y) = 0;
  /// dx[N, Cin] = dy[N, Cout] w. 2 N Cin Cout FLOPs.
  virtual void linear_backward_input(Stream, LinearShape, Tensor dy, Tensor w, Tensor dx) = 0;
  /// dpre[N, Cin] = (dy w) * gelu'(pre): the input gradient of the linear AFTER the GELU and the
  /// GELU's own, fused. db[Cin] += column sums of dpre unless it is empty: the bias gradient of the
  /// linear BEFORE the GELU.
  virtual void linear_gelu_backward_input(Stream, LinearShape, Tensor dy, Tensor w, Tensor pre,
                                          Tensor dpre, Tensor db = {}, bool accumulate = true) = 0;
  /// dw[Cout, Cin] += dy^T x, db[Cout] += column sums of dy (db may be empty). 2 N Cin Cout FLOPs.
  virtual void linear_backward_weight(Stream, LinearShape, Tensor dy, Tensor x, Tensor dw,
                                      Tensor db, bool accumulate = true) = 0;

  /// GELU, tanh form as GPT-2: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
  virtual void gelu_forward(Stream, Tensor x, Tensor y, std::int64_t count) = 0;
  virtual void gelu_backward(Stream, Tensor dy, Tensor x, Tensor dx, std::int64_t count) = 0;
  /// out = a + b; out may be a or b.
  virtual void residual_forward(Stream, Tensor a, Tensor b, Tensor out, std::int64_t count) = 0;

  /// Causal multi-head attention: qkv[B, T, 3C] (q, k, v, each heads-major), out[B, T, C], scale
  /// 1/sqrt(D); lse[B, H, T] fp32 is kept. Never holds B H T T elements. 2 B T T C FLOPs (causal
  /// half).
  virtual void attention_forward(Stream, AttentionShape, Tensor qkv, Tensor out, Tensor lse) = 0;
  /// dqkv[B, T, 3C] from dout, recomputing probabilities from lse. 5 B T T C FLOPs (causal half).
  virtual void attention_backward(Stream, AttentionShape, Tensor dout, Tensor qkv, Tensor out,
                                  Tensor lse, Tensor dqkv) = 0;

  /// In place: logits[N, Vp] become (softmax(logits over V) - onehot(target)) * scale, columns
  /// V..Vp-1 become 0; losses[N] (fp32) = -log softmax[target]. With `with_gradient` false the
  /// logits are undefined afterwards.
  virtual void softmax_cross_entropy(Stream, Tensor logits, Tensor targets_i32, Tensor losses,
                                     std::int64_t rows, int vocabulary, int vocabulary_padded,
                                     float scale, bool with_gradient) = 0;
  /// linear_forward without a bias followed by softmax_cross_entropy: x[N, Cin], w[Vp, Cin],
  /// logits[N, Vp] (shape.out = Vp). A backend may go by chunks of rows whose logits stay in its
  /// cache.
  virtual void linear_softmax_cross_entropy(Stream stream, LinearShape shape, Tensor x, Tensor w,
                                            Tensor logits, Tensor targets_i32, Tensor losses,
                                            int vocabulary, float scale, bool with_gradient) {
    linear_forward(stream, shape, x, w, Tensor{}, logits);
    softmax_cross_entropy(stream, logits, targets_i32, losses, shape.rows, vocabulary, shape.out,
                          scale, with_gradient);
  }

  /// probabilities[N, E] (fp32) = softmax(logits[N, E]); chosen[N, k] (i32) = the k experts of
  /// highest probability + bias, best first, the lower index on a tie; gates[N, k] (fp32) = their
  /// probabilities, divided by their sum when k > 1. `bias` (fp32) has E elements, or N E for a
  /// bias of each row's own, and steers the choice only. About 5 N E FLOPs.
  virtual void router_forward(Stream, RouterShape, Tensor logits, Tensor bias, Tensor probabilities,
                              Tensor chosen_i32, Tensor gates) = 0;
  /// dlogits[N, E] from dgates[N, k]; `balance` (fp32, [N / T, E], may be empty) is added to the
  /// gradient of each probability of its sequence. About 6 N E FLOPs.
  virtual void router_backward(Stream, RouterShape, Tensor probabilities, Tensor chosen_i32,
                               Tensor gates, Tensor dgates, Tensor balance, Tensor dlogits) = 0;
  /// out[m, :] = x[index[m], :], or 0 where the index is -1; m < count.
  virtual void gather_rows(Stream, Tensor x, Tensor index_i32, Tensor out, std::int64_t count,
                           int channels) = 0;
  /// y[n, :] = sum over j < k of gates[n, j] rows[place[n, j], :], in this order; a place of -1
  /// counts 0, empty gates count 1. 2 N k C FLOPs.
  virtual void combine_rows(Stream, Tensor rows, Tensor place_i32, Tensor gates, Tensor y,
                            std::int64_t count, int top_k, int channels) = 0;
  /// drows[place[n, j], :] = gates[n, j] dy[n, :]; dgates[n, j] = dy[n, :] . rows[place[n, j], :],
  /// or 0 where the place is -1. 3 N k C FLOPs.
  virtual void combine_rows_backward(Stream, Tensor dy, Tensor rows, Tensor place_i32, Tensor gates,
                                     Tensor drows, Tensor dgates, std::int64_t count, int top_k,
                                     int channels) = 0;

  /// The linear operations above for each group of rows with its own weight. `w`, `b`, `dw` and
  /// `db` begin at the first group's. Here they go group by group; a backend may do better.
  virtual void grouped_linear_forward(Stream, GroupedShape, Tensor x, Tensor w, Tensor b, Tensor y);
  virtual void grouped_linear_gelu_forward(Stream, GroupedShape, Tensor x, Tensor w, Tensor b,
                                           Tensor pre, Tensor y);
  virtual void grouped_linear_backward_input(Stream, GroupedShape, Tensor dy, Tensor w, Tensor dx);
  virtual void grouped_linear_gelu_backward_input(Stream, GroupedShape, Tensor dy, Tensor w,
                                                  Tensor pre, Tensor dpre);
  virtual void grouped_linear_backward_weight(Stream, GroupedShape, Tensor dy, Tensor x, Tensor dw,
                                              Tensor db);

  /// *sum += scale * sum of x[0..count): fp32 in, one fp32 out, in a fixed order.
  virtual void add_scaled_sum(Stream, Tensor x, std::int64_t count, float scale, Tensor sum) = 0;

  /// squared[i] (fp32) = sum of gradients[range i]^2, accumulated in fp64 or by a fixed tree.
  virtual void squared_norms(Stream, Tensor gradients, std::span<const ParamRange> ranges,
                             Tensor squared) = 0;
  /// *norm = sqrt(sum of squared[0..count)), added in fp64 in order; *scale = min(1, clip / (*norm
  /// + 1e-6)) as PyTorch's clip_grad_norm_, 1 where clip is 0. fp32 results of fp64 values: any
  /// backend and a host loop give the same bits.
  virtual void clip_scale(Stream, Tensor squared, std::int64_t count, double clip, Tensor norm,
                          Tensor scale) = 0;
  /// One AdamW step on flat buffers: master, gradients, m, v fp32; `weights` gets the result in
  /// `act` (it may be master itself when act is fp32). Gradients are multiplied by *gradient_scale
  /// (one fp32 in device memory: the clip factor) first.
  virtual void adamw(Stream, Tensor master, Tensor weights, Tensor gradients, Tensor m, Tensor v,
                     std::span<const ParamRange> ranges, const AdamWSettings& settings,
                     Tensor gradient_scale) = 0;
  /// accumulator (fp32) += x (fp32): for summing replicas' gradients.
  virtual void accumulate(Stream, Tensor x, Tensor accumulator, std::int64_t count) = 0;
  /// dst (act) = src (fp32), e.g. the working copy of the master weights.
  virtual void convert(Stream, Tensor src, Tensor dst, std::int64_t count) = 0;
};

/// name: "reference", "kokkos" or "cuda"; `device_index` the local GPU. Throws UserError naming
/// what is built in when it is not.
std::unique_ptr<Ops> make_ops(const std::string& name, int device_index = 0);

}  // namespace pipemark
