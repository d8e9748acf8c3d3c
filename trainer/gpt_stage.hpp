// GptStage: a contiguous run of a GPT's layers [first, last): 0 the embedding, 1..L the blocks,
// L + 1 the head (final LayerNorm and linear). A planning arena and the real one run the same
// constructor, so predicted memory is the memory used.
//
// Bytes of an activation slot, a bytes an element (4, or 2 with bf16), N = B T rows:
//   block  N (16 C a + 16 + 4 H), less N C a for the stage's first layer (its input is a boundary)
//   head   N (2 C a + 8 + Vp a): the logits' memory holds their gradient from F on
// Bytes of a deferred-weight slot: 9 N C a a block (dpre 4C, dqkv 3C, d attention C, d output C);
// the last layer's d output is the boundary's. LayerNorm's dw, db are made in I, with dx; W makes
// those of the linear layers and of the embedding. Full backward goes layer by layer with the
// scratch of one (GptScratch). With checkpointing a slot keeps the stage's input alone (the
// boundary buffer), and all slots share 1 + (deferred-weight slots) rooms for recomputed
// activations. Of blocks with experts see layers/moe_block.hpp. Their stages hold the experts of
// this rank's places, behind the other parameters.
#pragma once

#include <algorithm>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "kernels/arena.hpp"
#include "kernels/ops.hpp"
#include "trainer/config.hpp"
#include "trainer/layers/layer.hpp"
#include "trainer/layers/moe_block.hpp"
#include "trainer/parameters.hpp"
#include "trainer/stage.hpp"

namespace pipemark {

class EmbeddingLayer;
class BlockLayer;
class HeadLayer;
struct DeferredSlot;

struct LayerRange {
  int first = 0, last = 0;  ///< [first, last)
};

struct MicroBatchShape {
  int sequences = 1;              ///< B, of one micro-batch
  int micro_batches = 1;          ///< M, of a step of this pipeline
  std::int64_t batch_tokens = 0;  ///< of the whole batch over all data ranks: the loss's mean
};

/// How the experts of a stage are spread, and the scratch of its rank (null: the stage takes its
/// own). By default a rank has all experts.
struct ExpertSetup {
  ExpertGroup group;
  const MoeScratch* scratch = nullptr;
};

struct StageSlots {
  int activations = 1;  ///< most micro-batches live at once
  int weights = 0;      ///< most I without their W at once; 0: the schedule never splits B
};

class GptStage final : public Stage {
 public:
  /// `scratch` and `ops` must outlive the stage. Throws UserError when the model's values are
  /// wrong.
  GptStage(Ops& ops, const ModelConfig& model, LayerRange layers, const MicroBatchShape& shape,
           StageSlots slots, bool checkpointing, const GptScratch& scratch, Arena& arena,
           const ExpertSetup& experts = {});
  ~GptStage() override;

  std::int64_t boundary_size() const override { return shape_.elements(); }
  DType boundary_dtype() const override;
  void forward(Stream stream, int slot, int micro_batch, Tensor input, Tensor output) override;
  void backward_input(Stream stream, int slot, int weight_slot, int micro_batch, Tensor grad_output,
                      Tensor grad_input) override;
  void backward_weight(Stream stream, int slot, int weight_slot, int micro_batch) override;
  /// Needs no deferred-weight slot; `weight_slot` is not looked at.
  void backward(Stream stream, int slot, int weight_slot, int micro_batch, Tensor grad_output,
                Tensor grad_input) override;

  bool pauses() const override { return !moe_blocks_.empty() && experts_.group.ranks > 1; }
  /// Recomputation shares a forward's scratch.
  bool can_overlap() const override { return !checkpointing_; }
  double forward_flops() const override;
  StageTask forward_task(Stream stream, int slot, int micro_batch, Tensor input,
                         Tensor output) override;
  StageTask backward_input_task(Stream stream, int slot, int weight_slot, int micro_batch,
                                Tensor grad_output, Tensor grad_input) override;
  StageTask backward_weight_task(Stream stream, int slot, int weight_slot,
                                 int micro_batch) override;
  StageTask backward_task(Stream stream, int slot, int weight_slot, int micro_batch,
                          Tensor grad_output, Tensor grad_input) override;

  bool has_embedding() const { return embedding_ != nullptr; }
  bool has_head() const { return head_ != nullptr; }
  LayerRange layers() const { return layers_; }

  /// Tokens and targets of the step's M micro-batches, [M, B, T] each; also sets the losses to 0.
  /// The spans must stay until the stream has been waited for. Stages without embedding or head
  /// take neither.
  void set_batch(Stream stream, std::span<const std::int32_t> tokens,
                 std::span<const std::int32_t> targets);
  /// While true, forward() keeps nothing for a backward and the head makes no gradient.
  void set_evaluation(bool evaluation) { evaluation_ = evaluation; }
  /// Mean loss (nats a token) of each micro-batch whose F ran here since set_batch, else 0. Waits
  /// for the device: a step's end. Empty without a head.
  std::vector<float> read_losses(Stream stream);
  /// The same on the device: [M] fp32.
  Tensor losses() const { return losses_; }

  /// Before the first backward of a step. Most gradients are then written, not added to, by the
  /// step's first micro-batch; only the rest is zeroed here.
  void zero_gradients(Stream stream);
  /// After the last backward of a step: where embedding and head are both here and tied, adds the
  /// head's part of the table's gradient to the embedding's (one sum a step, as between ranks);
  /// puts the loads of this rank's rows in the place of the routers' biases' gradients.
  void finish_gradients(Stream stream);
  /// After the sums over ranks: takes the whole batch's loads from there, leaving 0, and moves the
  /// biases against them where the router has a bias.
  void finish_routers(Stream stream);
  /// Of finish_routers(): [block of this stage][expert], tokens of the step's batch.
  const std::vector<std::vector<float>>& expert_loads() const { return loads_; }
  ExpertMap& expert_map(int block) { return maps_[static_cast<std::size_t>(block)]; }
  int moe_blocks() const { return static_cast<int>(moe_blocks_.size()); }
  /// Index in parameters().list() of the first tensor of the expert in `slot` of a block.
  int expert_tensor(int block, int slot) const {
    return first_expert_ + kExpertTensors * (block * experts_.group.slots() + slot);
  }
  /// After a change of `block`'s map and of what its slots hold: names the tensors anew.
  void rename_experts(int block);
  /// Gradients but the experts', and the experts' (empty without).
  Tensor dense_gradients() const;
  Tensor expert_gradients() const;
  /// Where the table is tied and its other holder is another stage: the fp32 gradient [Vp C] that
  /// must be replaced by the sum of both, embedding's + head's in this order. Empty elsewhere.
  Tensor tied_gradient() const;

  Parameters& parameters() { return *parameters_; }
  const Parameters& parameters() const { return *parameters_; }

 private:
  struct Slot;
  void build_parameters(Arena& arena);
  void build_layers();
  /// Of a block's layer: attention's, the router's weight and bias.
  static constexpr int kMoeDenseTensors = AttentionLayer::kWeights + 2;
  MoeBlockLayer::Weights moe_weights(int first, int block) const;
  /// The tensors of the experts in this rank's slots of a block.
  std::vector<ParameterSpec> held_experts(int block) const;
  /// Index of a block's router's bias in parameters().list().
  int bias_tensor(int block) const {
    return (layers_.first == 0 ? 2 : 0) + (block + 1) * kMoeDenseTensors - 1;
  }
  int layer_of(int block) const { return std::max(1, layers_.first) + block; }
  void take_moe(Arena& arena);
  void take_slots(Arena& arena);
  Slot take_room(DType dtype, Arena& arena) const;
  void cut_scratch_from_logits();
  /// The workspace of the calls that follow: the head's own, or that of the other layers.
  void use_workspace(bool head);
  /// How a forward runs: as one of a step, as a recomputation, as validation.
  struct ForwardMode {
    bool count_loss, with_gradient, count_loads;
  };
  StageTask run_forward(Stream stream, Slot& room, int micro_batch, Tensor input, Tensor output,
                        ForwardMode mode);
  /// Where the activations of `slot` are: with checkpointing in the shared room.
  Slot& room_of(int slot, int shared);
  /// Makes the activations of `slot` again in rooms_[shared] with checkpointing, else nothing.
  StageTask recompute(Stream stream, int slot, int shared, int micro_batch);
  void count_loads(int block, const DispatchPlan& plan);
  double head_flops() const;
  Tensor batch_slice(const Tensor& all, int micro_batch) const;
  void check_call(int slot, int micro_batch, Tensor incoming, Tensor outgoing) const;
  /// Tied, and embedding and head are both here: one table, of which the head has its own gradient.
  bool shares_table() const {
    return tied_ && layers_.first == 0 && layers_.last == model_layers_ + 2;
  }
  int layer_count() const { return layers_.last - layers_.first; }

  Ops& ops_;
  ModelConfig model_;
  LayerRange layers_;
  LayerShape shape_;
  MicroBatchShape batch_;
  StageSlots slots_;
  bool checkpointing_, evaluation_ = false;
  int model_layers_;
  bool tied_;
  const GptScratch& scratch_;
  ExpertSetup experts_;
  std::unique_ptr<MoeShape> moe_;
  MoeScratch moe_scratch_;
  BlockDeferred block_scratch_;  ///< scratch_.block, or cut from the logits
  Tensor wide_workspace_;        ///< of all layers but the head, cut from the logits; or empty
  std::unique_ptr<Parameters> parameters_;
  Tensor tokens_, targets_, losses_;
  /// Tied, both here: the head's part until finish_gradients(). Empty where the embedding may add
  /// to the head's part instead.
  Tensor head_table_gradient_;
  std::vector<Tensor> zeroed_;  ///< gradients that every micro-batch adds to
  /// No I (input) or W (weight) of this step has run yet.
  bool input_fresh_ = false, weight_fresh_ = false;
  std::unique_ptr<EmbeddingLayer> embedding_;
  std::vector<BlockLayer> blocks_;
  std::deque<ExpertMap> maps_;             ///< by block; layers refer to them
  std::vector<MoeBlockLayer> moe_blocks_;  ///< in the place of blocks_
  std::vector<Tensor> skew_;               ///< by block: the drawn choices' biases
  std::vector<std::vector<float>> loads_;  ///< by block and expert
  int first_expert_ = 0;                   ///< index of the first expert's tensor
  std::unique_ptr<HeadLayer> head_;
  std::vector<Slot> rooms_;  ///< activations: one a slot, or the shared ones
  std::vector<DeferredSlot> deferred_;
  std::vector<Tensor> inputs_;  ///< by slot: the boundary buffer that forward() was given
};

}  // namespace pipemark
