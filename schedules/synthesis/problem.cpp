// Flattens a request into ops and tasks, checks it, and turns orders back into the IR.
#include "schedules/synthesis/problem.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/check.hpp"

namespace pipemark::synthesis {
namespace {

Placement place(const ScheduleRequest& request) {
  const std::string name =
      request.placement.empty() ? (request.chunks == 2 ? "v" : "linear") : request.placement;
  if (name == "linear") return Placement::linear(request.ranks);
  if (name == "v") return Placement::v_shape(request.ranks, 2);
  if (name == "bidirectional") return Placement::bidirectional(request.ranks, 1);
  throw UserError(fmt::format("placement \"{}\" is unknown", name),
                  "zb-auto places stages by \"linear\", \"v\" or \"bidirectional\"");
}

void check_request(const ScheduleRequest& request) {
  if (request.ranks < 1 || request.micro_batches < 1) {
    throw UserError(fmt::format("zb-auto got {} ranks and {} micro-batches", request.ranks,
                                request.micro_batches),
                    "both must be at least 1");
  }
  if (request.placement == "bidirectional" && request.micro_batches < 2) {
    throw UserError("micro_batches = 1 leaves one direction of a bidirectional placement empty",
                    "give at least 2 micro-batches");
  }
  if (!request.memory_limits.empty() &&
      static_cast<int>(request.memory_limits.size()) != request.ranks) {
    throw UserError(fmt::format("memory_limits has {} values for {} ranks",
                                request.memory_limits.size(), request.ranks),
                    "give one limit for each rank, or memory_limit for all");
  }
}

void check_share(double share) {
  if (!(share > 0 && share <= 1)) {
    throw UserError(fmt::format("deferred_share = {} is not a part of an activation", share),
                    "it must be above 0 and at most 1");
  }
}

void check_cost(const CostModel& cost, const Placement& placement) {
  if (cost.ranks != placement.ranks || cost.stages != placement.stages) {
    throw UserError(fmt::format("the cost model is of {} ranks and {} stages, the placement of {} "
                                "ranks and {} stages",
                                cost.ranks, cost.stages, placement.ranks, placement.stages),
                    "give times for each stage as it is placed");
  }
  const auto good = [](double t) { return t >= 0 && std::isfinite(t); };
  for (const StageCost& s : cost.stage) {
    if (!good(s.forward) || !good(s.input_grad) || !good(s.weight_grad)) {
      throw UserError("a stage's time is negative or not a number", "times must be >= 0");
    }
  }
  for (const double t : cost.message) {
    if (!good(t)) throw UserError("a message's time is negative or not a number", "must be >= 0");
  }
}

/// Times, messages and the chain of each op.
void fill_ops(Problem& p) {
  const Placement& at = p.placement;
  const int stages = at.stages;
  const int ops = 3 * stages * at.replicas;
  p.time.resize(ops), p.message.assign(ops, 0), p.rank.resize(ops);
  p.input.assign(ops, -1), p.output.assign(ops, -1);
  p.slots.resize(at.ranks), p.work.assign(at.ranks, 0);
  for (int slot = 0; slot < stages * at.replicas; ++slot) {
    const int replica = slot / stages, s = slot % stages, r = at.rank_of(replica, s);
    const StageCost& cost = p.cost.of(r, s);
    const int f = 3 * slot, i = f + 1, w = f + 2;
    p.slots[r].push_back(slot);
    p.time[f] = cost.forward, p.time[i] = cost.input_grad, p.time[w] = cost.weight_grad;
    p.work[r] += (cost.forward + cost.backward()) * p.count[replica];
    p.rank[f] = p.rank[i] = p.rank[w] = r;
    p.input[w] = i;
    if (s > 0) {
      const int before = at.rank_of(replica, s - 1);
      p.input[f] = f - 3, p.output[f - 3] = f, p.message[f] = p.cost.message_time(before, r);
      p.input[i - 3] = i, p.output[i] = i - 3, p.message[i - 3] = p.cost.message_time(r, before);
    }
    if (s == stages - 1) p.input[i] = f, p.output[f] = i;
  }
}

void fill_capacity(Problem& p, const ScheduleRequest& request) {
  const double per_share = static_cast<double>(p.placement.stages) / p.placement.ranks;
  for (int r = 0; r < p.ranks(); ++r) {
    int total = 0;
    for (const int slot : p.slots[r]) total += p.count_of_op(3 * slot);
    const double limit = !request.memory_limits.empty()             ? request.memory_limits[r]
                         : request.memory_limit > 0 || request.cost ? request.memory_limit
                                                                    : request.ranks;
    const double places = limit * per_share;
    const double capacity = limit > 0 ? std::min<double>(places, total) : total;
    const int needed = static_cast<int>(p.slots[r].size());
    if (capacity + kMemorySlack < needed) {
      throw UserError(fmt::format("memory limit {} of rank {} is too small", limit, r),
                      fmt::format("its {} stage(s) need {} micro-batches at least", needed,
                                  needed / per_share));
    }
    p.capacity.push_back(capacity);
  }
}

void fill_earliest(Problem& p) {
  constexpr double kNever = std::numeric_limits<double>::infinity();
  p.head.assign(p.ranks(), kNever), p.first_backward.assign(p.ranks(), kNever);
  p.reach.assign(p.ops(), 0.0);
  for (int replica = 0; replica < p.placement.replicas; ++replica) {
    double at = 0;
    for (int op = 3 * replica * p.placement.stages; op >= 0; op = p.output[op]) {
      at += p.message[op];
      p.reach[op] = at;
      double& earliest = (op % 3 == 0 ? p.head : p.first_backward)[p.rank[op]];
      earliest = std::min(earliest, at);
      at += p.time[op];
    }
  }
}

}  // namespace

Problem make_problem(const ScheduleRequest& request) {
  check_request(request);
  check_share(request.deferred_share);
  Problem p;
  p.placement = place(request);
  if (request.cost) {
    p.cost = *request.cost;
  } else {
    const int ranks = p.placement.ranks, stages = p.placement.stages;
    const double share = static_cast<double>(ranks) / stages;
    p.cost = CostModel{ranks, stages, std::vector<StageCost>(ranks * stages, {share, share, share}),
                       std::vector<double>(ranks * ranks, 0.0), 1};
  }
  check_cost(p.cost, p.placement);
  const int m = request.micro_batches;
  p.count = p.placement.replicas == 2 ? std::vector<int>{(m + 1) / 2, m / 2} : std::vector<int>{m};
  p.micro_batches = p.count[0];
  p.deferred_share = request.deferred_share;
  fill_ops(p);
  fill_capacity(p, request);
  fill_earliest(p);
  return p;
}

Schedule to_schedule(const Problem& p, const Orders& orders) {
  Schedule schedule;
  schedule.name = "zb-auto";
  schedule.placement = p.placement;
  for (const int count : p.count) schedule.micro_batches += count;
  for (const auto& order : orders) {
    auto& row = schedule.ranks.emplace_back();
    for (const int task : order) {
      const int op = p.op_of(task), slot = op / 3, replica = slot / p.placement.stages;
      Action action;
      action.kind = op % 3 == 0 ? Kind::F : op % 3 == 1 ? Kind::I : Kind::W;
      action.replica = static_cast<std::int8_t>(replica);
      action.stage = static_cast<std::int16_t>(slot % p.placement.stages);
      action.micro_batch = p.number_of(task) + (replica == 1 ? p.count[0] : 0);
      row.push_back(action);
    }
  }
  return schedule;
}

std::vector<double> peak_memory(const Problem& p, const Orders& orders) {
  std::vector<double> peak(p.ranks(), 0.0);
  for (int r = 0; r < p.ranks(); ++r) {
    double held = 0;
    for (const int task : orders[r]) {
      held += p.memory_change(p.op_of(task));
      peak[r] = std::max(peak[r], held);
    }
  }
  return peak;
}

bool fits_memory(const Problem& p, const Orders& orders) {
  const std::vector<double> peak = peak_memory(p, orders);
  for (int r = 0; r < p.ranks(); ++r) {
    if (peak[r] > p.capacity[r] + kMemorySlack) return false;
  }
  return true;
}

}  // namespace pipemark::synthesis
