#include "trainer/gpt_stage.hpp"

#include <algorithm>
#include <utility>

#include "trainer/layers/block.hpp"
#include "trainer/layers/embedding.hpp"
#include "trainer/layers/head.hpp"

namespace pipemark {

namespace {
constexpr const char* kTable = "embedding/token/weight";
}

/// Activations of one micro-batch.
struct GptStage::Slot {
  std::vector<BlockActivations> blocks;
  std::vector<MoeActivations> moe;  ///< in the place of blocks
  HeadActivations head;
  Tensor& x_of(std::size_t block) { return moe.empty() ? blocks[block].x : moe[block].x; }
};

/// What W needs of one micro-batch beyond its activations.
struct DeferredSlot {
  std::vector<BlockDeferred> blocks;
  std::vector<MoeDeferred> moe;
  std::vector<Tensor> gradients;  ///< [k]: of the output of the stage's k-th layer, but the last's
  Tensor grad_output;             ///< the last's: the boundary buffer that I was given
};

GptStage::GptStage(Ops& ops, const ModelConfig& model, LayerRange layers,
                   const MicroBatchShape& shape, StageSlots slots, bool checkpointing,
                   const GptScratch& scratch, Arena& arena, const ExpertSetup& experts)
    : ops_(ops),
      model_(model),
      layers_(layers),
      shape_(model, shape.sequences),
      batch_(shape),
      slots_(slots),
      checkpointing_(checkpointing),
      model_layers_(model.layers),
      tied_(model.tied),
      scratch_(scratch),
      experts_(experts) {
  check_model(model);
  check(0 <= layers.first && layers.first < layers.last && layers.last <= model.layers + 2,
        "GptStage of layers [{}, {}) of {}", layers.first, layers.last, model.layers + 2);
  check(shape.sequences > 0 && shape.micro_batches > 0 && shape.batch_tokens > 0 &&
            slots.activations > 0 && slots.weights >= 0,
        "GptStage: {} sequences, {} micro-batches, {} tokens, {} + {} slots", shape.sequences,
        shape.micro_batches, shape.batch_tokens, slots.activations, slots.weights);
  if (model.has_experts()) take_moe(arena);
  build_parameters(arena);
  build_layers();
  take_slots(arena);
}

GptStage::~GptStage() = default;

void GptStage::take_slots(Arena& arena) {
  const DType act = ops_.activation_dtype();
  const int rooms = checkpointing_ ? 1 + slots_.weights : slots_.activations;
  for (int i = 0; i < rooms; ++i) rooms_.push_back(take_room(act, arena));
  block_scratch_ = scratch_.block;
  if (scratch_.in_logits) cut_scratch_from_logits();
  for (int i = 0; i < slots_.weights; ++i) {
    DeferredSlot& deferred = deferred_.emplace_back();
    for (std::size_t b = 0; b < blocks_.size(); ++b) {
      deferred.blocks.push_back(BlockDeferred::take(shape_, act, arena));
    }
    for (std::size_t b = 0; b < moe_blocks_.size(); ++b) {
      deferred.moe.push_back(MoeDeferred::take(shape_, *moe_, act, arena));
    }
    for (int k = 0; k + 1 < layer_count(); ++k) {
      deferred.gradients.push_back(arena.take(shape_.elements(), act, "deferred/gradient"));
    }
  }
  inputs_.resize(static_cast<std::size_t>(slots_.activations));
  const std::int64_t batch_rows = shape_.rows() * batch_.micro_batches;
  if (has_embedding()) tokens_ = arena.take(batch_rows, DType::i32, "batch/tokens");
  if (has_head()) {
    targets_ = arena.take(batch_rows, DType::i32, "batch/targets");
    losses_ = arena.take(batch_.micro_batches, DType::f32, "batch/losses");
  }
}

void GptStage::build_parameters(Arena& arena) {
  std::vector<ParameterSpec> specs;
  for (int layer = layers_.first; layer < layers_.last; ++layer) {
    for (ParameterSpec& spec : layer_parameters(model_, layer)) {
      if (spec.expert >= 0 || (spec.tied_copy && shares_table())) continue;
      spec.replica = experts_.group.rank > 0;
      specs.push_back(std::move(spec));
    }
  }
  first_expert_ = static_cast<int>(specs.size());
  for (std::size_t block = 0; block < maps_.size(); ++block) {
    for (ParameterSpec& spec : held_experts(static_cast<int>(block))) {
      specs.push_back(std::move(spec));
    }
  }
  parameters_ = std::make_unique<Parameters>(ops_, specs, arena);
  const bool one_sum = batch_.micro_batches == 1 && ops_.embedding_adds_once();
  if (shares_table() && !one_sum) {
    // A buffer of its own, so that the table's gradient is one sum of two parts as it is between
    // ranks: every partition gives the same bits.
    head_table_gradient_ =
        arena.take(specs.front().size, DType::f32, "parameters/head_table_gradient");
  }
}

void GptStage::build_layers() {
  int next = 0;
  // `written`: the step's first micro-batch writes the gradient.
  const auto weight = [&](bool written) {
    const int index = next++;
    const Weight weight{parameters_->weight(index), parameters_->gradient(index)};
    if (!written) zeroed_.push_back(weight.dw);
    return weight;
  };
  const bool head_writes_table = shares_table() && !head_table_gradient_.size;
  if (layers_.first == 0) {
    const Weight token = weight(head_writes_table), position = weight(false);
    embedding_ = std::make_unique<EmbeddingLayer>(ops_, shape_, token, position);
  }
  const int head_layer = model_layers_ + 1;
  for (int layer = std::max(1, layers_.first); layer < std::min(layers_.last, head_layer);
       ++layer) {
    if (model_.has_experts()) {
      const int block = moe_blocks();
      moe_blocks_.emplace_back(ops_, shape_, *moe_, moe_weights(next, block), expert_map(block),
                               layer);
      next += kMoeDenseTensors;
      continue;
    }
    Weight weights[BlockLayer::kWeights];
    for (Weight& each : weights) each = weight(true);
    blocks_.emplace_back(ops_, shape_, weights);
  }
  if (layers_.last > head_layer) {
    const Weight norm_w = weight(true), norm_b = weight(true);
    const Weight table = !shares_table() ? weight(true)
                                         : Weight{parameters_->weight(0),
                                                  head_writes_table ? parameters_->gradient(0)
                                                                    : head_table_gradient_};
    head_ = std::make_unique<HeadLayer>(ops_, shape_, norm_w, norm_b, table);
  }
  check(next == first_expert_, "GptStage: {} of {} tensors are used", next, first_expert_);
  if (model_.has_experts())
    zeroed_ = {parameters_->gradients};  // the experts' and the routers' too
}

GptStage::Slot GptStage::take_room(DType dtype, Arena& arena) const {
  Slot room;
  for (std::size_t b = 0; b < blocks_.size(); ++b) {
    const bool own_input = b > 0 || has_embedding();
    room.blocks.push_back(BlockActivations::take(shape_, dtype, own_input, arena));
  }
  for (std::size_t b = 0; b < moe_blocks_.size(); ++b) {
    const bool own_input = b > 0 || has_embedding();
    room.moe.push_back(MoeActivations::take(shape_, *moe_, dtype, own_input, arena));
  }
  if (has_head()) room.head = HeadActivations::take(shape_, dtype, layer_count() > 1, arena);
  return room;
}

GptStage::Slot& GptStage::room_of(int slot, int shared) {
  return rooms_[static_cast<std::size_t>(checkpointing_ ? shared : slot)];
}

void GptStage::cut_scratch_from_logits() {
  check(has_head() && rooms_.size() == 1 && slots_.weights == 0 && !checkpointing_,
        "GptStage: scratch in the logits of {} micro-batches at once", rooms_.size());
  const Tensor& logits = rooms_.front().head.logits;
  if (logits.data == nullptr) return;  // planning
  std::int64_t used = 0;
  const auto cut = [&](std::int64_t count) {
    constexpr auto kAlignment = static_cast<std::int64_t>(Arena::kAlignment);
    const Tensor part = logits.slice(used, count);
    used += (count + kAlignment - 1) / kAlignment * kAlignment;
    return part;
  };
  block_scratch_.dpre = cut(4 * shape_.elements());
  block_scratch_.dresidual = cut(shape_.elements());
  block_scratch_.dqkv = cut(3 * shape_.elements());
  const Tensor rest = cut(logits.size - used);
  wide_workspace_ = {rest.data, static_cast<std::int64_t>(rest.bytes() / sizeof(float)),
                     DType::f32};
}

void GptStage::use_workspace(bool head) {
  if (wide_workspace_) ops_.set_workspace(head ? scratch_.workspace : wide_workspace_);
}

DType GptStage::boundary_dtype() const { return ops_.activation_dtype(); }

Tensor GptStage::batch_slice(const Tensor& all, int micro_batch) const {
  return all.slice(micro_batch * shape_.rows(), shape_.rows());
}

void GptStage::check_call(int slot, int micro_batch, Tensor incoming, Tensor outgoing) const {
  check(slot >= 0 && slot < slots_.activations && micro_batch >= 0 &&
            micro_batch < batch_.micro_batches,
        "GptStage: slot {} of {}, micro-batch {} of {}", slot, slots_.activations, micro_batch,
        batch_.micro_batches);
  // The pipeline's ends have no boundary; everywhere else it is B T C activations.
  for (const Tensor& tensor : {incoming, outgoing}) {
    check(!tensor || (tensor.size == boundary_size() && tensor.dtype == boundary_dtype()),
          "GptStage: a boundary tensor of {} elements, not {}", tensor.size, boundary_size());
  }
}

void GptStage::set_batch(Stream stream, std::span<const std::int32_t> tokens,
                         std::span<const std::int32_t> targets) {
  const auto upload = [&](const Tensor& to, std::span<const std::int32_t> from, const char* what) {
    check(static_cast<std::int64_t>(from.size()) == to.size, "set_batch: {} {} for {}", from.size(),
          what, to.size);
    ops_.device().copy(stream, to.data, from.data(), to.bytes());
  };
  if (has_embedding()) upload(tokens_, tokens, "tokens");
  if (!has_head()) return;
  upload(targets_, targets, "targets");
  ops_.device().fill_zero(stream, losses_.data, losses_.bytes());
}

StageTask GptStage::run_forward(Stream stream, Slot& room, int micro_batch, Tensor input,
                                Tensor output, ForwardMode mode) {
  Flow flow{input, {}};
  const std::size_t blocks = blocks_.size() + moe_blocks_.size();
  use_workspace(false);
  if (has_embedding()) {
    const Tensor x = blocks > 0 ? room.x_of(0) : has_head() ? room.head.x : output;
    embedding_->forward(stream, batch_slice(tokens_, micro_batch), x);
    flow.residual = x;
  }
  for (std::size_t b = 0; b < blocks; ++b) {
    if (!flow.addend) room.x_of(b) = flow.residual;
    if (!moe_blocks_.empty()) {
      co_await moe_blocks_[b].forward(stream, flow, room.moe[b], scratch_, *experts_.scratch,
                                      micro_batch);
      if (mode.count_loads) count_loads(static_cast<int>(b), room.moe[b].plan);
    } else {
      flow = blocks_[b].forward(stream, flow, room.blocks[b], scratch_);
    }
  }
  if (has_head()) {
    if (!flow.addend) room.head.x = flow.residual;
    HeadLayer::Loss loss;
    loss.targets = batch_slice(targets_, micro_batch);
    if (mode.count_loss) loss.mean = losses_.slice(micro_batch, 1);
    loss.gradient_scale = 1.0f / static_cast<float>(batch_.batch_tokens);
    loss.with_gradient = mode.with_gradient;
    use_workspace(true);
    head_->forward(stream, flow, room.head, scratch_, loss);
    co_await Worked{head_flops()};
  } else if (flow.addend && output) {
    ops_.residual_forward(stream, flow.residual, flow.addend, output, shape_.elements());
  }
}

StageTask GptStage::forward_task(Stream stream, int slot, int micro_batch, Tensor input,
                                 Tensor output) {
  check_call(slot, micro_batch, input, output);
  check(has_embedding() != static_cast<bool>(input) && has_head() != static_cast<bool>(output),
        "GptStage::forward: layers [{}, {}) with {} input and {} output", layers_.first,
        layers_.last, input ? "an" : "no", output ? "an" : "no");
  inputs_[static_cast<std::size_t>(slot)] = input;
  return run_forward(stream, room_of(slot, slots_.weights), micro_batch, input, output,
                     {true, !evaluation_ && !checkpointing_, !evaluation_});
}

StageTask GptStage::recompute(Stream stream, int slot, int shared, int micro_batch) {
  const bool embedding_alone = has_embedding() && layer_count() == 1;
  if (!checkpointing_ || embedding_alone) return {};
  return run_forward(stream, rooms_[static_cast<std::size_t>(shared)], micro_batch,
                     inputs_[static_cast<std::size_t>(slot)], Tensor{}, {false, true, false});
}

StageTask GptStage::backward_input_task(Stream stream, int slot, int weight_slot, int micro_batch,
                                        Tensor grad_output, Tensor grad_input) {
  check_call(slot, micro_batch, grad_output, grad_input);
  check(weight_slot >= 0 && weight_slot < slots_.weights, "GptStage: deferred-weight slot {} of {}",
        weight_slot, slots_.weights);
  co_await recompute(stream, slot, weight_slot, micro_batch);
  Slot& room = room_of(slot, weight_slot);
  DeferredSlot& deferred = deferred_[static_cast<std::size_t>(weight_slot)];
  deferred.grad_output = grad_output;
  int layer = layer_count() - 1;
  const auto dy = [&] {
    return layer == layer_count() - 1 ? grad_output
                                      : deferred.gradients[static_cast<std::size_t>(layer)];
  };
  const auto dx = [&] {
    return layer == 0 ? grad_input : deferred.gradients[static_cast<std::size_t>(layer) - 1];
  };
  const bool accumulate = !std::exchange(input_fresh_, false);
  if (has_head()) {
    head_->backward_input(stream, room.head, scratch_, dx(), accumulate);
    co_await Worked{head_flops()};
    --layer;
  }
  for (std::size_t b = blocks_.size(); b-- > 0; --layer) {
    blocks_[b].backward_input(stream, room.blocks[b], dy(), deferred.blocks[b], scratch_, dx(),
                              accumulate);
  }
  for (std::size_t b = moe_blocks_.size(); b-- > 0; --layer) {
    co_await moe_blocks_[b].backward_input(stream, room.moe[b], dy(), deferred.moe[b], scratch_,
                                           *experts_.scratch, dx(), micro_batch, false);
  }
}

StageTask GptStage::backward_weight_task(Stream stream, int slot, int weight_slot,
                                         int micro_batch) {
  check_call(slot, micro_batch, {}, {});
  check(weight_slot >= 0 && weight_slot < slots_.weights, "GptStage: deferred-weight slot {} of {}",
        weight_slot, slots_.weights);
  Slot& room = room_of(slot, weight_slot);
  DeferredSlot& deferred = deferred_[static_cast<std::size_t>(weight_slot)];
  int layer = layer_count() - 1;
  const auto dy = [&] {
    return layer == layer_count() - 1 ? deferred.grad_output
                                      : deferred.gradients[static_cast<std::size_t>(layer)];
  };
  const bool accumulate = !std::exchange(weight_fresh_, false);
  if (has_head()) {
    head_->backward_weight(stream, room.head, accumulate);
    co_await Worked{head_flops()};
    --layer;
  }
  for (std::size_t b = blocks_.size(); b-- > 0; --layer) {
    blocks_[b].backward_weight(stream, room.blocks[b], dy(), deferred.blocks[b], accumulate);
  }
  for (std::size_t b = moe_blocks_.size(); b-- > 0; --layer) {
    MoeBlockLayer& block = moe_blocks_[b];
    block.backward_weight_experts(stream, room.moe[b], deferred.moe[b]);
    block.backward_weight(stream, room.moe[b], deferred.moe[b]);
    co_await Worked{block.dense_flops() + block.expert_flops(room.moe[b].received.rows())};
  }
  if (has_embedding()) {
    embedding_->backward_weight(stream, batch_slice(tokens_, micro_batch), dy());
  }
}

StageTask GptStage::backward_task(Stream stream, int slot, int, int micro_batch, Tensor grad_output,
                                  Tensor grad_input) {
  check_call(slot, micro_batch, grad_output, grad_input);
  co_await recompute(stream, slot, slots_.weights, micro_batch);
  Slot& room = room_of(slot, slots_.weights);
  BlockDeferred deferred = block_scratch_;
  Tensor dy = grad_output;
  int layer = layer_count() - 1;
  const auto dx = [&] { return layer == 0 ? grad_input : scratch_.gradient[layer % 2]; };
  const bool add_input = !std::exchange(input_fresh_, false);
  const bool add_weight = !std::exchange(weight_fresh_, false);
  if (has_head()) {
    use_workspace(true);
    head_->backward_input(stream, room.head, scratch_, dx(), add_input);
    head_->backward_weight(stream, room.head, add_weight);
    co_await Worked{2 * head_flops()};
    dy = dx();
    --layer;
  }
  use_workspace(false);
  for (std::size_t b = blocks_.size(); b-- > 0; --layer) {
    blocks_[b].backward_input(stream, room.blocks[b], dy, deferred, scratch_, dx(), add_input);
    blocks_[b].backward_weight(stream, room.blocks[b], dy, deferred, add_weight);
    dy = dx();
  }
  for (std::size_t b = moe_blocks_.size(); b-- > 0; --layer) {
    MoeDeferred moe_deferred = experts_.scratch->block;
    co_await moe_blocks_[b].backward_input(stream, room.moe[b], dy, moe_deferred, scratch_,
                                           *experts_.scratch, dx(), micro_batch, true);
    moe_blocks_[b].backward_weight(stream, room.moe[b], moe_deferred);
    co_await Worked{moe_blocks_[b].dense_flops()};
    dy = dx();
  }
  if (has_embedding()) {
    embedding_->backward_weight(stream, batch_slice(tokens_, micro_batch), dy);
  }
}

void GptStage::forward(Stream stream, int slot, int micro_batch, Tensor input, Tensor output) {
  forward_task(stream, slot, micro_batch, input, output).finish();
}
void GptStage::backward_input(Stream stream, int slot, int weight_slot, int micro_batch,
                              Tensor grad_output, Tensor grad_input) {
  backward_input_task(stream, slot, weight_slot, micro_batch, grad_output, grad_input).finish();
}
void GptStage::backward_weight(Stream stream, int slot, int weight_slot, int micro_batch) {
  backward_weight_task(stream, slot, weight_slot, micro_batch).finish();
}
void GptStage::backward(Stream stream, int slot, int weight_slot, int micro_batch,
                        Tensor grad_output, Tensor grad_input) {
  backward_task(stream, slot, weight_slot, micro_batch, grad_output, grad_input).finish();
}

std::vector<float> GptStage::read_losses(Stream stream) {
  std::vector<float> losses(static_cast<std::size_t>(losses_.size));
  if (has_head()) ops_.device().copy(stream, losses.data(), losses_.data, losses_.bytes());
  ops_.device().synchronize(stream);
  return losses;
}

void GptStage::zero_gradients(Stream stream) {
  for (std::vector<float>& loads : loads_) std::fill(loads.begin(), loads.end(), 0.0f);
  for (const Tensor& gradient : zeroed_) {
    ops_.device().fill_zero(stream, gradient.data, gradient.bytes());
  }
  input_fresh_ = weight_fresh_ = true;
}

void GptStage::finish_gradients(Stream stream) {
  for (int block = 0; block < moe_blocks(); ++block) {
    const std::vector<float>& loads = loads_[static_cast<std::size_t>(block)];
    const Tensor to = parameters_->gradient(bias_tensor(block));
    ops_.device().copy(stream, to.data, loads.data(), to.bytes());
  }
  if (!head_table_gradient_) return;
  ops_.accumulate(stream, head_table_gradient_, parameters_->gradient(0),
                  head_table_gradient_.size);
}

Tensor GptStage::tied_gradient() const {
  if (!tied_ || has_embedding() == has_head()) return {};
  return parameters_->gradient(parameters_->find(kTable));
}

}  // namespace pipemark
