// Hanayo (Liu et al. 2023, Hanayo: Harnessing Wave-like Pipeline Parallelism, section 3): chunks
// lie in w waves (down and up the ranks w times), one replica; a turn of the wave stays on its
// rank.
//
// The order is what these rules give when they run with F = 1 and B = 2 a chunk: of the actions
// that are ready a rank takes the one of the oldest micro-batch; stage 0 admits a micro-batch while
// fewer than 2P are under way and rank 0 holds activations of fewer than P micro-batches; no stage
// is more than two forwards ahead of the next one (one, where rendezvous sends would block with
// two).
//
// Legend: P ranks, w waves = chunks/2, M micro-batches, S = 2wP stages.
// bubble: simulated; the paper's ratio is for M = P and counts its own message costs. More waves
// make it smaller. Peak activations: at most M where M <= P, 2P else.
#include <algorithm>

#include "kernels/check.hpp"
#include "schedules/deadlock.hpp"
#include "schedules/generators/generators.hpp"

namespace pipemark {

namespace {

int chunks_of(const ScheduleRequest& request) { return request.chunks > 0 ? request.chunks : 2; }

/// Runs the rules with F = 1 and B = 2; writes each rank's row as it goes.
class WaveRun {
 public:
  WaveRun(Program& program, int ahead)
      : program_(program),
        ahead_(ahead),
        P_(program.placement.ranks),
        S_(program.placement.stages),
        M_(program.micro_batches),
        forward_end_(static_cast<std::size_t>(S_) * M_),
        backward_end_(forward_end_.size()),
        next_forward_(S_, 0),
        next_backward_(S_, 0),
        free_at_(P_, 0),
        rows_(P_) {}

  void run() {
    std::int64_t left = 2LL * S_ * M_;
    for (int t = 1; left > 0; ++t) {  // 1: an end of 0 means not yet
      check(t <= 8LL * (S_ + 1) * (M_ + 1), "hanayo: the rules have stopped");
      for (int r = 0; r < P_; ++r) {
        if (free_at_[r] <= t && start_one(r, t)) --left;
      }
    }
    for (int r = 0; r < P_; ++r) program_.rows[r].repeat(1, std::move(rows_[r]));
  }

 private:
  bool is_done(const std::vector<int>& end, int stage, int m, int t) const {
    const int e = end[static_cast<std::size_t>(stage) * M_ + m];
    return e > 0 && e <= t;
  }
  bool backward_ready(int s, int t) const {
    const int m = next_backward_[s];
    if (m >= M_ || !is_done(forward_end_, s, m, t)) return false;
    return s + 1 == S_ || is_done(backward_end_, s + 1, m, t);
  }
  bool forward_ready(int s, int t) const {
    const int m = next_forward_[s];
    if (m >= M_) return false;
    if (s + 1 < S_ && m - next_forward_[s + 1] >= ahead_) return false;
    if (s > 0) return is_done(forward_end_, s - 1, m, t);
    return m - next_backward_[0] < 2 * P_ && live_on_rank_0_ < P_ * (S_ / P_);
  }
  /// Starts the ready action of the oldest micro-batch, a backward before a forward.
  bool start_one(int r, int t) {
    int best = -1, best_micro_batch = M_;
    bool backward = false;
    for (int c = S_ / P_ - 1; c >= 0; --c) {
      const int s = stage_of(r, c);
      if (next_backward_[s] < best_micro_batch && backward_ready(s, t)) {
        best = s, best_micro_batch = next_backward_[s], backward = true;
      }
      if (next_forward_[s] < best_micro_batch && forward_ready(s, t)) {
        best = s, best_micro_batch = next_forward_[s], backward = false;
      }
    }
    if (best < 0) return false;
    if (r == 0) live_on_rank_0_ += backward ? -1 : 1;
    const std::size_t cell = static_cast<std::size_t>(best) * M_ + best_micro_batch;
    if (backward) {
      ++next_backward_[best];
      backward_end_[cell] = t + 2;
      return record(r, steps::B(best), t + 2);
    }
    ++next_forward_[best];
    forward_end_[cell] = t + 1;
    return record(r, steps::F(best), t + 1);
  }
  bool record(int r, Step step, int end) {
    rows_[r].push_back(step);
    free_at_[r] = end;
    return true;
  }
  int stage_of(int r, int chunk) const { return chunk * P_ + (chunk % 2 == 0 ? r : P_ - 1 - r); }

  Program& program_;
  int ahead_;  // forwards a stage may start before the next stage starts the first of them
  int P_, S_, M_, live_on_rank_0_ = 0;
  std::vector<int> forward_end_, backward_end_;  // [stage * M + micro-batch]
  std::vector<int> next_forward_, next_backward_, free_at_;
  std::vector<std::vector<Step>> rows_;
};

Program hanayo(const ScheduleRequest& request) {
  Program program;
  for (const int ahead : {2, 1}) {
    program = make_program("hanayo", request.micro_batches,
                           Placement::v_shape(request.ranks, chunks_of(request)));
    WaveRun(program, ahead).run();
    if (find_deadlock(expand(program), true).empty()) break;
  }
  return program;
}

std::string refuse(const ScheduleRequest& request) {
  if (std::string why = refuse_basics(request); !why.empty()) return why;
  if (chunks_of(request) % 2 != 0) {
    return fmt::format("chunks = {}: hanayo needs an even number, two a wave", request.chunks);
  }
  return {};
}

}  // namespace

CatalogueRow hanayo_row() {
  CatalogueRow row;
  row.name = "hanayo";
  row.title = "Hanayo";
  row.paper = "Liu et al. 2023, Hanayo, section 3";
  row.constraints = "any ranks; any micro-batches; chunks even (two a wave)";
  row.default_chunks = 2;
  row.refuse = refuse;
  row.program = hanayo;
  return row;
}

}  // namespace pipemark
