// Repeats and squeezes a building block. All times are in slots; every action takes one.
#include "schedules/generators/building_block.hpp"

#include <algorithm>
#include <deque>

#include "kernels/check.hpp"

namespace pipemark {

namespace {

constexpr int kPeriod = 6;
enum Type : int { kForward0, kForward1, kInput1, kInput0, kWeight1, kWeight0, kTypes };
constexpr bool is_forward(int type) { return type <= kForward1; }
constexpr bool is_weight(int type) { return type >= kWeight1; }

struct Cell {
  int type = -1, micro_batch = 0;
};

class Table {
 public:
  Table(int ranks, int micro_batches, const BuildingBlock& block)
      : ranks_(ranks), micro_batches_(micro_batches) {
    int last = 0;
    for (int r = 0; r < ranks_; ++r) {
      const auto s = block.slots(r);
      last = std::max({last, s.forward0, s.forward1, s.input1, s.input0});
    }
    length_ = last + kPeriod * micro_batches_ + 2 * micro_batches_ + 1;
    cells_.assign(static_cast<std::size_t>(ranks_) * length_, {});
    at_.assign(static_cast<std::size_t>(ranks_) * kTypes * micro_batches_, 0);
    for (int r = 0; r < ranks_; ++r) lay_out(r, block.slots(r));
    count_memory();
  }

  /// Moves every action, in the order of time, to the earliest free slot that its inputs and the
  /// rank's peak allow. The old place always stays allowed, so this cannot fail.
  void squeeze() {
    for (int t = 0; t < length_; ++t) {
      for (int r = 0; r < ranks_; ++r) {
        if (cell(r, t).type >= 0) move_earlier(r, t);
      }
    }
  }

  /// Rows in the order of time; after a rank's last forward, where memory cannot grow, an input
  /// gradient goes before the weight gradients as soon as its input is there.
  std::vector<std::vector<Cell>> rows() const;

 private:
  Cell& cell(int rank, int t) { return cells_[static_cast<std::size_t>(rank) * length_ + t]; }
  const Cell& cell(int rank, int t) const {
    return cells_[static_cast<std::size_t>(rank) * length_ + t];
  }
  int& at(int rank, int type, int micro_batch) {
    return at_[(static_cast<std::size_t>(rank) * kTypes + type) * micro_batches_ + micro_batch];
  }

  void put(int rank, int t, int type, int micro_batch) {
    check(cell(rank, t).type < 0, "building block: slot {} of rank {} is taken twice", t, rank);
    cell(rank, t) = {type, micro_batch};
    at(rank, type, micro_batch) = t;
  }

  void lay_out(int rank, const BuildingBlock::Slots& s) {
    for (int m = 0; m < micro_batches_; ++m) {
      put(rank, s.forward0 + kPeriod * m, kForward0, m);
      put(rank, s.forward1 + kPeriod * m, kForward1, m);
      put(rank, s.input1 + kPeriod * m, kInput1, m);
      put(rank, s.input0 + kPeriod * m, kInput0, m);
    }
    std::deque<Cell> waiting;
    for (int t = 0; t < length_; ++t) {
      const Cell here = cell(rank, t);
      if (here.type == kInput1) waiting.push_back({kWeight1, here.micro_batch});
      if (here.type == kInput0) waiting.push_back({kWeight0, here.micro_batch});
      if (here.type >= 0 || waiting.empty()) continue;
      put(rank, t, waiting.front().type, waiting.front().micro_batch);
      waiting.pop_front();
    }
    check(waiting.empty(), "building block: no slot for a weight gradient of rank {}", rank);
  }

  /// memory_: live chunks while slot t runs; peaks_: the most of a rank.
  void count_memory() {
    memory_.assign(cells_.size(), 0);
    peaks_.assign(static_cast<std::size_t>(ranks_), 0);
    for (int r = 0; r < ranks_; ++r) {
      int live = 0;
      for (int t = 0; t < length_; ++t) {
        const int type = cell(r, t).type;
        if (type >= 0 && is_forward(type)) ++live;
        memory_[static_cast<std::size_t>(r) * length_ + t] = live;
        peaks_[static_cast<std::size_t>(r)] = std::max(peaks_[static_cast<std::size_t>(r)], live);
        if (type >= 0 && is_weight(type)) --live;
      }
    }
    peak_ = *std::max_element(peaks_.begin(), peaks_.end());
  }

  /// The first slot at which the inputs of the action are there.
  int earliest(int rank, const Cell& action) {
    const int m = action.micro_batch, type = action.type;
    int first = m > 0 ? at(rank, type, m - 1) + 1 : 0;
    const auto after = [&](int r, int of) { first = std::max(first, at(r, of, m) + 1); };
    if (type == kWeight1) after(rank, kInput1);
    if (type == kWeight0) after(rank, kInput0);
    const bool down = type == kForward0 || type == kInput1;  // from rank r-1, up from rank r+1
    if (down && rank > 0) after(rank - 1, type);
    if ((type == kForward1 || type == kInput0) && rank + 1 < ranks_) after(rank + 1, type);
    if (type == kForward1 || type == kInput1 || type == kInput0) after(rank, type - 1);
    return first;
  }

  void move_earlier(int rank, int t) {
    const Cell action = cell(rank, t);
    int* memory = &memory_[static_cast<std::size_t>(rank) * length_];
    int floor = earliest(rank, action);
    if (is_forward(action.type)) {  // it would be live from there on
      for (int s = t - 1; s >= floor; --s) {
        if (memory[s] + 1 > peak_) floor = s + 1;
      }
    }
    int target = floor;
    while (target < t && cell(rank, target).type >= 0) ++target;
    if (target >= t) return;
    cell(rank, t) = {};
    put(rank, target, action.type, action.micro_batch);
    if (is_forward(action.type)) {
      for (int s = target; s < t; ++s) ++memory[s];
    } else if (is_weight(action.type)) {
      for (int s = target + 1; s <= t; ++s) --memory[s];
    }
  }

  int ranks_, micro_batches_, length_ = 0, peak_ = 0;
  std::vector<Cell> cells_;  // [rank * length + slot]
  std::vector<int> at_;      // [(rank * kTypes + type) * M + micro-batch]: its slot
  std::vector<int> memory_, peaks_;
};

std::vector<std::vector<Cell>> Table::rows() const {
  std::vector<std::vector<Cell>> order(static_cast<std::size_t>(ranks_)), out(order.size());
  std::vector<std::size_t> next(order.size(), 0), last_forward(order.size(), 0);
  std::size_t left = 0;
  for (int r = 0; r < ranks_; ++r) {
    for (int t = 0; t < length_; ++t) {
      if (cell(r, t).type < 0) continue;
      if (is_forward(cell(r, t).type)) last_forward[r] = order[r].size();
      order[r].push_back(cell(r, t));
    }
    left += order[r].size();
  }
  std::vector<int> end(at_.size(), 0);  // slot after the action, 0: not yet
  const auto end_of = [&](int r, int type, int m) -> int& {
    return end[(static_cast<std::size_t>(r) * kTypes + type) * micro_batches_ + m];
  };
  const auto ready = [&](int r, const Cell& a, int t) {
    const auto done = [&](int rank, int type) {
      const int e = end_of(rank, type, a.micro_batch);
      return e > 0 && e <= t;
    };
    if (is_weight(a.type)) return done(r, a.type == kWeight1 ? kInput1 : kInput0);
    if (a.type != kForward0 && !done(r, a.type - 1)) return false;
    const bool down = a.type == kForward0 || a.type == kInput1;
    const int from = down ? r - 1 : r + 1;
    return from < 0 || from >= ranks_ || done(from, a.type);
  };
  for (int t = 0; left > 0; ++t) {
    check(t <= 4 * length_, "building block: the order cannot run");
    for (int r = 0; r < ranks_; ++r) {
      auto& row = order[r];
      std::size_t pick = next[r];
      if (pick >= row.size()) continue;
      if (pick > last_forward[r]) {  // the first input gradient left, else what comes
        std::size_t k = pick;
        while (k < row.size() && is_weight(row[k].type)) ++k;
        if (k < row.size() && ready(r, row[k], t)) pick = k;
        if (pick == k && k < row.size() && !ready(r, row[k], t)) {
          while (k < row.size() && !is_weight(row[k].type)) ++k;
          if (k < row.size()) pick = k;
        }
      }
      if (!ready(r, row[pick], t)) continue;
      std::rotate(row.begin() + next[r], row.begin() + pick, row.begin() + pick + 1);
      const Cell& a = row[next[r]++];
      end_of(r, a.type, a.micro_batch) = t + 1;
      out[r].push_back(a);
      --left;
    }
  }
  return out;
}

}  // namespace

Program repeat_block(const std::string& name, int ranks, int micro_batches,
                     const BuildingBlock& block) {
  Program program = make_program(name, micro_batches, Placement::v_shape(ranks, 2));
  Table table(ranks, micro_batches, block);
  table.squeeze();
  const auto rows = table.rows();
  for (int r = 0; r < ranks; ++r) {
    std::vector<Step> row;
    for (const Cell& a : rows[static_cast<std::size_t>(r)]) {
      const bool first_chunk = a.type == kForward0 || a.type == kInput0 || a.type == kWeight0;
      const Kind kind = is_forward(a.type) ? Kind::F : is_weight(a.type) ? Kind::W : Kind::I;
      row.push_back(step_of(kind, first_chunk ? r : 2 * ranks - 1 - r));
    }
    program.rows[static_cast<std::size_t>(r)].repeat(1, std::move(row));
  }
  return program;
}

}  // namespace pipemark
