// Expands a Program: counts micro-batches for each (replica, stage) while it walks the loops.
#include "schedules/program.hpp"

#include "kernels/check.hpp"

namespace pipemark {

std::int64_t Row::actions() const {
  std::int64_t sum = 0;
  for (const Loop& loop : loops) sum += static_cast<std::int64_t>(loop.count) * loop.body.size();
  return sum;
}

Program make_program(std::string name, int micro_batches, Placement placement) {
  Program program;
  program.name = std::move(name);
  program.micro_batches = micro_batches;
  const int replicas = placement.replicas;
  for (int k = 0; k <= replicas; ++k) {
    program.first.push_back(
        static_cast<int>((static_cast<std::int64_t>(micro_batches) * k + replicas - 1) / replicas));
  }
  program.rows.resize(static_cast<std::size_t>(placement.ranks));
  program.placement = std::move(placement);
  return program;
}

namespace {

/// Hands out the micro-batches of one (replica, stage).
struct Counter {
  int forward = 0, backward = 0, weight = 0;  // how many were handed out
  std::vector<int> split;                     // micro-batches whose backward is split, in order
};

class RowExpander {
 public:
  RowExpander(const Program& program, std::vector<Counter>& counters)
      : program_(program), counters_(counters) {}

  Action next(const Step& step) {
    Action action;
    action.kind = step.kind;
    action.replica = step.replica;
    action.stage = step.stage;
    if (step.kind == Kind::FB) {
      action.micro_batch = take(Kind::F, step.replica, step.stage);
      action.replica_b = step.replica_b;
      action.stage_b = step.stage_b;
      action.micro_batch_b = take(Kind::B, step.replica_b, step.stage_b);
    } else {
      action.micro_batch = take(step.kind, step.replica, step.stage);
    }
    return action;
  }

 private:
  int take(Kind kind, int replica, int stage) {
    Counter& counter =
        counters_[static_cast<std::size_t>(replica) * program_.placement.stages + stage];
    const int first = program_.first[replica];
    const int count = program_.first[replica + 1] - first;
    if (kind == Kind::W) {
      check(counter.weight < static_cast<int>(counter.split.size()),
            "{}: W of stage {} before its I", program_.name, stage);
      return counter.split[static_cast<std::size_t>(counter.weight++)];
    }
    int& used = kind == Kind::F ? counter.forward : counter.backward;
    check(used < count, "{}: no micro-batch left for stage {} of replica {}", program_.name, stage,
          replica);
    const int micro_batch = first + used++;
    if (kind == Kind::I) counter.split.push_back(micro_batch);
    return micro_batch;
  }

  const Program& program_;
  std::vector<Counter>& counters_;
};

}  // namespace

Schedule expand(const Program& program) {
  Schedule schedule{program.name, program.micro_batches, program.placement, {}};
  std::vector<Counter> counters(static_cast<std::size_t>(program.placement.replicas) *
                                program.placement.stages);
  RowExpander expander(program, counters);
  schedule.ranks.resize(program.rows.size());
  for (std::size_t rank = 0; rank < program.rows.size(); ++rank) {
    std::vector<Action>& actions = schedule.ranks[rank];
    actions.reserve(static_cast<std::size_t>(program.rows[rank].actions()));
    for (const Loop& loop : program.rows[rank].loops) {
      for (int i = 0; i < loop.count; ++i) {
        for (const Step& step : loop.body) actions.push_back(expander.next(step));
      }
    }
  }
  return schedule;
}

}  // namespace pipemark
