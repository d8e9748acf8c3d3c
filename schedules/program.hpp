// Program: a schedule as its generator writes it, as a list of loops for each rank. Expanded, it
// is a Schedule; interpreted as it stands, it is simulated in memory that does not grow with M.
//
// A loop is a count and a body; a body is a few steps. A step names kind, replica and stage; its
// micro-batch is the next one in that stage's order, because all published schedules take the
// micro-batches of a stage in rising order: the k-th F of (replica, stage) is of micro-batch
// first(replica) + k, the k-th B or I the same, and a W belongs to the oldest I of its (replica,
// stage) that has no W yet.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "schedules/schedule.hpp"

namespace pipemark {

/// An action without its micro-batch; of FB, `stage` is the forward's and `stage_b` the backward's.
struct Step {
  Kind kind = Kind::F;
  std::int8_t replica = 0, replica_b = 0;
  std::int16_t stage = 0, stage_b = 0;
};

inline Step step_of(Kind kind, int stage, int replica = 0) {
  return {kind, static_cast<std::int8_t>(replica), 0, static_cast<std::int16_t>(stage), 0};
}
namespace steps {
inline Step F(int stage, int replica = 0) { return step_of(Kind::F, stage, replica); }
inline Step B(int stage, int replica = 0) { return step_of(Kind::B, stage, replica); }
inline Step I(int stage, int replica = 0) { return step_of(Kind::I, stage, replica); }
inline Step W(int stage, int replica = 0) { return step_of(Kind::W, stage, replica); }
/// FB of the forward step `f` and the backward step `b`.
inline Step FB(Step f, Step b) { return {Kind::FB, f.replica, b.replica, f.stage, b.stage}; }
}  // namespace steps

struct Loop {
  int count = 0;
  std::vector<Step> body;
};

/// The loops of one rank. `repeat` drops loops that do nothing (count <= 0).
struct Row {
  std::vector<Loop> loops;
  Row& repeat(int count, std::vector<Step> body) {
    if (count > 0 && !body.empty()) loops.push_back({count, std::move(body)});
    return *this;
  }
  Row& once(Step step) { return repeat(1, {step}); }
  std::int64_t actions() const;
};

struct Program {
  std::string name;
  int micro_batches = 0;
  Placement placement;
  /// Replica k runs micro-batches [first[k], first[k + 1]); R + 1 entries.
  std::vector<int> first;
  std::vector<Row> rows;
};

/// A program of `placement` with empty rows; micro-batches are dealt to the replicas in equal
/// contiguous parts (the first ones get one more where they do not divide).
Program make_program(std::string name, int micro_batches, Placement placement);

/// Throws LogicError where a step has no micro-batch left.
Schedule expand(const Program& program);

}  // namespace pipemark
