// 1F1B, PipeDream-flush (Narayanan et al. 2021, section 2.2.1; Megatron-LM): as few forwards ahead
// as keep the pipeline full, then one forward and one backward in turn.
//
//   rank r:  (1) w x F   (2) (M-w) x F B   (3) w x B        w = min(P-1-r, M)
//
// bubble (idle time of a rank): (P-1)(F+B); peak activations of rank r: min(P-r, M).
// Legend: P ranks, M micro-batches, F forward and B = I + W full backward of 1/P of the model.
#include <algorithm>

#include "schedules/generators/generators.hpp"

namespace pipemark {

namespace {

using namespace steps;

Program one_f_one_b(const ScheduleRequest& request) {
  const int P = request.ranks, M = request.micro_batches;
  Program program = make_program("1f1b", M, Placement::linear(P));
  for (int r = 0; r < P; ++r) {
    const int ahead = std::min(P - 1 - r, M);
    program.rows[static_cast<std::size_t>(r)]
        .repeat(ahead, {F(r)})
        .repeat(M - ahead, {F(r), B(r)})
        .repeat(ahead, {B(r)});
  }
  return program;
}

}  // namespace

CatalogueRow one_f_one_b_row() {
  CatalogueRow row;
  row.name = "1f1b";
  row.title = "1F1B (PipeDream-flush)";
  row.paper = "Narayanan et al. 2021, Megatron-LM, section 2.2.1";
  row.constraints = "any ranks; any micro-batches";
  row.refuse = refuse_basics;
  row.program = one_f_one_b;
  row.closed_form.bubble = [](const ScheduleRequest& q, double f, double i, double w) {
    return (q.ranks - 1) * (f + i + w);
  };
  row.closed_form.assumes = "nothing more";
  row.closed_form.peak_activations = [](const ScheduleRequest& q, int rank) {
    return static_cast<double>(std::min(q.ranks - rank, q.micro_batches));
  };
  return row;
}

}  // namespace pipemark
