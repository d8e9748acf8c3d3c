// Hanayo (Liu et al. 2023, Hanayo: Harnessing Wave-like Pipeline Parallelism, section 3): chunks
// lie in w waves (down and up the ranks w times), one replica; a turn of the wave stays on its
// rank.
//
// The order is what the paper's rules give when they run with F = 1 and B = 2 a chunk: a rank takes
// a backward that is ready before a forward, of forwards the one furthest down the waves, and stage
// 0 admits a micro-batch while fewer than P are under way (so no rank has more than P).
//
// Legend: P ranks, w waves = chunks/2, M micro-batches, S = 2wP stages.
// bubble: the paper gives a ratio for M = P only, with its own message costs; here it is simulated.
// Peak activations: at most min(P, M) on every rank.
#include <algorithm>

#include "kernels/check.hpp"
#include "schedules/generators/generators.hpp"

namespace pipemark {

namespace {

int chunks_of(const ScheduleRequest& request) { return request.chunks > 0 ? request.chunks : 2; }

/// Runs the rules with F = 1 and B = 2; writes each rank's row as it goes.
class WaveRun {
 public:
  WaveRun(Program& program, int limit)
      : program_(program),
        P_(program.placement.ranks),
        S_(program.placement.stages),
        M_(program.micro_batches),
        limit_(limit),
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
    if (s == 0) return m - next_backward_[0] < limit_;
    return is_done(forward_end_, s - 1, m, t);
  }
  bool start_one(int r, int t) {
    const int chunks = S_ / P_;
    for (int c = chunks - 1; c >= 0; --c) {
      const int s = stage_of(r, c);
      if (!backward_ready(s, t)) continue;
      backward_end_[static_cast<std::size_t>(s) * M_ + next_backward_[s]++] = t + 2;
      return record(r, steps::B(s), t + 2);
    }
    for (int c = chunks - 1; c >= 0; --c) {
      const int s = stage_of(r, c);
      if (!forward_ready(s, t)) continue;
      forward_end_[static_cast<std::size_t>(s) * M_ + next_forward_[s]++] = t + 1;
      return record(r, steps::F(s), t + 1);
    }
    return false;
  }
  bool record(int r, Step step, int end) {
    rows_[r].push_back(step);
    free_at_[r] = end;
    return true;
  }
  int stage_of(int r, int chunk) const { return chunk * P_ + (chunk % 2 == 0 ? r : P_ - 1 - r); }

  Program& program_;
  int P_, S_, M_, limit_;
  std::vector<int> forward_end_, backward_end_;  // [stage * M + micro-batch]
  std::vector<int> next_forward_, next_backward_, free_at_;
  std::vector<std::vector<Step>> rows_;
};

Program hanayo(const ScheduleRequest& request) {
  Program program = make_program("hanayo", request.micro_batches,
                                 Placement::v_shape(request.ranks, chunks_of(request)));
  WaveRun(program, request.ranks).run();
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
