// See expert_moves.hpp. One layer at a time; replica p stands on device p / each.
#include "balancers/expert_moves.hpp"

#include <algorithm>
#include <numeric>

#include "kernels/check.hpp"

namespace pipemark {

namespace {

/// One layer's placement, its devices' times and what it lacks of the placement in force.
class LayerState {
 public:
  LayerState(const float* loads, int experts, int gpus, const int* phy2log, int replicas,
             const int* in_force, const MoveCosts& costs)
      : loads_(loads),
        experts_(experts),
        gpus_(gpus),
        each_(replicas / gpus),
        costs_(costs),
        slots_(phy2log, phy2log + replicas),
        was_there_(static_cast<std::size_t>(gpus) * static_cast<std::size_t>(experts), false),
        held_(was_there_.size(), 0),
        count_(static_cast<std::size_t>(experts), 0),
        time_(static_cast<std::size_t>(gpus), 0.0) {
    for (int p = 0; p < replicas; ++p) {
      was_there_[at(device_of(p), in_force[p])] = true;
      ++held_[at(device_of(p), slots_[static_cast<std::size_t>(p)])];
      ++count_[static_cast<std::size_t>(slots_[static_cast<std::size_t>(p)])];
    }
    for (int g = 0; g < gpus_; ++g) time_[static_cast<std::size_t>(g)] = time_of(g);
  }

  const std::vector<int>& slots() const { return slots_; }
  int device_of(int slot) const { return slot / each_; }
  int slowest() const {
    return static_cast<int>(std::max_element(time_.begin(), time_.end()) - time_.begin());
  }
  double slowest_s() const { return *std::max_element(time_.begin(), time_.end()); }
  int moved() const {
    int moved = 0;
    for (std::size_t i = 0; i < held_.size(); ++i) moved += held_[i] > 0 && !was_there_[i];
    return moved;
  }
  double cost_s() const { return costs_.steps * slowest_s() + costs_.move_s * moved(); }

  /// Takes load off the slowest device; false when no step does. Slots of a device may exchange
  /// with those of devices [first, last) around it only.
  bool improve(int devices_per_node) {
    const int slow = slowest();
    const int first = slow / devices_per_node * devices_per_node;
    Step best{slow, -1, -1, time_[static_cast<std::size_t>(slow)]};
    for (int a = slow * each_; a < (slow + 1) * each_; ++a) {
      for (int b = first * each_; b < (first + devices_per_node) * each_; ++b) {
        if (device_of(b) != slow) consider_exchange(a, b, best);
        consider_replica(a, b, first, devices_per_node, best);
      }
    }
    if (best.b < 0) return false;
    apply(best);
    return true;
  }

 private:
  /// Exchange of slots a and b; or, with a < 0, slot b gets `expert`.
  struct Step {
    int expert, a, b;
    double worst_s;  ///< of the devices it touches
  };

  std::size_t at(int device, int expert) const {
    return static_cast<std::size_t>(device) * static_cast<std::size_t>(experts_) +
           static_cast<std::size_t>(expert);
  }
  double speed(int device) const {
    return costs_.speeds.empty() ? 1 : costs_.speeds[static_cast<std::size_t>(device)];
  }
  double share(int expert, int count) const {
    return costs_.seconds_per_load * static_cast<double>(loads_[expert]) / count;
  }
  double share(int expert) const { return share(expert, count_[static_cast<std::size_t>(expert)]); }
  double time_of(int device) const {
    double time = 0;
    for (int p = device * each_; p < (device + 1) * each_; ++p) {
      time += share(slots_[static_cast<std::size_t>(p)]);
    }
    return time / speed(device);
  }

  void consider_exchange(int a, int b, Step& best) const {
    const int x = slots_[static_cast<std::size_t>(a)], y = slots_[static_cast<std::size_t>(b)];
    const double shift = share(x) - share(y);
    if (shift <= 0) return;
    const int from = device_of(a), to = device_of(b);
    const double worst = std::max(time_[static_cast<std::size_t>(from)] - shift / speed(from),
                                  time_[static_cast<std::size_t>(to)] + shift / speed(to));
    if (worst < best.worst_s) best = {x, a, b, worst};
  }

  /// Slot b gets another replica of the expert in slot a; the expert it held has one less.
  void consider_replica(int a, int b, int first, int devices, Step& best) const {
    const int x = slots_[static_cast<std::size_t>(a)], y = slots_[static_cast<std::size_t>(b)];
    const int count_x = count_[static_cast<std::size_t>(x)];
    const int count_y = count_[static_cast<std::size_t>(y)];
    if (x == y || count_y < 2) return;
    const double less = share(x) - share(x, count_x + 1), more = share(y, count_y - 1) - share(y);
    double worst = 0;
    for (int g = first; g < first + devices; ++g) {
      const bool here = g == device_of(b);
      const int of_x = held_[at(g, x)], of_y = held_[at(g, y)] - here;
      if (of_x == 0 && held_[at(g, y)] == 0) continue;
      double time = -of_x * less + of_y * more;
      if (here) time += share(x, count_x + 1) - share(y);
      worst = std::max(worst, time_[static_cast<std::size_t>(g)] + time / speed(g));
    }
    if (worst < best.worst_s) best = {x, -1, b, worst};
  }

  void apply(const Step& step) {
    const auto b = static_cast<std::size_t>(step.b);
    const int gone = slots_[b];
    --held_[at(device_of(step.b), gone)];
    ++held_[at(device_of(step.b), step.expert)];
    slots_[b] = step.expert;
    if (step.a >= 0) {
      slots_[static_cast<std::size_t>(step.a)] = gone;
      --held_[at(device_of(step.a), step.expert)];
      ++held_[at(device_of(step.a), gone)];
    } else {
      ++count_[static_cast<std::size_t>(step.expert)];
      --count_[static_cast<std::size_t>(gone)];
    }
    for (int g = 0; g < gpus_; ++g) time_[static_cast<std::size_t>(g)] = time_of(g);
  }

  const float* loads_;
  int experts_, gpus_, each_;
  const MoveCosts& costs_;
  std::vector<int> slots_;
  std::vector<bool> was_there_;
  std::vector<int> held_;  ///< [device, expert] replicas
  std::vector<int> count_;
  std::vector<double> time_;
};

struct Cheapest {
  std::vector<int> slots;
  double cost_s;
};

void walk(LayerState state, int devices_per_node, Cheapest& best) {
  const auto limit = 8 * state.slots().size();
  for (std::size_t step = 0; step <= limit; ++step) {
    const double cost_s = state.cost_s();
    if (best.slots.empty() || cost_s < best.cost_s) best = {state.slots(), cost_s};
    if (!state.improve(devices_per_node)) return;
  }
}

/// Which block of `plan` stands where: blocks are matched to places, largest overlap of experts
/// first.
std::vector<int> match_blocks(const std::vector<int>& plan, const int* in_force, int blocks) {
  const int size = static_cast<int>(plan.size()) / blocks;
  struct Pair {
    int overlap, block, place;
  };
  std::vector<std::vector<int>> sorted_plan, sorted_force;
  for (int i = 0; i < blocks; ++i) {
    sorted_plan.emplace_back(plan.begin() + i * size, plan.begin() + (i + 1) * size);
    sorted_force.emplace_back(in_force + i * size, in_force + (i + 1) * size);
    std::sort(sorted_plan.back().begin(), sorted_plan.back().end());
    std::sort(sorted_force.back().begin(), sorted_force.back().end());
  }
  std::vector<Pair> pairs;
  std::vector<int> common;
  for (int block = 0; block < blocks; ++block) {
    for (int place = 0; place < blocks; ++place) {
      common.clear();
      const auto& a = sorted_plan[static_cast<std::size_t>(block)];
      const auto& b = sorted_force[static_cast<std::size_t>(place)];
      std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(common));
      pairs.push_back({static_cast<int>(common.size()), block, place});
    }
  }
  std::stable_sort(pairs.begin(), pairs.end(),
                   [](const Pair& a, const Pair& b) { return a.overlap > b.overlap; });
  std::vector<int> place_of(static_cast<std::size_t>(blocks), -1);
  std::vector<bool> taken(static_cast<std::size_t>(blocks), false);
  for (const Pair& pair : pairs) {
    if (place_of[static_cast<std::size_t>(pair.block)] >= 0 ||
        taken[static_cast<std::size_t>(pair.place)]) {
      continue;
    }
    place_of[static_cast<std::size_t>(pair.block)] = pair.place;
    taken[static_cast<std::size_t>(pair.place)] = true;
  }
  return place_of;
}

std::vector<int> move_blocks(const std::vector<int>& plan, const std::vector<int>& place_of) {
  const auto size = plan.size() / place_of.size();
  std::vector<int> moved(plan.size());
  for (std::size_t block = 0; block < place_of.size(); ++block) {
    std::copy_n(plan.begin() + static_cast<std::ptrdiff_t>(block * size), size,
                moved.begin() +
                    static_cast<std::ptrdiff_t>(static_cast<std::size_t>(place_of[block]) * size));
  }
  return moved;
}

/// EPLB's plan with its nodes, then each node's devices, named so that most experts stay.
std::vector<int> lay_over(const int* plan, const int* in_force, int replicas, int nodes, int gpus) {
  std::vector<int> slots(plan, plan + replicas);
  slots = move_blocks(slots, match_blocks(slots, in_force, nodes));
  const int node_size = replicas / nodes;
  for (int node = 0; node < nodes; ++node) {
    const std::vector<int> part(slots.begin() + node * node_size,
                                slots.begin() + (node + 1) * node_size);
    const int* there = in_force + node * node_size;
    const auto moved = move_blocks(part, match_blocks(part, there, gpus / nodes));
    std::copy(moved.begin(), moved.end(), slots.begin() + node * node_size);
  }
  return slots;
}

/// An expert that stays on its device stays in its slot.
void keep_slots(std::vector<int>& slots, const int* in_force, int gpus) {
  const auto each = slots.size() / static_cast<std::size_t>(gpus);
  for (std::size_t first = 0; first < slots.size(); first += each) {
    for (std::size_t p = first; p < first + each; ++p) {
      if (slots[p] == in_force[p]) continue;
      for (std::size_t q = first; q < first + each; ++q) {
        if (slots[q] == in_force[p] && slots[q] != in_force[q]) {
          std::swap(slots[p], slots[q]);
          break;
        }
      }
    }
  }
}
}  // namespace

ExpertChange cost_of_change(const Matrix<float>& loads, int gpus, const ExpertPlacement& current,
                            ExpertPlacement next, const MoveCosts& costs) {
  ExpertChange change;
  for (int layer = 0; layer < loads.rows; ++layer) {
    const LayerState state(loads.row(layer), loads.columns, gpus, next.phy2log.row(layer),
                           next.replicas(), current.phy2log.row(layer), costs);
    change.moved += state.moved();
    change.step_s += state.slowest_s();
  }
  change.cost_s = costs.steps * change.step_s + costs.move_s * change.moved;
  change.placement = std::move(next);
  return change;
}

ExpertChange adapt_experts(const Matrix<float>& loads, const ExpertGrid& grid,
                           const ExpertPlacement& current, const MoveCosts& costs) {
  check(current.layers() == loads.rows && current.experts() == loads.columns &&
            current.replicas() == grid.replicas,
        "a placement of {} x {} replicas for {} x {}", current.layers(), current.replicas(),
        loads.rows, grid.replicas);
  check(costs.speeds.empty() || costs.speeds.size() == static_cast<std::size_t>(grid.gpus),
        "{} speeds for {} devices", costs.speeds.size(), grid.gpus);
  const ExpertPlacement fresh = rebalance_experts(loads, grid);
  const int nodes = grid.hierarchical() ? grid.nodes : 1;
  Matrix<int> phy2log(loads.rows, grid.replicas);
  for (int layer = 0; layer < loads.rows; ++layer) {
    const int* in_force = current.phy2log.row(layer);
    const auto state_of = [&](const int* slots) {
      return LayerState(loads.row(layer), loads.columns, grid.gpus, slots, grid.replicas, in_force,
                        costs);
    };
    Cheapest best;
    walk(state_of(in_force), grid.gpus / nodes, best);
    const auto plan = lay_over(fresh.phy2log.row(layer), in_force, grid.replicas, nodes, grid.gpus);
    walk(state_of(plan.data()), grid.gpus / nodes, best);
    keep_slots(best.slots, in_force, grid.gpus);
    std::copy(best.slots.begin(), best.slots.end(), phy2log.row(layer));
  }
  return cost_of_change(loads, grid.gpus, current,
                        ExpertPlacement::of(std::move(phy2log), loads.columns), costs);
}

}  // namespace pipemark
