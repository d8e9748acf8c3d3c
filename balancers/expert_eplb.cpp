// See expert_eplb.hpp. All arithmetic is float32 in the published order; "inner" numbers an expert
// within its node, after the groups have been dealt to nodes.
#include "balancers/expert_eplb.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "balancers/torch_order.hpp"
#include "kernels/check.hpp"

namespace pipemark {

namespace {

/// A heap of (load, index) whose top is the first of the best: Better is std::less for the least
/// load, std::greater for the largest; the smaller index wins a tie.
template <class Better>
class Heap {
 public:
  using Entry = std::pair<float, int>;

  template <class LoadOf>
  void fill(int n, LoadOf load_of) {
    entries_.clear();
    for (int i = 0; i < n; ++i) entries_.emplace_back(load_of(i), i);
    for (std::size_t i = entries_.size() / 2; i-- > 0;) sift(i);
  }
  const Entry& top() const { return entries_.front(); }
  void change_top(float load) {
    entries_.front().first = load;
    sift(0);
  }
  void drop_top() {
    entries_.front() = entries_.back();
    entries_.pop_back();
    if (!entries_.empty()) sift(0);
  }

 private:
  static bool before(const Entry& a, const Entry& b) {
    return Better()(a.first, b.first) || (a.first == b.first && a.second < b.second);
  }
  void sift(std::size_t at) {
    const Entry moved = entries_[at];
    for (std::size_t child = 2 * at + 1; child < entries_.size(); child = 2 * at + 1) {
      if (child + 1 < entries_.size() && before(entries_[child + 1], entries_[child])) ++child;
      if (!before(entries_[child], moved)) break;
      entries_[at] = entries_[child];
      at = child;
    }
    entries_[at] = moved;
  }

  std::vector<Entry> entries_;
};

struct Scratch {
  std::vector<int> order, items;
  std::vector<std::pair<float, int>> pairs;
  Heap<std::less<>> lightest;
  Heap<std::greater<>> heaviest;
};

/// Deals n items to packs of n / packs each; slot[i] = pack (n / packs) + place in the pack.
void pack(const float* weight, int n, int packs, std::vector<int>& slot, Scratch& scratch) {
  const int room = n / packs;
  slot.resize(static_cast<std::size_t>(n));
  if (room == 1) {
    for (int i = 0; i < n; ++i) slot[static_cast<std::size_t>(i)] = i;
    return;
  }
  torch_sort_descending(weight, n, scratch.order, scratch.pairs);
  scratch.items.assign(static_cast<std::size_t>(packs), 0);
  scratch.lightest.fill(packs, [](int) { return 0.0f; });
  for (const int item : scratch.order) {
    const auto [load, chosen] = scratch.lightest.top();
    int& items = scratch.items[static_cast<std::size_t>(chosen)];
    slot[static_cast<std::size_t>(item)] = chosen * room + items;
    if (++items == room) {
      scratch.lightest.drop_top();
    } else {
      scratch.lightest.change_top(load + weight[item]);
    }
  }
}

/// The replicas of n experts: expert[r], rank[r] among its expert's, count[e].
struct Replicas {
  std::vector<int> expert, rank, count;
};

void replicate(const float* weight, int n, int replicas, Replicas& made, Scratch& scratch) {
  made.expert.resize(static_cast<std::size_t>(replicas));
  made.rank.assign(static_cast<std::size_t>(replicas), 0);
  made.count.assign(static_cast<std::size_t>(n), 1);
  scratch.heaviest.fill(n, [&](int e) { return weight[e]; });
  for (int r = 0; r < n; ++r) made.expert[static_cast<std::size_t>(r)] = r;
  for (int r = n; r < replicas; ++r) {
    const int e = scratch.heaviest.top().second;
    made.expert[static_cast<std::size_t>(r)] = e;
    made.rank[static_cast<std::size_t>(r)] = made.count[static_cast<std::size_t>(e)]++;
    scratch.heaviest.change_top(weight[e] /
                                static_cast<float>(made.count[static_cast<std::size_t>(e)]));
  }
}

class Balancer {
 public:
  Balancer(const Matrix<float>& loads, const ExpertGrid& grid)
      : loads_(loads),
        experts_(loads.columns),
        replicas_(grid.replicas),
        groups_(grid.hierarchical() ? grid.groups : 1),
        nodes_(grid.hierarchical() ? grid.nodes : 1),
        gpus_(grid.gpus),
        rank_(loads.rows, grid.replicas) {
    made_.phy2log = Matrix<int>(loads.rows, replicas_);
    made_.counts = Matrix<int>(loads.rows, experts_);
  }

  ExpertPlacement plan() {
    for (int layer = 0; layer < loads_.rows; ++layer) {
      deal_groups(layer);
      for (int node = 0; node < nodes_; ++node) fill_node(layer, node);
    }
    invert();
    return std::move(made_);
  }

 private:
  /// dealt_[i]: the expert that is the i-th once groups stand by node.
  void deal_groups(int layer) {
    const int group_size = experts_ / groups_;
    group_load_.clear();
    for (int g = 0; g < groups_; ++g) {
      group_load_.push_back(torch_sum(loads_.row(layer) + g * group_size, group_size));
    }
    pack(group_load_.data(), groups_, nodes_, slot_, scratch_);
    dealt_.resize(static_cast<std::size_t>(experts_));
    for (int g = 0; g < groups_; ++g) {
      for (int k = 0; k < group_size; ++k) {
        const int at = slot_[static_cast<std::size_t>(g)] * group_size + k;
        dealt_[static_cast<std::size_t>(at)] = g * group_size + k;
      }
    }
  }

  void fill_node(int layer, int node) {
    const int inner = experts_ / nodes_, places = replicas_ / nodes_;
    const int* expert_of = dealt_.data() + node * inner;
    load_.clear();
    for (int i = 0; i < inner; ++i) load_.push_back(loads_.row(layer)[expert_of[i]]);
    replicate(load_.data(), inner, places, replicated_, scratch_);
    replica_load_.clear();
    for (const int i : replicated_.expert) {
      replica_load_.push_back(load_[static_cast<std::size_t>(i)] /
                              static_cast<float>(replicated_.count[static_cast<std::size_t>(i)]));
    }
    pack(replica_load_.data(), places, gpus_ / nodes_, slot_, scratch_);
    for (int r = 0; r < places; ++r) {
      const auto from = static_cast<std::size_t>(r);
      const int at = node * places + slot_[from];
      made_.phy2log.row(layer)[at] = expert_of[replicated_.expert[from]];
      rank_.row(layer)[at] = replicated_.rank[from];
    }
    for (int i = 0; i < inner; ++i) {
      made_.counts.row(layer)[expert_of[i]] = replicated_.count[static_cast<std::size_t>(i)];
    }
  }

  /// Replicas of an expert are listed in the order in which they were given.
  void invert() {
    made_.max_count = *std::max_element(made_.counts.values.begin(), made_.counts.values.end());
    made_.log2phy = Matrix<int>(loads_.rows, experts_ * made_.max_count, -1);
    for (int layer = 0; layer < loads_.rows; ++layer) {
      for (int p = 0; p < replicas_; ++p) {
        const int expert = made_.phy2log.row(layer)[p];
        made_.log2phy.row(layer)[expert * made_.max_count + rank_.row(layer)[p]] = p;
      }
    }
  }

  const Matrix<float>& loads_;
  int experts_, replicas_, groups_, nodes_, gpus_;
  ExpertPlacement made_;
  Matrix<int> rank_;  ///< of a replica among its expert's
  std::vector<int> dealt_, slot_;
  std::vector<float> group_load_, load_, replica_load_;
  Replicas replicated_;
  Scratch scratch_;
};

void divides(int part, const char* part_name, int whole, const char* whole_name) {
  if (part > 0 && whole % part == 0) return;
  throw UserError(
      fmt::format("{} = {} does not divide among {} = {}", whole_name, whole, part_name, part),
      fmt::format("{} must be a multiple of {}", whole_name, part_name));
}
}  // namespace

void check_expert_grid(const ExpertGrid& grid, int experts) {
  for (const auto& [name, value] : {std::pair{"replicas", grid.replicas},
                                    {"groups", grid.groups},
                                    {"nodes", grid.nodes},
                                    {"gpus", grid.gpus}}) {
    if (value < 1) throw UserError(fmt::format("{} = {}", name, value), "it must be at least 1");
  }
  if (experts < 1) throw UserError("the loads have no experts", "give one load an expert");
  if (grid.replicas < experts) {
    throw UserError(fmt::format("replicas = {}, but there are {} experts", grid.replicas, experts),
                    fmt::format("replicas must be at least {}", experts));
  }
  divides(grid.gpus, "gpus", grid.replicas, "replicas");
  if (!grid.hierarchical()) return;
  divides(grid.groups, "groups", experts, "experts");
  divides(grid.nodes, "nodes", grid.gpus, "gpus");
}

ExpertPlacement rebalance_experts(const Matrix<float>& loads, const ExpertGrid& grid) {
  check_expert_grid(grid, loads.columns);
  check(loads.rows > 0, "expert loads without layers");
  for (const float load : loads.values) {
    check(std::isfinite(load) && load >= 0, "an expert's load is {}", load);
  }
  return Balancer(loads, grid).plan();
}

}  // namespace pipemark
