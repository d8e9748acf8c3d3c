// Schedules on a V of two chunks a rank from a repeated building block (Qi et al. 2024, Pipeline
// Parallelism with Controllable Memory, sections 3 and 4): the slots of micro-batch 0 on each rank
// are repeated every 6 slots (two each of F, I, W), weight gradients go to free slots in order, and
// the result is squeezed.
//
// The peak of a rank is its lifespan, the slots from a chunk's F to its W summed over both chunks,
// over the period. Squeezing moves actions to earlier free slots where no rank's peak grows by it.
#pragma once

#include <functional>

#include "schedules/program.hpp"

namespace pipemark {

struct BuildingBlock {
  /// Slots on `rank` of: F of chunk 0, F of chunk 1, I of chunk 1, I of chunk 0, of micro-batch 0;
  /// different from each other modulo 6.
  struct Slots {
    int forward0, forward1, input1, input0;
  };
  std::function<Slots(int rank)> slots;
};

Program repeat_block(const std::string& name, int ranks, int micro_batches,
                     const BuildingBlock& block);

}  // namespace pipemark
