// ZB-H1 (Qi et al. 2023, Zero Bubble Pipeline Parallelism, section 2.3): 1F1B with the backward
// split; W is put off so that the drain is filled, and no rank holds more than 1F1B's rank 0.
//
//   rank r:  (1) w x F   (2) d x F I   (3) (M-w-d) x F I W   (4) w x I W   (5) d x W
//            w = min(P-1-r, M), d = min(r, M-w)
//
// Legend: P ranks, M micro-batches, F, I, W times of 1/P of the model (the paper's B is I here),
// c the time of a message.
// bubble (span of a rank less its work): (P-1)(F + I - W), and 4(P-1)c more with messages, as the
// paper's table of measured times has it; peak activations: min(P, M) on every rank.
#include <algorithm>

#include "schedules/generators/generators.hpp"

namespace pipemark {

namespace {

using namespace steps;

Program zb_h1(const ScheduleRequest& request) {
  const int P = request.ranks, M = request.micro_batches;
  Program program = make_program("zb-h1", M, Placement::linear(P));
  for (int r = 0; r < P; ++r) {
    const int ahead = std::min(P - 1 - r, M), put_off = std::min(r, M - ahead);
    program.rows[static_cast<std::size_t>(r)]
        .repeat(ahead, {F(r)})
        .repeat(put_off, {F(r), I(r)})
        .repeat(M - ahead - put_off, {F(r), I(r), W(r)})
        .repeat(ahead, {I(r), W(r)})
        .repeat(put_off, {W(r)});
  }
  return program;
}

}  // namespace

CatalogueRow zb_h1_row() {
  CatalogueRow row;
  row.name = "zb-h1";
  row.title = "ZB-H1";
  row.paper = "Qi et al. 2023, Zero Bubble Pipeline Parallelism, section 2.3";
  row.constraints = "any ranks; any micro-batches";
  row.splits_backward = true;
  row.refuse = refuse_basics;
  row.program = zb_h1;
  row.closed_form.bubble = [](const ScheduleRequest& q, double f, double i, double w) {
    return (q.ranks - 1) * (f + i - w);
  };
  row.closed_form.of_span = true;
  row.closed_form.assumes = "W <= F, W <= I and M >= 2P-1";
  row.closed_form.peak_activations = [](const ScheduleRequest& q, int) {
    return static_cast<double>(std::min(q.ranks, q.micro_batches));
  };
  return row;
}

}  // namespace pipemark
