// GPipe (Huang et al. 2019, section 2.3): all forwards, then all backwards, a flush a step.
//
//   rank r:  M x F, M x B          S = P, stage s on rank s, micro-batches rising in both
//
// bubble (idle time of a rank): (P-1)(F+B); peak activations: M on every rank.
// Legend: P ranks, M micro-batches, F forward and B = I + W full backward of 1/P of the model.
#include "schedules/generators/generators.hpp"

namespace pipemark {

namespace {

using namespace steps;

Program gpipe(const ScheduleRequest& request) {
  Program program = make_program("gpipe", request.micro_batches, Placement::linear(request.ranks));
  for (int r = 0; r < request.ranks; ++r) {
    program.rows[static_cast<std::size_t>(r)]
        .repeat(request.micro_batches, {F(r)})
        .repeat(request.micro_batches, {B(r)});
  }
  return program;
}

}  // namespace

CatalogueRow gpipe_row() {
  CatalogueRow row;
  row.name = "gpipe";
  row.title = "GPipe";
  row.paper = "Huang et al. 2019, GPipe, section 2.3";
  row.constraints = "any ranks; any micro-batches";
  row.refuse = refuse_basics;
  row.program = gpipe;
  row.closed_form.bubble = [](const ScheduleRequest& q, double f, double i, double w) {
    return (q.ranks - 1) * (f + i + w);
  };
  row.closed_form.assumes = "nothing more";
  row.closed_form.peak_activations = [](const ScheduleRequest& q, int) {
    return static_cast<double>(q.micro_batches);
  };
  return row;
}

}  // namespace pipemark
