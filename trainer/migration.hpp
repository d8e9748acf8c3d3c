// Migration: the parameters and moments of layers that change their stage, moved at a step's end.
// Every rank derives the same list of moves from the old and the new plan, so a move needs no
// agreement: its source sends, its destination receives, window by window in the list's order.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "trainer/gpt_stage.hpp"
#include "trainer/run_plan.hpp"
#include "trainer/transport.hpp"

namespace pipemark {

/// One parameter tensor of one stage of the new plan, and where the old plan has it.
struct Move {
  int layer = 0, tensor = 0;          ///< tensor: in layer_parameters(layer)
  int from_rank = 0, from_stage = 0;  ///< pipeline rank, stage
  int to_rank = 0, to_stage = 0;
  int from_replica = 0, to_replica = 0;
};

/// In the order of the new plan's replicas, stages, layers and tensors. A tensor comes from the
/// rank itself where that holds the layer, else from the same replica's holder.
std::vector<Move> list_moves(const ModelConfig& model, const RunPlan& from, const RunPlan& to);

/// The stages that this rank holds under a plan, as placement.held_by(rank).
struct HeldStages {
  const RunPlan& plan;
  const std::vector<std::unique_ptr<GptStage>>& stages;
};

/// Collective over the pipeline. Fills the new stages: weights, master, m and v by the moves,
/// gaps and gradients zero. `transport` may be null on one rank. Gives the bytes that this rank
/// sent.
std::int64_t migrate(const ModelConfig& model, Device& device, Stream stream, Transport* transport,
                     int rank, const HeldStages& from, const HeldStages& to);

}  // namespace pipemark
