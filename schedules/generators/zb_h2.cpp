// ZB-H2 (Qi et al. 2023, Zero Bubble Pipeline Parallelism, section 2.4): twice ZB-H1's forwards
// ahead and weight gradients put off; each rank's own span has no bubble when F = I = W.
//
//   rank r:  (1) w x F   (2) d x F I   (3) (M-w-d) x F I W   (4) w x I W   (5) d x W
//            w = min(2(P-1-r), M), d = min(2r, M-w)
//
// Legend: P ranks, M micro-batches, F, I, W times of 1/P of the model (the paper's B is I here),
// c the time of a message.
// bubble (span of a rank less its work): (P-1)(F + I - 2W), and 2(P-1)c more with messages, where
// M >= 2P-1; the ranks' spans are staggered, so the makespan of one step alone is longer (the paper
// lets the next step begin before all ranks are done). Peak activations: min(2P-1, M).
#include <algorithm>

#include "schedules/generators/generators.hpp"

namespace pipemark {

namespace {

using namespace steps;

Program zb_h2(const ScheduleRequest& request) {
  const int P = request.ranks, M = request.micro_batches;
  Program program = make_program("zb-h2", M, Placement::linear(P));
  for (int r = 0; r < P; ++r) {
    const int ahead = std::min(2 * (P - 1 - r), M), put_off = std::min(2 * r, M - ahead);
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

CatalogueRow zb_h2_row() {
  CatalogueRow row;
  row.name = "zb-h2";
  row.title = "ZB-H2";
  row.paper = "Qi et al. 2023, Zero Bubble Pipeline Parallelism, section 2.4";
  row.constraints = "any ranks; any micro-batches (2P-1 or more fill the pipeline)";
  row.splits_backward = true;
  row.refuse = refuse_basics;
  row.program = zb_h2;
  row.closed_form.bubble = [](const ScheduleRequest& q, double f, double i, double w) {
    return (q.ranks - 1) * (f + i - 2 * w);
  };
  row.closed_form.of_span = true;
  row.closed_form.assumes = "W <= F, W <= I, 2W <= F + I and M >= 2P-1";
  row.closed_form.peak_activations = [](const ScheduleRequest& q, int) {
    return static_cast<double>(std::min(2 * q.ranks - 1, q.micro_batches));
  };
  return row;
}

}  // namespace pipemark
