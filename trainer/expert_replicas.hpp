// Experts with several places: the sum of their replicas' gradients, and the move to another map.
// Replicas start equal, get the same summed gradient and take the same optimizer step, so they stay
// equal to the bit; any of them may be the source of a move.
#pragma once

#include <cstdint>

#include "trainer/cluster.hpp"
#include "trainer/gpt_stage.hpp"

namespace pipemark {

/// Collective over the expert group, on the stages of all its ranks alike: each expert's gradient
/// becomes the sum over its places, in their order.
void sum_replicas(Group& group, Ops& ops, Stream stream, GptStage& stage);

/// Collective over the expert group: weights and optimizer state of `block` move to where `map` has
/// them; a place whose expert stays is left alone. Gives the bytes that this rank received.
std::int64_t move_experts(Group& group, Ops& ops, Stream stream, GptStage& stage, int block,
                          const ExpertMap& map);

}  // namespace pipemark
