// Breadth-first, looped BFS (Lamy-Poirier 2023, Breadth-First Pipeline Parallelism, section 3.2):
// GPipe over v looped chunks; every chunk runs all its micro-batches before the next one starts, so
// that the gradients of a chunk can be reduced while the others run.
//
//   rank r:  for chunk 0 .. v-1: M x F;  for chunk v-1 .. 0: M x B      stage s on rank s mod P
//
// Legend: P ranks, v chunks, M micro-batches, F and B = I + W times of 1/P of the model.
// bubble (idle time of a rank): (P-1)(F+B)/v, where M >= P; peak activations: M.
#include "schedules/generators/generators.hpp"

namespace pipemark {

namespace {

using namespace steps;

int chunks_of(const ScheduleRequest& request) { return request.chunks > 0 ? request.chunks : 2; }

Program breadth_first(const ScheduleRequest& request) {
  const int P = request.ranks, M = request.micro_batches, v = chunks_of(request);
  Program program = make_program("breadth-first", M, Placement::looped(P, v));
  for (int r = 0; r < P; ++r) {
    Row& row = program.rows[static_cast<std::size_t>(r)];
    for (int chunk = 0; chunk < v; ++chunk) row.repeat(M, {F(chunk * P + r)});
    for (int chunk = v - 1; chunk >= 0; --chunk) row.repeat(M, {B(chunk * P + r)});
  }
  return program;
}

}  // namespace

CatalogueRow breadth_first_row() {
  CatalogueRow row;
  row.name = "breadth-first";
  row.title = "Breadth-first (looped BFS)";
  row.paper = "Lamy-Poirier 2023, Breadth-First Pipeline Parallelism, section 3.2";
  row.constraints = "any ranks; any micro-batches (P or more fill the pipeline); any chunks";
  row.default_chunks = 2;
  row.refuse = refuse_basics;
  row.program = breadth_first;
  row.closed_form.bubble = [](const ScheduleRequest& q, double f, double i, double w) {
    return (q.ranks - 1) * (f + i + w) / chunks_of(q);
  };
  row.closed_form.assumes = "M >= P";
  row.closed_form.peak_activations = [](const ScheduleRequest& q, int) {
    return static_cast<double>(q.micro_batches);
  };
  return row;
}

}  // namespace pipemark
