#include "trainer/layers/moe_block.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "trainer/executor_plan.hpp"

namespace pipemark {

MoeShape::MoeShape(const ModelConfig& model, const LayerShape& layer, const ExpertGroup& group_,
                   std::int64_t batch_tokens)
    : router{layer.rows(), layer.tokens, model.experts, model.top_k},
      channels(layer.channels),
      hidden(model.hidden_of_expert()),
      group(group_) {
  const auto N = static_cast<double>(router.rows);
  if (model.capacity_factor > 0) {
    capacity = static_cast<std::int64_t>(
        std::ceil(model.capacity_factor * N * model.top_k / model.experts));
  }
  const std::int64_t slots = group.slots();
  const std::int64_t taken = std::min<std::int64_t>(model.top_k, slots) * router.rows;
  room = group.ranks * (capacity > 0 ? std::min(taken, slots * capacity) : taken);
  if (model.expert_room > 0) {
    room = std::min(room, static_cast<std::int64_t>(
                              std::ceil(model.expert_room * static_cast<double>(chosen()))));
  }
  if (model.router == "auxiliary") {
    // d/dp of scale sum_e f_e mean_t p_te, meaned over the batch's sequences, f_e = E count / (k
    // T).
    balance_scale = static_cast<float>(model.auxiliary_scale * model.experts /
                                       (static_cast<double>(model.top_k) * layer.tokens) /
                                       static_cast<double>(batch_tokens));
  }
}

MoeActivations MoeActivations::take(const LayerShape& shape, const MoeShape& moe, DType dtype,
                                    bool own_input, Arena& arena) {
  MoeActivations kept;
  static_cast<AttentionActivations&>(kept) =
      AttentionActivations::take(shape, dtype, own_input, arena);
  const std::int64_t N = moe.router.rows, Nk = moe.chosen(), C = moe.channels;
  kept.probabilities = arena.take(N * moe.router.experts, DType::f32, "block/router/probabilities");
  kept.chosen = arena.take(Nk, DType::i32, "block/router/chosen");
  kept.gates = arena.take(Nk, DType::f32, "block/router/gates");
  kept.index = arena.take(Nk, DType::i32, "block/experts/index");
  kept.place = arena.take(Nk, DType::i32, "block/experts/place");
  kept.rows = arena.take(moe.room * C, dtype, "block/experts/rows");
  kept.pre = arena.take(moe.room * moe.hidden, dtype, "block/experts/pre");
  kept.gelu = arena.take(moe.room * moe.hidden, dtype, "block/experts/gelu");
  kept.outputs = arena.take(Nk * C, dtype, "block/experts/outputs");
  return kept;
}

MoeDeferred MoeDeferred::take(const LayerShape& shape, const MoeShape& moe, DType dtype,
                              Arena& arena) {
  return {AttentionDeferred::take(shape, dtype, arena),
          arena.take(moe.router.rows * moe.router.experts, dtype, "block/deferred/dlogits"),
          arena.take(moe.room * moe.channels, dtype, "block/deferred/experts/doutput"),
          arena.take(moe.room * moe.hidden, dtype, "block/deferred/experts/dpre")};
}

MoeScratch MoeScratch::take(const LayerShape& shape, const MoeShape& moe, DType dtype,
                            Arena& arena) {
  const std::int64_t N = moe.router.rows, E = moe.router.experts, C = moe.channels;
  const std::int64_t sent = moe.chosen() * C, held = moe.room * C;
  MoeScratch scratch;
  scratch.logits = arena.take(N * E, dtype, "scratch/router/logits");
  scratch.send = arena.take(sent, dtype, "scratch/experts/send");
  scratch.output = arena.take(held, dtype, "scratch/experts/output");
  scratch.dsend = arena.take(sent, dtype, "scratch/experts/dsend");
  scratch.dx = arena.take(held, dtype, "scratch/experts/dx");
  scratch.dback = arena.take(sent, dtype, "scratch/experts/dback");
  scratch.dsum = arena.take(N * C, dtype, "scratch/experts/dsum");
  scratch.dgates = arena.take(moe.chosen(), DType::f32, "scratch/router/dgates");
  scratch.balance = arena.take(shape.batch * E, DType::f32, "scratch/router/balance");
  scratch.block = MoeDeferred::take(shape, moe, dtype, arena);
  return scratch;
}

MoeBlockLayer::MoeBlockLayer(Ops& ops, const LayerShape& shape, const MoeShape& moe,
                             const Weights& weights, const ExpertMap& map, int layer)
    : ops_(ops),
      shape_(shape),
      moe_(moe),
      weights_(weights),
      map_(map),
      layer_(layer),
      attention_(ops, shape, weights.attention) {
  check(alone() || moe.group.exchange != nullptr, "MoeBlockLayer: {} expert ranks, no exchange",
        moe.group.ranks);
}

HostChoices::HostChoices(Device& device, std::int64_t count)
    : device_(device),
      memory_(device, MemoryKind::host,
              static_cast<std::size_t>(count) * sizeof(std::int32_t) + Arena::kAlignment),
      values_(memory_.take(count, DType::i32, "router/choices")),
      event_(device.make_event()) {}

void HostChoices::fetch(Stream stream, Tensor chosen) {
  device_.copy(stream, values_.data, chosen.data, chosen.bytes());
  device_.record(event_, stream);
}

double MoeBlockLayer::dense_flops() const {
  const auto N = static_cast<double>(shape_.rows()), C = static_cast<double>(shape_.channels);
  return 2 * N * C * (4 * C + shape_.tokens + moe_.router.experts);
}

double MoeBlockLayer::expert_flops(std::int64_t rows) const {
  return 4.0 * static_cast<double>(rows) * moe_.channels * moe_.hidden;
}

/// The two exchanges of a pass come one after the other, so they share tags; a forward and a
/// backward that are under way at once never do (the window is even).
int MoeBlockLayer::tag(int micro_batch, int slot, bool backward) const {
  constexpr std::int64_t kLayers = 4096;
  const std::int64_t place = (micro_batch * kLayers + layer_) * (moe_.group.slots() + 1) + slot;
  return static_cast<int>((2 * place + (backward ? 1 : 0)) % kTagWindow);
}

void MoeBlockLayer::plan_rows(Stream stream, MoeActivations& kept) const {
  Device& device = ops_.device();
  kept.plan = plan_dispatch(choices_->values(), moe_.router, map_, moe_.capacity, moe_.group.rank);
  const std::size_t rows = kept.plan.index.size() * sizeof(std::int32_t);
  if (rows > 0) device.copy(stream, kept.index.data, kept.plan.index.data(), rows);
  device.copy(stream, kept.place.data, kept.plan.place.data(), kept.place.bytes());
  const auto slots = static_cast<std::size_t>(moe_.group.slots());
  kept.received.counts.assign(static_cast<std::size_t>(moe_.group.ranks) * slots, 0);
  const auto own = static_cast<std::size_t>(moe_.group.rank) * slots;
  std::copy_n(kept.plan.sent.begin() + static_cast<std::ptrdiff_t>(own), slots,
              kept.received.counts.begin() + static_cast<std::ptrdiff_t>(own));
}

void MoeBlockLayer::post_counts(Stream stream, MoeActivations& kept, int micro_batch) {
  ExpertExchange::Channel& rows = channel(false);
  const int slots = moe_.group.slots(), counts_tag = tag(micro_batch, slots, false);
  for (int peer = 0; peer < moe_.group.ranks; ++peer) {
    if (peer == moe_.group.rank) continue;
    const auto at = static_cast<std::size_t>(peer * slots);
    rows.receive({kept.received.counts.data() + at, slots, DType::i32}, peer, counts_tag);
    rows.send({kept.plan.sent.data() + at, slots, DType::i32}, peer, counts_tag, stream);
  }
}

void MoeBlockLayer::place_received(MoeActivations& kept) const {
  ReceivedRows& received = kept.received;
  const int slots = moe_.group.slots(), ranks = moe_.group.ranks;
  received.offsets.assign(static_cast<std::size_t>(slots) + 1, 0);
  received.first.resize(received.counts.size());
  std::int64_t next = 0;
  for (int slot = 0; slot < slots; ++slot) {
    for (int source = 0; source < ranks; ++source) {
      const auto at = static_cast<std::size_t>(source * slots + slot);
      received.first[at] = next;
      next += received.counts[at];
    }
    received.offsets[static_cast<std::size_t>(slot) + 1] = next;
  }
  if (next > moe_.room) {
    throw UserError(fmt::format("model.expert_room: {} rows came to the experts of expert rank {} "
                                "in layer {}, there is room for {}",
                                next, moe_.group.rank, layer_, moe_.room),
                    fmt::format("set model.expert_room to at least {:.2f}, or 0 for the worst case",
                                static_cast<double>(next) / static_cast<double>(moe_.chosen())));
  }
}

namespace {
/// f(peer, slot, first row among the sent ones, count) for every place that gets rows.
template <class F>
void for_sent(const DispatchPlan& plan, int slots, F&& f) {
  std::int64_t row = 0;
  for (int place = 0; place < static_cast<int>(plan.sent.size()); ++place) {
    const std::int32_t count = plan.sent[static_cast<std::size_t>(place)];
    if (count > 0) f(place / slots, place % slots, row, count);
    row += count;
  }
}
/// f(source, slot, first row among the experts', count) for every source that sent rows.
template <class F>
void for_received(const ReceivedRows& received, int slots, F&& f) {
  for (int at = 0; at < static_cast<int>(received.counts.size()); ++at) {
    const auto i = static_cast<std::size_t>(at);
    if (received.counts[i] > 0) f(at / slots, at % slots, received.first[i], received.counts[i]);
  }
}
}  // namespace

void MoeBlockLayer::send_out(Stream stream, const MoeActivations& kept, Tensor from, Tensor into,
                             int micro_batch, bool backward) {
  const std::int64_t C = moe_.channels;
  const int slots = moe_.group.slots();
  for_sent(kept.plan, slots, [&](int peer, int slot, std::int64_t row, std::int64_t count) {
    const Tensor rows = from.slice(row * C, count * C);
    if (peer != moe_.group.rank) {
      return channel(backward).send(rows, peer, tag(micro_batch, slot, backward), stream);
    }
    const std::int64_t first = kept.received.first[static_cast<std::size_t>(peer * slots + slot)];
    ops_.device().copy(stream, into.slice(first * C, count * C).data, rows.data, rows.bytes());
  });
}

void MoeBlockLayer::receive_out(const MoeActivations& kept, Tensor into, int micro_batch,
                                bool backward) {
  const std::int64_t C = moe_.channels;
  for_received(kept.received, moe_.group.slots(),
               [&](int source, int slot, std::int64_t first, std::int64_t count) {
                 if (source == moe_.group.rank) return;
                 channel(backward).receive(into.slice(first * C, count * C), source,
                                           tag(micro_batch, slot, backward));
               });
}

void MoeBlockLayer::send_back(Stream stream, const MoeActivations& kept, Tensor from, Tensor into,
                              int micro_batch, bool backward) {
  const std::int64_t C = moe_.channels;
  const int slots = moe_.group.slots(), own = moe_.group.rank;
  ExpertExchange::Channel& rows = channel(backward);
  rows.begin(layer_, micro_batch);
  for_sent(kept.plan, slots, [&](int peer, int slot, std::int64_t row, std::int64_t count) {
    const Tensor to = into.slice(row * C, count * C);
    if (peer != own) return rows.receive(to, peer, tag(micro_batch, slot, backward));
    const std::int64_t first = kept.received.first[static_cast<std::size_t>(own * slots + slot)];
    ops_.device().copy(stream, to.data, from.slice(first * C, count * C).data, to.bytes());
  });
  for_received(kept.received, slots,
               [&](int source, int slot, std::int64_t first, std::int64_t count) {
                 if (source == own) return;
                 rows.send(from.slice(first * C, count * C), source,
                           tag(micro_batch, slot, backward), stream);
               });
}

StageTask MoeBlockLayer::forward(Stream stream, Flow& flow, MoeActivations& kept,
                                 const GptScratch& scratch, const MoeScratch& moe_scratch,
                                 int micro_batch) {
  const int C = moe_.channels, E = moe_.router.experts;
  const std::int64_t N = moe_.router.rows;
  attention_.forward(stream, flow, kept, scratch);
  ops_.linear_forward(stream, {N, C, E}, kept.norm2, weights_.router.w, {}, moe_scratch.logits);
  ops_.router_forward(stream, moe_.router, moe_scratch.logits, weights_.bias, kept.probabilities,
                      kept.chosen, kept.gates);
  if (choices_ == nullptr) {
    choices_ = std::make_unique<HostChoices>(ops_.device(), moe_.chosen());
  }
  choices_->fetch(stream, kept.chosen);
  co_await Arrival{*choices_};
  plan_rows(stream, kept);
  if (alone()) place_received(kept);
  const std::int64_t sent = kept.plan.rows();
  // Alone, the order of sending is the order by slot.
  const Tensor send = alone() ? kept.rows : moe_scratch.send;
  ops_.gather_rows(stream, kept.norm2, kept.index, send, sent, C);
  co_await Worked{dense_flops()};
  if (!alone()) {
    channel(false).begin(layer_, micro_batch);
    post_counts(stream, kept, micro_batch);
    co_await Arrival{channel(false)};
    channel(false).finish(stream);
    place_received(kept);
    receive_out(kept, kept.rows, micro_batch, false);
    send_out(stream, kept, send, kept.rows, micro_batch, false);
    co_await Arrival{channel(false)};
    channel(false).finish(stream);
  }
  const Tensor output = alone() ? kept.outputs : moe_scratch.output;
  const ExpertWeights& experts = weights_.experts;
  ops_.grouped_linear_gelu_forward(stream, grouped(kept.received, C, moe_.hidden), kept.rows,
                                   experts.expand_w.w, experts.expand_b.w, kept.pre, kept.gelu);
  ops_.grouped_linear_forward(stream, grouped(kept.received, moe_.hidden, C), kept.gelu,
                              experts.projection_w.w, experts.projection_b.w, output);
  co_await Worked{expert_flops(kept.received.rows())};
  if (!alone()) {
    send_back(stream, kept, output, kept.outputs, micro_batch, false);
    co_await Arrival{channel(false)};
    channel(false).finish(stream);
  }
  ops_.combine_rows(stream, kept.outputs, kept.place, kept.gates, scratch.addend, N,
                    moe_.router.top_k, C);
  flow = {kept.residual, scratch.addend};
}

void MoeBlockLayer::backward_router(Stream stream, const MoeActivations& kept,
                                    const MoeScratch& moe_scratch, MoeDeferred& deferred) {
  Tensor balance;
  if (moe_.balance_scale > 0) {
    std::vector<float> values(kept.plan.counts.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = moe_.balance_scale * static_cast<float>(kept.plan.counts[i]);
    }
    balance = moe_scratch.balance;
    ops_.device().copy(stream, balance.data, values.data(), balance.bytes());
    if (!ops_.device().is_host()) ops_.device().synchronize(stream);  // `values` ends here
  }
  ops_.router_backward(stream, moe_.router, kept.probabilities, kept.chosen, kept.gates,
                       moe_scratch.dgates, balance, deferred.dlogits);
}

StageTask MoeBlockLayer::backward_input(Stream stream, MoeActivations& kept, Tensor dy,
                                        MoeDeferred& deferred, const GptScratch& scratch,
                                        const MoeScratch& moe_scratch, Tensor dx, int micro_batch,
                                        bool weights) {
  const int C = moe_.channels, E = moe_.router.experts, k = moe_.router.top_k;
  const std::int64_t N = moe_.router.rows;
  const Tensor send = alone() ? deferred.doutput : moe_scratch.dsend;
  ops_.combine_rows_backward(stream, dy, kept.outputs, kept.place, kept.gates, send,
                             moe_scratch.dgates, N, k, C);
  backward_router(stream, kept, moe_scratch, deferred);
  if (!alone()) {
    channel(true).begin(layer_, micro_batch);
    receive_out(kept, deferred.doutput, micro_batch, true);
    send_out(stream, kept, send, deferred.doutput, micro_batch, true);
    co_await Arrival{channel(true)};
    channel(true).finish(stream);
  }
  const ExpertWeights& experts = weights_.experts;
  const Tensor back = alone() ? moe_scratch.dback : moe_scratch.dx;
  ops_.grouped_linear_gelu_backward_input(stream, grouped(kept.received, moe_.hidden, C),
                                          deferred.doutput, experts.projection_w.w, kept.pre,
                                          deferred.dpre);
  ops_.grouped_linear_backward_input(stream, grouped(kept.received, C, moe_.hidden), deferred.dpre,
                                     experts.expand_w.w, back);
  co_await Worked{expert_flops(kept.received.rows())};
  if (!alone()) send_back(stream, kept, back, moe_scratch.dback, micro_batch, true);
  if (weights) {
    backward_weight_experts(stream, kept, deferred);
    co_await Worked{expert_flops(kept.received.rows())};
  }
  if (!alone()) {
    co_await Arrival{channel(true)};
    channel(true).finish(stream);
  }
  // dh = the rows' gradients back from their experts + the router's.
  ops_.combine_rows(stream, moe_scratch.dback, kept.place, {}, moe_scratch.dsum, N, k, C);
  ops_.linear_backward_input(stream, {N, C, E}, deferred.dlogits, weights_.router.w, scratch.dnorm);
  ops_.residual_forward(stream, scratch.dnorm, moe_scratch.dsum, scratch.dnorm, N * C);
  attention_.backward_input(stream, kept, dy, deferred, scratch, dx);
  co_await Worked{dense_flops()};
}

void MoeBlockLayer::backward_weight_experts(Stream stream, const MoeActivations& kept,
                                            const MoeDeferred& deferred) {
  const int C = moe_.channels;
  const ExpertWeights& experts = weights_.experts;
  ops_.grouped_linear_backward_weight(stream, grouped(kept.received, moe_.hidden, C),
                                      deferred.doutput, kept.gelu, experts.projection_w.dw,
                                      experts.projection_b.dw);
  ops_.grouped_linear_backward_weight(stream, grouped(kept.received, C, moe_.hidden), deferred.dpre,
                                      kept.rows, experts.expand_w.dw, experts.expand_b.dw);
}

void MoeBlockLayer::backward_weight(Stream stream, const MoeActivations& kept,
                                    const MoeDeferred& deferred) {
  ops_.linear_backward_weight(stream, {moe_.router.rows, moe_.channels, moe_.router.experts},
                              deferred.dlogits, kept.norm2, weights_.router.dw, {});
  attention_.backward_weight(stream, kept, deferred);
}

}  // namespace pipemark
