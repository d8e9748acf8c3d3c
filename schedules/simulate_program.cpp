// The simulator of programs. Each rank walks its loops until an input is missing; the arrival times
// of a stage's messages wait in a queue made of small blocks from one pool, and whoever adds to a
// queue wakes its reader. The rank that was woken last runs first, so that queues stay short.
#include <algorithm>
#include <array>

#include "kernels/check.hpp"
#include "schedules/simulate.hpp"
#include "schedules/simulation_totals.hpp"

namespace pipemark {

namespace {

constexpr std::uint32_t kNone = 0xffffffffu;
constexpr int kBlock = 14;  // arrival times a block: 128 bytes with the link

struct Block {
  std::array<double, kBlock> time;
  std::uint32_t next;
};

/// Messages of one (replica, stage, direction), oldest first.
struct Queue {
  std::uint32_t head = kNone, tail = kNone;
  std::uint16_t head_index = 0, tail_index = kBlock;
  std::int32_t reader = -1;  // rank
  bool reader_waits = false;
};

class QueuePool {
 public:
  bool empty(const Queue& queue) const {
    return queue.head == queue.tail &&
           (queue.head == kNone || queue.head_index == queue.tail_index);
  }
  double front(const Queue& queue) const { return blocks_[queue.head].time[queue.head_index]; }
  void pop(Queue& queue) {
    if (++queue.head_index < kBlock) return;
    const std::uint32_t done = queue.head;
    queue.head = blocks_[done].next;
    queue.head_index = 0;
    if (queue.head == kNone) {
      queue.tail = kNone;
      queue.tail_index = kBlock;
    }
    blocks_[done].next = free_;
    free_ = done;
  }
  void push(Queue& queue, double time) {
    if (queue.tail_index == kBlock) append_block(queue);
    blocks_[queue.tail].time[queue.tail_index++] = time;
  }

 private:
  void append_block(Queue& queue) {
    std::uint32_t block = free_;
    if (block != kNone) {
      free_ = blocks_[block].next;
    } else {
      block = static_cast<std::uint32_t>(blocks_.size());
      blocks_.emplace_back();
    }
    blocks_[block].next = kNone;
    if (queue.tail != kNone) {
      blocks_[queue.tail].next = block;
    } else {
      queue.head = block;
      queue.head_index = 0;
    }
    queue.tail = block;
    queue.tail_index = 0;
  }

  std::vector<Block> blocks_;
  std::uint32_t free_ = kNone;
};

/// A step with its queues and times; kNone where it has no such message.
struct TimedStep {
  std::uint32_t forward_in = kNone, backward_in = kNone, forward_out = kNone, backward_out = kNone;
  double time = 0, forward_message = 0, backward_message = 0;
  int live_before = 0, live_after = 0;  // change of the live activations at start and at end
};

struct TimedLoop {
  std::uint32_t begin = 0, end = 0;  // steps
  int count = 0;
};

struct Walker {
  std::uint32_t loop = 0, last_loop = 0, step = 0;
  int iteration = 0;
  int live = 0, peak = 0;
  double now = 0, busy = 0, first_start = -1;
};

class ProgramSimulator {
 public:
  ProgramSimulator(const Program& program, const PlacedCost& cost)
      : program_(program), cost_(cost), queues_(2 * program.placement.rank.size()) {
    const auto stages = static_cast<std::uint32_t>(program.placement.rank.size());
    for (std::uint32_t s = 0; s < stages; ++s) {
      queues_[s].reader = queues_[stages + s].reader = program.placement.rank[s];
    }
    for (const Row& row : program.rows) {
      Walker walker;
      walker.loop = static_cast<std::uint32_t>(loops_.size());
      for (const Loop& loop : row.loops) {
        const auto begin = static_cast<std::uint32_t>(steps_.size());
        for (const Step& step : loop.body) steps_.push_back(timed(step));
        loops_.push_back({begin, static_cast<std::uint32_t>(steps_.size()), loop.count});
      }
      walker.last_loop = static_cast<std::uint32_t>(loops_.size());
      if (walker.loop < walker.last_loop) walker.step = loops_[walker.loop].begin;
      walkers_.push_back(walker);
    }
  }

  std::vector<RankTotals> run() {
    for (int r = static_cast<int>(walkers_.size()) - 1; r >= 0; --r) ready_.push_back(r);
    while (!ready_.empty()) {
      const int rank = ready_.back();
      ready_.pop_back();
      walk(walkers_[static_cast<std::size_t>(rank)]);
    }
    std::vector<RankTotals> totals;
    for (std::size_t r = 0; r < walkers_.size(); ++r) {
      const Walker& walker = walkers_[r];
      check(walker.loop == walker.last_loop, "{}: rank {} never gets past iteration {} of a loop",
            program_.name, r, walker.iteration);
      totals.push_back({walker.now, walker.busy, walker.first_start, walker.peak});
    }
    return totals;
  }

 private:
  std::uint32_t index(int replica, int stage) const {
    return static_cast<std::uint32_t>(replica) * program_.placement.stages + stage;
  }

  void add_forward(TimedStep& timed, int replica, int stage) const {
    const std::uint32_t at = index(replica, stage);
    timed.time += cost_.stages[at].forward;
    timed.live_before = 1;
    if (stage > 0) timed.forward_in = at;
    if (stage + 1 < program_.placement.stages) timed.forward_out = at + 1;
    timed.forward_message = cost_.stages[at].forward_message;
  }
  void add_backward(TimedStep& timed, int replica, int stage, bool whole) const {
    const auto all = static_cast<std::uint32_t>(program_.placement.rank.size());
    const std::uint32_t at = index(replica, stage);
    timed.time += cost_.stages[at].input_grad + (whole ? cost_.stages[at].weight_grad : 0);
    if (whole) timed.live_after = -1;
    if (stage + 1 < program_.placement.stages) timed.backward_in = all + at;
    if (stage > 0) timed.backward_out = all + at - 1;
    timed.backward_message = cost_.stages[at].backward_message;
  }
  TimedStep timed(const Step& step) const {
    TimedStep timed;
    switch (step.kind) {
      case Kind::F:
        add_forward(timed, step.replica, step.stage);
        break;
      case Kind::B:
        add_backward(timed, step.replica, step.stage, true);
        break;
      case Kind::I:
        add_backward(timed, step.replica, step.stage, false);
        break;
      case Kind::W:
        timed.time = cost_.stages[index(step.replica, step.stage)].weight_grad;
        timed.live_after = -1;
        break;
      case Kind::FB:
        add_forward(timed, step.replica, step.stage);
        add_backward(timed, step.replica_b, step.stage_b, true);
        timed.time *= cost_.overlap;
        break;
    }
    return timed;
  }

  bool missing(std::uint32_t queue) {
    if (queue == kNone || !pool_.empty(queues_[queue])) return false;
    queues_[queue].reader_waits = true;
    return true;
  }
  void take(std::uint32_t queue, double& ready) {
    if (queue == kNone) return;
    ready = std::max(ready, pool_.front(queues_[queue]));
    pool_.pop(queues_[queue]);
  }
  void send(std::uint32_t queue, double arrival) {
    if (queue == kNone) return;
    Queue& to = queues_[queue];
    pool_.push(to, arrival);
    if (to.reader_waits) {
      to.reader_waits = false;
      ready_.push_back(to.reader);
    }
  }

  /// Runs until an input is missing or the row ends.
  void walk(Walker& stored) {
    Walker w = stored;
    while (w.loop < w.last_loop) {
      const TimedLoop loop = loops_[w.loop];
      while (w.iteration < loop.count) {
        const TimedStep& step = steps_[w.step];
        if (missing(step.forward_in) || missing(step.backward_in)) {
          stored = w;
          return;
        }
        run_step(w, step);
        if (++w.step == loop.end) {
          w.step = loop.begin;
          ++w.iteration;
        }
      }
      w.iteration = 0;
      if (++w.loop < w.last_loop) w.step = loops_[w.loop].begin;
    }
    stored = w;
  }
  void run_step(Walker& w, const TimedStep& step) {
    double ready = w.now;
    take(step.forward_in, ready);
    take(step.backward_in, ready);
    if (w.first_start < 0) w.first_start = ready;
    w.now = ready + step.time;
    w.busy += step.time;
    w.live += step.live_before;
    w.peak = std::max(w.peak, w.live);
    w.live += step.live_after;
    send(step.forward_out, w.now + step.forward_message);
    send(step.backward_out, w.now + step.backward_message);
  }

  const Program& program_;
  const PlacedCost& cost_;
  QueuePool pool_;
  std::vector<Queue> queues_;  // forward inputs of each (replica, stage), then backward inputs
  std::vector<TimedStep> steps_;
  std::vector<TimedLoop> loops_;
  std::vector<Walker> walkers_;
  std::vector<int> ready_;
};

}  // namespace

Simulation simulate(const Program& program, const PlacedCost& cost) {
  check(cost.stages.size() == program.placement.rank.size(), "{} stage costs for {} stages",
        cost.stages.size(), program.placement.rank.size());
  Simulation result;
  summarize(ProgramSimulator(program, cost).run(), program.placement, result);
  return result;
}

}  // namespace pipemark
