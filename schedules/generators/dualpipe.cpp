// DualPipe (DeepSeek-AI 2024, DeepSeek-V3 Technical Report, section 3.2.1, and its repository):
// two replicas of the model in opposite directions, forwards overlapped with backwards.
//
// Legend: P ranks (even), H = P/2, M micro-batches (even, >= 2P), r' = min(r, P-1-r). Direction 0
// enters at rank 0, direction 1 at rank P-1; a rank of the second half swaps the two, so that d0 is
// the direction whose entry is nearer. F, I, W, B = I + W as everywhere (DeepSeek writes B for the
// full backward too). FB(Fa, Bb) overlaps a forward of direction a with a backward of direction b.
//
// bubble (idle time of a rank): (H-1)(FB + B - 3W) as published, FB the time of an overlapped pair;
// the simulator gives it where M and the times keep the middle ranks busy (see the tests).
// Peak activations: P+1 micro-batches of 1/P of the model; two copies of the parameters.
#include <algorithm>
#include <deque>

#include "kernels/check.hpp"
#include "schedules/generators/generators.hpp"

namespace pipemark {

namespace {

using namespace steps;

/// The row of one rank; W's are taken first in, first out over both directions.
class DualPipeRow {
 public:
  DualPipeRow(int rank, int ranks, int micro_batches, Row& row)
      : ranks_(ranks), micro_batches_(micro_batches), row_(row) {
    const bool second_half = rank >= ranks / 2;
    near_ = std::min(rank, ranks - 1 - rank);
    stage_[0] = second_half ? ranks - 1 - rank : rank;
    stage_[1] = ranks - 1 - stage_[0];
    replica_[0] = second_half ? 1 : 0;
    replica_[1] = 1 - replica_[0];
  }

  void write() {
    const int half = ranks_ / 2, away = half - near_ - 1;
    // (1) 2(H-r'-1) x F0
    row_.repeat(2 * away, {forward(0)});
    // (2) (r'+1) x F0 F1
    row_.repeat(near_ + 1, {forward(0), forward(1)});
    // (3) (H-r'-1) x I1 W1 F1
    row_.repeat(away, {input_grad(1), weight_grad(1), forward(1)});
    // (4) (M/2-P+r'+1) x FB(F0,B1) FB(F1,B0); the middle ranks' first pair is not overlapped
    const int main = micro_batches_ / 2 - ranks_ + near_ + 1;
    const bool middle = away == 0;
    if (middle) row_.repeat(1, {forward(0), backward(1), both(1, 0)});
    row_.repeat(main - (middle ? 1 : 0), {both(0, 1), both(1, 0)});
    // (5) (H-r'-1) x B1 FB(F1,B0)
    row_.repeat(away, {backward(1), both(1, 0)});
    // (6) (r'+1) x B1 B0, the second half of these 2(r'+1) split
    for (int k = 0; k < 2 * (near_ + 1); ++k) {
      const int direction = k % 2 == 0 ? 1 : 0;
      row_.once(k <= near_ ? backward(direction) : defer(direction));
    }
    // (7) (H-r'-1) x W I0
    for (int k = 0; k < away; ++k) {
      row_.once(oldest_weight_grad());
      row_.once(defer(0));
    }
    // (8) (r'+1) x W
    while (!deferred_.empty()) row_.once(oldest_weight_grad());
  }

 private:
  Step forward(int d) const { return F(stage_[d], replica_[d]); }
  Step backward(int d) const { return B(stage_[d], replica_[d]); }
  Step input_grad(int d) const { return I(stage_[d], replica_[d]); }
  Step weight_grad(int d) const { return W(stage_[d], replica_[d]); }
  Step both(int f, int b) const { return FB(forward(f), backward(b)); }
  Step defer(int direction) {
    deferred_.push_back(direction);
    return input_grad(direction);
  }
  Step oldest_weight_grad() {
    const int direction = deferred_.front();
    deferred_.pop_front();
    return weight_grad(direction);
  }

  int ranks_, micro_batches_, near_ = 0;
  int stage_[2], replica_[2];  // by direction as this rank sees it
  Row& row_;
  std::deque<int> deferred_;
};

Program dualpipe(const ScheduleRequest& request) {
  const int P = request.ranks;
  Program program = make_program("dualpipe", request.micro_batches, Placement::bidirectional(P));
  for (int r = 0; r < P; ++r) {
    DualPipeRow(r, P, request.micro_batches, program.rows[static_cast<std::size_t>(r)]).write();
  }
  return program;
}

std::string refuse(const ScheduleRequest& request) {
  if (std::string basics = refuse_basics(request); !basics.empty()) return basics;
  const int P = request.ranks, M = request.micro_batches;
  if (P % 2 != 0) return fmt::format("ranks = {}: dualpipe needs an even number of ranks", P);
  if (M % 2 != 0) {
    return fmt::format("micro_batches = {}: dualpipe needs an even number of micro-batches", M);
  }
  if (M < 2 * P) {
    return fmt::format("micro_batches = {}: dualpipe on {} ranks needs at least {}", M, P, 2 * P);
  }
  return {};
}

}  // namespace

CatalogueRow dualpipe_row() {
  CatalogueRow row;
  row.name = "dualpipe";
  row.title = "DualPipe";
  row.paper = "DeepSeek-AI 2024, DeepSeek-V3 Technical Report, section 3.2.1";
  row.constraints = "ranks even; micro-batches even and at least 2P";
  row.splits_backward = true;
  row.refuse = refuse;
  row.program = dualpipe;
  row.closed_form.bubble = [](const ScheduleRequest& q, double f, double i, double w) {
    return (q.ranks / 2 - 1) * (f + 2 * (i + w) - 3 * w);
  };
  row.closed_form.peak_activations = [](const ScheduleRequest& q, int) { return q.ranks + 1.0; };
  row.closed_form.parameters = 2;
  return row;
}

}  // namespace pipemark
