// DualPipeV (DeepSeek's DualPipe repository, 2025, after Sea AI Lab's "cut-in-half"): DualPipe's
// phases on a V of two chunks a rank, one replica. Direction 0 goes down the V, direction 1 up it.
//
// Legend: P ranks, M micro-batches (>= 2P), S = 2P stages, stage s on rank min(s, 2P-1-s); F, W and
// B = I + W are times of 1/P of the model, so a stage takes half of them; FB an overlapped pair.
// Phases: dual_phases.hpp with H = P, r' = r, N = M.
// bubble (idle time of a rank): (P-1)(FB + B - 3W)/2; peak activations: (2P+1)/2, that is 2P+1
// chunks; one copy of the parameters (DeepSeek counts 2x of half as many devices).
#include "kernels/check.hpp"
#include "schedules/generators/dual_phases.hpp"
#include "schedules/generators/generators.hpp"

namespace pipemark {

namespace {

Program dualpipev(const ScheduleRequest& request) {
  const int P = request.ranks;
  Program program = make_program("dualpipev", request.micro_batches, Placement::v_shape(P, 2));
  for (int r = 0; r < P; ++r) {
    DualPhases phases;
    phases.direction[0] = {r, 0};
    phases.direction[1] = {2 * P - 1 - r, 0};
    phases.depth = r;
    phases.half = P;
    phases.micro_batches = request.micro_batches;
    program.rows[static_cast<std::size_t>(r)] = phases.row();
  }
  return program;
}

std::string refuse(const ScheduleRequest& request) {
  if (std::string why = refuse_basics(request); !why.empty()) return why;
  if (std::string why = refuse_chunks(request, "dualpipev", 2); !why.empty()) return why;
  if (request.micro_batches < 2 * request.ranks) {
    return fmt::format("micro_batches = {}: dualpipev on {} ranks needs at least {}",
                       request.micro_batches, request.ranks, 2 * request.ranks);
  }
  return {};
}

}  // namespace

CatalogueRow dualpipev_row() {
  CatalogueRow row;
  row.name = "dualpipev";
  row.title = "DualPipeV";
  row.paper = "DeepSeek-AI 2025, DualPipe repository; Sea AI Lab 2025, cut-in-half";
  row.constraints = "any ranks; micro-batches at least 2P; chunks 2";
  row.default_chunks = 2;
  row.splits_backward = true;
  row.refuse = refuse;
  row.program = dualpipev;
  row.closed_form.bubble = [](const ScheduleRequest& q, double f, double i, double w) {
    return (q.ranks - 1) * (q.overlap * (f + i + w) + i - 2 * w) / 2;
  };
  row.closed_form.assumes = "F = I = W";
  row.closed_form.peak_activations = [](const ScheduleRequest& q, int) {
    return (2 * q.ranks + 1) / 2.0;
  };
  return row;
}

}  // namespace pipemark
