// ExecutorPlan: one rank's row of a schedule, laid out flat before the first step: for each action
// its peers, tags, boundary buffers and slots. A pure function of the schedule, so that memory is
// known before it is taken and an action costs no look-up.
//
// Lifetimes: an input buffer lives from its receive being posted (kLookAhead actions before its F)
// to the end of B or W; a gradient buffer likewise from before its B or I; a buffer that is sent,
// kSendAhead actions longer, and until its receiver reads it (ActionOrder). Between two stages of one rank the output buffer *is* the next input.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/arena.hpp"
#include "schedules/schedule.hpp"

namespace pipemark {

/// Receives are posted this many actions ahead, so that a message finds its buffer.
inline constexpr int kLookAhead = 4;
/// A sent buffer is not given out again for this many actions, so that a slow link holds no one up.
inline constexpr int kSendAhead = 4;
/// Tags are (2 (micro_batch S + stage) + direction) modulo this.
inline constexpr int kTagWindow = 1 << 20;

/// A message of a step, on either side.
struct PlanMessage {
  int buffer = -1;
  int peer = -1;  ///< pipeline rank
  int tag = 0;
  bool gradient = false;           ///< else an activation
  int stage = 0, micro_batch = 0;  ///< of the receiving action
};

/// One call of a stage: F, B, I or W (an FB action is two).
struct PlanCall {
  Kind kind = Kind::F;
  int held = 0;  ///< index into placement.held_by(rank)
  int micro_batch = 0;
  int slot = -1, weight_slot = -1;  ///< weight_slot: of I and W only
  int input = -1;    ///< buffer of the input (F) or the output's gradient (B, I); -1: none
  int output = -1;   ///< buffer of the output (F) or the input's gradient (B, I); -1: none
  int receive = -1;  ///< index into receives; -1: no message
  int send = -1;     ///< index into sends
};

/// One action: calls [first_call, +calls), receives to post before it [first_post, +posts), and
/// sends whose buffers it takes over [first_reclaim, +reclaims) in `reclaims`.
struct PlanAction {
  Action action;
  std::int32_t first_call = 0, calls = 0;
  std::int32_t first_post = 0, posts = 0;
  std::int32_t first_reclaim = 0, reclaims = 0;
};

struct HeldStage {
  int replica = 0, stage = 0;
  int activation_slots = 0;  ///< most micro-batches live at once
  int weight_slots = 0;      ///< most I without their W at once; 0 without I
};

struct ExecutorPlan {
  std::string schedule;
  int rank = 0, ranks = 1, stages = 1, micro_batches = 0;
  std::vector<HeldStage> held;  ///< as placement.held_by(rank)
  std::vector<PlanAction> actions;
  std::vector<PlanCall> calls;
  std::vector<PlanMessage> receives, sends;
  std::vector<std::int32_t> reclaims;  ///< indices into sends
  int buffers = 0;
  int peak_live = 0;  ///< most (stage, micro-batch) activations live at once on this rank
};

/// The row of `rank`. The schedule must have passed validate(); throws LogicError with the place
/// where a row can't be laid out.
ExecutorPlan plan_step(const Schedule& schedule, int rank);
/// F of every stage of replica 0 for `micro_batches`, each as soon as it can run (action (s, m) at
/// time s + m): validation. Nothing is kept for a backward; every F uses slot 0.
ExecutorPlan plan_forward(const Placement& placement, int micro_batches, int rank);

/// The boundary buffers of these plans (the most that any of them needs), each of `boundary_size`
/// elements and room for a paced sender's time stamp behind it.
std::vector<Tensor> take_boundary_buffers(Arena& arena,
                                          const std::vector<const ExecutorPlan*>& plans,
                                          std::int64_t boundary_size, DType dtype);

}  // namespace pipemark
