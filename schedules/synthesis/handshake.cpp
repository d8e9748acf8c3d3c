// Each rank goes on until an input or a receive is missing; whoever moves wakes its neighbours.
#include "schedules/synthesis/handshake.hpp"

#include <algorithm>

namespace pipemark::synthesis {

Handshake::Handshake(const Problem& problem) : problem_(problem), neighbours_(problem.ranks()) {
  for (int op = 0; op < problem.ops(); ++op) {
    const int next = problem.output[op];
    if (next < 0 || problem.rank[next] == problem.rank[op]) continue;
    const auto link = [&](int a, int b) {
      auto& list = neighbours_[a];
      if (std::find(list.begin(), list.end(), b) == list.end()) list.push_back(b);
    };
    link(problem.rank[op], problem.rank[next]);
    link(problem.rank[next], problem.rank[op]);
  }
}

bool Handshake::passes(const Orders& orders) {
  const int ranks = problem_.ranks();
  position_.assign(ranks, 0);
  reached_.assign(problem_.ops(), 0);
  ran_.assign(problem_.ops(), 0);
  work_list_.clear();
  std::size_t left = 0;
  for (int r = ranks; r-- > 0;) {
    left += orders[r].size();
    work_list_.push_back(r);
    if (!orders[r].empty()) ++reached_[problem_.op_of(orders[r][0])];
  }
  while (!work_list_.empty()) {
    const int r = work_list_.back();
    work_list_.pop_back();
    const std::vector<int>& order = orders[r];
    const int size = static_cast<int>(order.size());
    const int from = position_[r];
    bool moved = false;
    for (int& at = position_[r]; at < size;) {
      const int op = problem_.op_of(order[at]), k = problem_.number_of(order[at]);
      if (ran_[op] == k) {  // still to run
        const int input = problem_.input[op];
        if (input >= 0 && ran_[input] <= k) break;
        ++ran_[op];
        moved = true;
      }
      const int next = problem_.output[op];
      if (next >= 0 && problem_.rank[next] != r && reached_[next] < k) break;
      ++at, --left;
      if (at < size) ++reached_[problem_.op_of(order[at])];
    }
    if (!moved && position_[r] == from) continue;
    for (const int other : neighbours_[r]) work_list_.push_back(other);
  }
  return left == 0;
}

bool Handshake::repair(Orders& orders, bool by_receiver) {
  // Each step clears one stuck send; orders that need more than a few a rank are not worth it.
  for (int steps = 20 * problem_.ranks(); steps > 0; --steps) {
    if (passes(orders)) return true;
    if (!unstick(orders, by_receiver)) return false;
  }
  return false;
}

/// Works on the state in which passes() got stuck.
bool Handshake::unstick(Orders& orders, bool by_receiver) const {
  for (int r = 0; r < problem_.ranks(); ++r) {
    std::vector<int>& order = orders[r];
    const int at = position_[r];
    if (at == static_cast<int>(order.size())) continue;
    const int op = problem_.op_of(order[at]), k = problem_.number_of(order[at]);
    const int next = problem_.output[op];
    if (ran_[op] == k || next < 0) continue;  // it waits for an input
    if (by_receiver) {
      std::vector<int>& other = orders[problem_.rank[next]];
      const auto here = other.begin() + position_[problem_.rank[next]];
      std::stable_partition(here, other.end(), [&](int task) {
        return problem_.op_of(task) == next && problem_.number_of(task) < k;
      });
    } else {
      const auto backward = std::find_if(order.begin() + at + 1, order.end(), [&](int task) {
        return problem_.op_of(task) % 3 == 1 && problem_.op_of(task) != op;
      });
      if (backward == order.end()) return false;
      std::rotate(order.begin() + at, backward, backward + 1);
    }
    return true;
  }
  return false;
}

}  // namespace pipemark::synthesis
