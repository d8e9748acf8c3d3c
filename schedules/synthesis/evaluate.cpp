// A list of ranks that can go on; each runs until an input is missing and is put back by the task
// that provides it.
#include "schedules/synthesis/evaluate.hpp"

#include <algorithm>

namespace pipemark::synthesis {

Evaluator::Evaluator(const Problem& problem, const Objective& objective)
    : problem_(problem), due_(objective.due), link_(problem.tasks()) {
  for (int op = 0; op < problem.ops(); ++op) {
    for (int k = 0; k < problem.micro_batches; ++k) {
      const auto link = [&](int other) { return other < 0 ? -1 : problem.task(other, k); };
      link_[problem.task(op, k)] = {problem.time[op], problem.message[op], link(problem.input[op]),
                                    link(problem.output[op]), problem.rank[op]};
    }
  }
}

void Evaluator::run(const Orders& orders, Times& times) {
  ++evaluations_;
  const int ranks = problem_.ranks();
  times.end.assign(problem_.tasks(), -1.0);
  times.start.resize(problem_.tasks());
  times.finish.assign(ranks, 0.0);
  times.sequence.clear();
  position_.assign(ranks, 0);
  work_list_.clear();
  for (int r = ranks; r-- > 0;) work_list_.push_back(r);
  std::size_t total = 0;
  for (const auto& order : orders) total += order.size();

  while (!work_list_.empty()) {
    const int r = work_list_.back();
    work_list_.pop_back();
    const std::vector<int>& order = orders[r];
    const int size = static_cast<int>(order.size());
    int at = position_[r];
    double clock = times.finish[r];
    for (; at < size; ++at) {
      const int task = order[at];
      const Link& link = link_[task];
      double start = clock;
      if (link.input >= 0) {
        const double fed = times.end[link.input];
        if (fed < 0) break;
        start = std::max(start, fed + link.message);
      }
      clock = start + link.time;
      times.start[task] = start;
      times.end[task] = clock;
      times.sequence.push_back(task);
      const int next = link.output;
      if (next < 0) continue;
      const int other = link_[next].rank;
      if (other != r && position_[other] < static_cast<int>(orders[other].size()) &&
          orders[other][position_[other]] == next) {
        work_list_.push_back(other);
      }
    }
    position_[r] = at;
    times.finish[r] = clock;
  }

  times.complete = times.sequence.size() == total;
  times.makespan = times.span = 0;
  times.value = -1e300;
  for (int r = 0; r < ranks; ++r) {
    if (orders[r].empty()) continue;
    times.makespan = std::max(times.makespan, times.finish[r]);
    times.span = std::max(times.span, times.finish[r] - times.start[orders[r].front()]);
    times.value = std::max(times.value, times.finish[r] + due_[r]);
  }
}

void Evaluator::tails(const Orders& orders, const Times& times, std::vector<double>& tail) const {
  tail.assign(link_.size(), -1e300);
  for (int r = 0; r < problem_.ranks(); ++r) {
    if (!orders[r].empty()) tail[orders[r].back()] = due_[r];
  }
  // next_on_rank[r]: the task after the one at hand; tasks of a rank appear in order.
  std::vector<int> next_on_rank(problem_.ranks(), -1);
  for (std::size_t n = times.sequence.size(); n-- > 0;) {
    const int task = times.sequence[n];
    const Link& link = link_[task];
    double longest = tail[task];
    if (const int next = next_on_rank[link.rank]; next >= 0) {
      longest = std::max(longest, link_[next].time + tail[next]);
    }
    if (link.output >= 0) {
      const Link& out = link_[link.output];
      longest = std::max(longest, out.message + out.time + tail[link.output]);
    }
    tail[task] = longest;
    next_on_rank[link.rank] = task;
  }
}

}  // namespace pipemark::synthesis
