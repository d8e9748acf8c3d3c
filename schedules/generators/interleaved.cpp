// Interleaved 1F1B (Narayanan et al. 2021, section 2.2.2; Megatron-LM): v chunks a rank, stage s on
// rank s mod P, 1F1B over the virtual order of (chunk, micro-batch).
//
//   virtual order: micro-batches in groups of g (P of them, or more where M is no multiple of P:
//   max(1, M div P) groups of nearly equal size); of a group all of chunk 0, then of chunk 1, ...;
//   backwards the same with the chunks from the last to the first
//   rank r:  (1) w x F   (2) (Mv-w) x F B   (3) w x B        w = min(2(P-1-r) + (v-1)g, Mv)
//
// Legend: P ranks, v chunks, M micro-batches, g the largest group, F and B = I + W times of 1/P of
// the model (a chunk takes 1/v of them).
// bubble (idle time of a rank): (P-1)(F+B)/v when P divides M; peak activations of rank r:
// min(w + 1, Mv)/v.
#include <algorithm>

#include "kernels/check.hpp"
#include "schedules/generators/generators.hpp"

namespace pipemark {

namespace {

using namespace steps;

int chunks_of(const ScheduleRequest& request) { return request.chunks > 0 ? request.chunks : 2; }
int groups_of(const ScheduleRequest& request) {
  return std::max(1, request.micro_batches / request.ranks);
}
int largest_group(const ScheduleRequest& request) {
  const int groups = groups_of(request);
  return (request.micro_batches + groups - 1) / groups;
}
/// Forwards ahead of the first backward on rank r.
int ahead_of(const ScheduleRequest& request, int r) {
  const int v = chunks_of(request);
  return std::min(2 * (request.ranks - 1 - r) + (v - 1) * largest_group(request),
                  request.micro_batches * v);
}

/// The chunks of the virtual order, one entry a (chunk, micro-batch).
std::vector<int> virtual_order(const ScheduleRequest& request) {
  const int v = chunks_of(request), groups = groups_of(request), M = request.micro_batches;
  std::vector<int> order;
  order.reserve(static_cast<std::size_t>(M) * v);
  for (int group = 0; group < groups; ++group) {
    const int size = M / groups + (group < M % groups ? 1 : 0);
    for (int chunk = 0; chunk < v; ++chunk) order.insert(order.end(), size, chunk);
  }
  return order;
}

Program interleaved(const ScheduleRequest& request) {
  const int P = request.ranks, v = chunks_of(request);
  Program program =
      make_program("interleaved-1f1b", request.micro_batches, Placement::looped(P, v));
  const std::vector<int> order = virtual_order(request);
  for (int r = 0; r < P; ++r) {
    const auto forward = [&](std::size_t k) { return F(order[k] * P + r); };
    const auto backward = [&](std::size_t k) { return B((v - 1 - order[k]) * P + r); };
    const auto ahead = static_cast<std::size_t>(ahead_of(request, r));
    std::vector<Step> row;
    row.reserve(2 * order.size());
    for (std::size_t k = 0; k < ahead; ++k) row.push_back(forward(k));  // (1)
    for (std::size_t k = ahead; k < order.size(); ++k) {                // (2)
      row.push_back(forward(k));
      row.push_back(backward(k - ahead));
    }
    for (std::size_t k = order.size() - ahead; k < order.size(); ++k) row.push_back(backward(k));
    program.rows[static_cast<std::size_t>(r)].repeat(1, std::move(row));
  }
  return program;
}

}  // namespace

CatalogueRow interleaved_row() {
  CatalogueRow row;
  row.name = "interleaved-1f1b";
  row.title = "Interleaved 1F1B";
  row.paper = "Narayanan et al. 2021, Megatron-LM, section 2.2.2";
  row.constraints =
      "any ranks; any micro-batches (multiples of P have the published bubble); "
      "any chunks";
  row.default_chunks = 2;
  row.refuse = refuse_basics;
  row.program = interleaved;
  row.closed_form.bubble = [](const ScheduleRequest& q, double f, double i, double w) {
    return (q.ranks - 1) * (f + i + w) / chunks_of(q);
  };
  row.closed_form.assumes = "that P divides M";
  row.closed_form.peak_activations = [](const ScheduleRequest& q, int rank) {
    const int v = chunks_of(q);
    return static_cast<double>(std::min(ahead_of(q, rank) + 1, q.micro_batches * v)) / v;
  };
  return row;
}

}  // namespace pipemark
