// MoeBlockLayer: a transformer block whose MLP is a mixture of experts,
//
//   p = softmax(h router^T)    {e_j} = top k of p + bias    g = gates of p
//   y = r + sum_j g_j expert_{e_j}(h),    expert_e(h) = projection_e(gelu(expand_e(h)))
//
// with experts spread over the ranks of an expert group. A row h travels to the rank of each of its
// experts and the experts' outputs travel back (dispatch and combine); the backward goes the same
// ways with gradients. Forward pauses three times (the choices on the host, the counts, the rows)
// and once for the outputs; I pauses once each way; W does not.
//
//   F: attention, router | choices | gather, send | counts | rows | experts, send | outputs |
//   combine I: combine's gradient, send | rows | experts' I, send [experts' W] | rows | router,
//   attention
//
// Rows that a rank receives in a micro-batch, at most R of them, lie by slot, then by source rank.
// R is what the arena holds: `ranks x slots x capacity` with a capacity, else the dropless worst
// case ranks x N x min(k, slots), or expert_room x N k where that is given and less; more rows end
// the run.
//
// Legend: N rows, C channels, E experts, k taken by a row, Hd an expert's width, R as above.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "trainer/expert_exchange.hpp"
#include "trainer/expert_map.hpp"
#include "trainer/layers/attention.hpp"

namespace pipemark {

/// A rank's place among the ranks that share a layer's experts.
struct ExpertGroup {
  int ranks = 1, rank = 0;
  int places = 0;                      ///< of all ranks; experts and their replicas
  ExpertExchange* exchange = nullptr;  ///< null when the rank is alone

  int slots() const { return places / ranks; }
};

struct MoeShape {
  RouterShape router;
  int channels = 0, hidden = 0;
  ExpertGroup group;
  std::int64_t capacity = 0;  ///< rows of an expert from one rank; 0: dropless
  std::int64_t room = 0;      ///< R
  float balance_scale = 0;    ///< of the gradient of the balance loss, per count

  MoeShape(const ModelConfig& model, const LayerShape& layer, const ExpertGroup& group,
           std::int64_t batch_tokens);
  std::int64_t chosen() const { return router.rows * router.top_k; }  ///< N k
};

/// Which rows came: made by F, needed until W.
struct ReceivedRows {
  std::vector<std::int32_t> counts;   ///< [ranks, slots] from each source rank
  std::vector<std::int64_t> offsets;  ///< [slots + 1] of the slots' rows
  std::vector<std::int64_t> first;    ///< [ranks, slots] where a source's rows of a slot begin
  std::int64_t rows() const { return offsets.back(); }
};

/// What forward keeps for one micro-batch beyond the attention's:
/// N (4 E + 8 k + 8 k) + a (R (C + 2 Hd) + N k C) bytes.
struct MoeActivations : AttentionActivations {
  Tensor probabilities, chosen, gates;  ///< fp32 [N, E], i32 [N, k], fp32 [N, k]
  Tensor index, place;                  ///< i32 [N k] twice, as DispatchPlan's
  Tensor rows, pre, gelu;               ///< [R, C], [R, Hd] twice: the experts', by slot
  Tensor outputs;                       ///< [N k, C] what came back, in the order of sending
  DispatchPlan plan;
  ReceivedRows received;

  static MoeActivations take(const LayerShape& shape, const MoeShape& moe, DType dtype,
                             bool own_input, Arena& arena);
};

/// What W needs beyond its activations: 4 N C + N E + R (C + Hd) elements.
struct MoeDeferred : AttentionDeferred {
  Tensor dlogits;        ///< [N, E]
  Tensor doutput, dpre;  ///< [R, C], [R, Hd] by slot
  static MoeDeferred take(const LayerShape& shape, const MoeShape& moe, DType dtype, Arena& arena);
};

/// Scratch of one forward and one backward at a time, shared by all stages of a rank.
struct MoeScratch {
  Tensor logits;                  ///< [N, E]
  Tensor send, output;            ///< [N k, C], [R, C] of a forward
  Tensor dsend, dx, dback, dsum;  ///< [N k, C], [R, C], [N k, C], [N, C] of a backward
  Tensor dgates, balance;         ///< fp32 [N, k], fp32 [B, E]
  MoeDeferred block;              ///< of the full backward
  static MoeScratch take(const LayerShape& shape, const MoeShape& moe, DType dtype, Arena& arena);
};

/// The tensors of the slots' experts: the first slot's, and elements from one slot's to the next's.
struct ExpertWeights {
  Weight expand_w, expand_b, projection_w, projection_b;
  std::int64_t stride = 0;
};

/// A micro-batch's choices on their way to the host, in page-locked memory.
class HostChoices final : public Pending {
 public:
  HostChoices(Device& device, std::int64_t count);
  ~HostChoices() override { device_.destroy(event_); }
  void fetch(Stream stream, Tensor chosen);
  bool ready() override { return device_.done(event_); }
  void wait() override { device_.host_wait(event_); }
  std::span<const std::int32_t> values() const {
    return {values_.i32(), static_cast<std::size_t>(values_.size)};
  }

 private:
  Device& device_;
  Arena memory_;
  Tensor values_;
  Event event_;
};

class MoeBlockLayer {
 public:
  struct Weights {
    Weight attention[AttentionLayer::kWeights];
    Weight router;
    Tensor bias;  ///< fp32 [E], or [N, E]: a bias of each row's own
    ExpertWeights experts;
  };
  /// `layer`: of the model, for tags and messages. `map` must outlive the layer.
  MoeBlockLayer(Ops& ops, const LayerShape& shape, const MoeShape& moe, const Weights& weights,
                const ExpertMap& map, int layer);

  /// As BlockLayer::forward; `flow` becomes the block's output.
  StageTask forward(Stream stream, Flow& flow, MoeActivations& kept, const GptScratch& scratch,
                    const MoeScratch& moe_scratch, int micro_batch);
  /// dx from dy. With `weights` the experts' W is done too, while rows are on their way.
  StageTask backward_input(Stream stream, MoeActivations& kept, Tensor dy, MoeDeferred& deferred,
                           const GptScratch& scratch, const MoeScratch& moe_scratch, Tensor dx,
                           int micro_batch, bool weights);
  void backward_weight_experts(Stream stream, const MoeActivations& kept,
                               const MoeDeferred& deferred);
  /// All but the experts.
  void backward_weight(Stream stream, const MoeActivations& kept, const MoeDeferred& deferred);

  /// FLOPs of a forward (or of I, or W: the same) outside the experts, and of `rows` of experts.
  double dense_flops() const;
  double expert_flops(std::int64_t rows) const;

 private:
  bool alone() const { return moe_.group.ranks == 1; }
  GroupedShape grouped(const ReceivedRows& rows, int in, int out) const {
    return {rows.offsets, in, out, weights_.experts.stride};
  }
  int tag(int micro_batch, int slot, bool backward) const;
  void plan_rows(Stream stream, MoeActivations& kept) const;
  void post_counts(Stream stream, MoeActivations& kept, int micro_batch);
  void place_received(MoeActivations& kept) const;
  /// Rows in the order of sending to their experts, or the experts' rows back to their senders.
  void send_out(Stream stream, const MoeActivations& kept, Tensor from, Tensor into,
                int micro_batch, bool backward);
  void receive_out(const MoeActivations& kept, Tensor into, int micro_batch, bool backward);
  void send_back(Stream stream, const MoeActivations& kept, Tensor from, Tensor into,
                 int micro_batch, bool backward);
  void backward_router(Stream stream, const MoeActivations& kept, const MoeScratch& moe_scratch,
                       MoeDeferred& deferred);
  ExpertExchange::Channel& channel(bool backward) const {
    return backward ? moe_.group.exchange->backward() : moe_.group.exchange->forward();
  }

  Ops& ops_;
  LayerShape shape_;
  MoeShape moe_;
  Weights weights_;
  const ExpertMap& map_;
  int layer_;
  AttentionLayer attention_;
  std::unique_ptr<HostChoices> choices_;  ///< made by the first forward
};

}  // namespace pipemark
