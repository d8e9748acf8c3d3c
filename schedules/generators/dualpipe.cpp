// DualPipe (DeepSeek-AI 2024, DeepSeek-V3 Technical Report, section 3.2.1, and its repository):
// two replicas of the model in opposite directions, forwards overlapped with backwards.
//
// Legend: P ranks (even), H = P/2, M micro-batches (even, >= 2P), r' = min(r, P-1-r). Direction 0
// enters at rank 0, direction 1 at rank P-1; a rank of the second half swaps the two, so that d0 is
// the direction whose entry is nearer. F, I, W, B = I + W as everywhere (DeepSeek writes B for the
// full backward too). FB(Fa, Bb) overlaps a forward of direction a with a backward of direction b.
//
// Phases: dual_phases.hpp with H = P/2, N = M/2.
// bubble (idle time of a rank): (H-1)(FB + B - 3W) as published, FB the time of an overlapped pair:
// exact at F = I = W, elsewhere off by at most 2(H-1) times their largest difference (tests).
// Peak activations: P+1 micro-batches of 1/P of the model; two copies of the parameters.
#include <algorithm>

#include "kernels/check.hpp"
#include "schedules/generators/dual_phases.hpp"
#include "schedules/generators/generators.hpp"

namespace pipemark {

namespace {

Program dualpipe(const ScheduleRequest& request) {
  const int P = request.ranks;
  Program program = make_program("dualpipe", request.micro_batches, Placement::bidirectional(P));
  for (int r = 0; r < P; ++r) {
    const bool second_half = r >= P / 2;
    const int near = std::min(r, P - 1 - r);
    const int replica = second_half ? 1 : 0;
    DualPhases phases;
    phases.direction[0] = {near, replica};
    phases.direction[1] = {P - 1 - near, 1 - replica};
    phases.depth = near;
    phases.half = P / 2;
    phases.micro_batches = request.micro_batches / 2;
    program.rows[static_cast<std::size_t>(r)] = phases.row();
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
    return (q.ranks / 2 - 1) * (q.overlap * (f + i + w) + i - 2 * w);
  };
  row.closed_form.assumes = "F = I = W";
  row.closed_form.peak_activations = [](const ScheduleRequest& q, int) { return q.ranks + 1.0; };
  row.closed_form.parameters = 2;
  return row;
}

}  // namespace pipemark
