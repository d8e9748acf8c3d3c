// What a rank holds in its device's arena, laid out by one piece of code for the planning arena and
// the real one, and the refusal of what would not fit.
#include <algorithm>

#include "trainer/trainer_impl.hpp"

namespace pipemark {

namespace {
bool splits_backward(const ExecutorPlan& plan, std::size_t held) {
  return std::any_of(plan.calls.begin(), plan.calls.end(), [&](const PlanCall& call) {
    return call.held == static_cast<int>(held) && call.kind == Kind::I;
  });
}
}  // namespace

/// One stage that ends in the head, one micro-batch at a time and no deferred W.
bool Trainer::Impl::scratch_in_logits(const Layout& layout) const {
  if (has_experts() || layout.step.held.size() != 1) return false;
  const HeldStage& held = layout.step.held.front();
  return held.activation_slots == 1 && !splits_backward(layout.step, 0) &&
         !layout.plan.checkpointed[static_cast<std::size_t>(held.stage)] &&
         layout.plan.layers_of(held.stage).last == config_.model.layers + 2 &&
         GptScratch::fits_in_logits(*ops_, config_.model, layout.plan.shape.sequences);
}

void Trainer::Impl::build(const Layout& layout, Arena& arena, Pieces& pieces) {
  const MicroBatchShape& shape = layout.plan.shape;
  const LayerShape layer(config_.model, shape.sequences);
  pieces.scratch = GptScratch::take(*ops_, config_.model, shape.sequences, arena,
                                    scratch_in_logits(layout));
  if (has_experts()) {
    const MoeShape moe(config_.model, layer, expert_group_, shape.batch_tokens);
    pieces.moe_scratch = MoeScratch::take(layer, moe, ops_->activation_dtype(), arena);
  }
  for (std::size_t k = 0; k < layout.step.held.size(); ++k) {
    const HeldStage& held = layout.step.held[k];
    const StageSlots slots{held.activation_slots,
                           splits_backward(layout.step, k) ? held.weight_slots : 0};
    pieces.stages.push_back(std::make_unique<GptStage>(
        *ops_, config_.model, layout.plan.layers_of(held.stage), shape, slots,
        layout.plan.checkpointed[static_cast<std::size_t>(held.stage)], pieces.scratch, arena,
        ExpertSetup{expert_group_, &pieces.moe_scratch}));
    pieces.optimizers.push_back(std::make_unique<Optimizer>(
        *ops_, pieces.stages.back()->parameters(), config_.train, arena));
  }
  pieces.buffers = take_boundary_buffers(arena, {&layout.step, &layout.forward}, layer.elements(),
                                         ops_->activation_dtype());
}

std::size_t Trainer::Impl::bytes_of(const RunConfig& config) {
  const RunPlan plan = make_run_plan(config, layer_costs_);
  const int rank = grid_.pipeline_rank;
  const ExecutorPlan step = plan_step(plan.schedule, rank);
  const ExecutorPlan forward =
      plan_forward(plan.schedule.placement, plan.shape.micro_batches, rank);
  Arena planning;
  Pieces pieces;
  build({plan, step, forward}, planning, pieces);
  return planning.used_bytes();
}

/// More micro-batches, then activation checkpointing with them; empty: neither helps.
std::string Trainer::Impl::what_would_fit(std::size_t free_bytes) {
  const int each = config_.train.batch / feeders();
  for (const std::string& checkpointing : {config_.train.checkpointing, std::string("full")}) {
    RunConfig other = config_;
    other.train.checkpointing = checkpointing;
    for (int m = config_.train.micro_batches; m <= each; m *= 2) {
      if (each % m != 0) continue;
      other.train.micro_batches = m;
      try {
        const std::size_t bytes = bytes_of(other);
        if (bytes > free_bytes) continue;
        return fmt::format("train.micro_batches = {} with train.checkpointing = \"{}\" needs {} "
                           "bytes and would fit",
                           m, checkpointing, bytes);
      } catch (const UserError&) {  // the schedule refuses this number of micro-batches
      }
    }
  }
  return {};
}

void Trainer::Impl::check_fits(const Arena& planned) {
  const std::size_t free_bytes = ops_->device().memory_info().free_bytes;
  if (planned.used_bytes() <= free_bytes) return;
  const auto largest = std::max_element(
      planned.entries().begin(), planned.entries().end(),
      [](const Arena::Entry& a, const Arena::Entry& b) { return a.bytes < b.bytes; });
  const std::string fits = what_would_fit(free_bytes);
  throw EnvironmentError(
      fmt::format("rank {} needs {} bytes of memory on {} and {} are free; its largest tensor is "
                  "\"{}\" of {} bytes",
                  cluster_.rank(), planned.used_bytes(), ops_->device().description(), free_bytes,
                  largest->label, largest->bytes),
      fits.empty() ? "use more stages: no more micro-batches, nor checkpointing, make it fit" : fits);
}

}  // namespace pipemark
