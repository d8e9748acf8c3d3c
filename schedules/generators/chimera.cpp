// Chimera (Li & Hoefler 2021, sections 3.1 and 3.5): two pipelines in opposite directions, each
// with half of the micro-batches, merged so that one fills the other's bubbles.
//
// Written as slots (a forward or a backward each), rank r, P even; replica 1 sees rank P-1-r as r:
//   basic unit, P micro-batches:  m-th of a replica  F at r + 2m,  B at 2P-1-r + 2m;  2P slots on
//   forward doubling, 2P micro-batches, where M > P:  F's in pairs j (one slot, two forwards) at
//   r + 2j, B's m at 2P-1-r + 2m;  3P slots on
// In both no slot is taken twice, and the next unit follows 2P or 3P slots later without a clash:
// units are simply concatenated. A remainder below P micro-batches is a basic unit cut short.
//
// Legend: P ranks, M micro-batches, F and B = I + W times of 1/P of the model.
// bubble (idle time of a rank): M = P: (P-2)B, B >= F, the paper's (D-2)/(3N/2+D-2) at B = 2F, and
// (P/2-1)(F+B) at B = F; with doubling, M a multiple of 2P and B = 2F: (P-2)B.
// Peak activations: rank r of M <= P: at most P/2+1 .. P; with doubling up to 2P. Parameters 2x.
#include <algorithm>

#include "kernels/check.hpp"
#include "schedules/generators/generators.hpp"

namespace pipemark {

namespace {

using namespace steps;

struct Slot {
  std::int64_t at;
  Step step;
};

/// Adds one unit of `count` micro-batches of one replica, seen from depth `depth`.
void add_unit(std::vector<Slot>& slots, std::int64_t offset, int P, int depth, int count,
              bool doubled, int replica) {
  for (int m = 0; m < count; ++m) {
    const int forward = doubled ? m / 2 : m;
    slots.push_back({offset + depth + 2 * forward, F(depth, replica)});
    slots.push_back({offset + 2 * P - 1 - depth + 2 * m, B(depth, replica)});
  }
}

Program chimera(const ScheduleRequest& request) {
  const int P = request.ranks, M = request.micro_batches;
  Program program = make_program("chimera", M, Placement::bidirectional(P));
  for (int r = 0; r < P; ++r) {
    std::vector<Slot> slots;
    std::int64_t offset = 0;
    for (int done = 0; done < M;) {
      const bool doubled = M - done >= 2 * P;
      const int unit = std::min(M - done, doubled ? 2 * P : P);
      add_unit(slots, offset, P, r, unit / 2, doubled, 0);
      add_unit(slots, offset, P, P - 1 - r, unit / 2, doubled, 1);
      offset += doubled ? 3 * P : 2 * P;
      done += unit;
    }
    std::stable_sort(slots.begin(), slots.end(),
                     [](const Slot& a, const Slot& b) { return a.at < b.at; });
    std::vector<Step> row;
    row.reserve(slots.size());
    for (const Slot& slot : slots) row.push_back(slot.step);
    program.rows[static_cast<std::size_t>(r)].repeat(1, std::move(row));
  }
  return program;
}

std::string refuse(const ScheduleRequest& request) {
  if (std::string why = refuse_basics(request); !why.empty()) return why;
  if (request.ranks % 2 != 0) {
    return fmt::format("ranks = {}: chimera needs an even number of ranks", request.ranks);
  }
  if (request.micro_batches % 2 != 0) {
    return fmt::format("micro_batches = {}: chimera needs an even number of micro-batches",
                       request.micro_batches);
  }
  return {};
}

}  // namespace

CatalogueRow chimera_row() {
  CatalogueRow row;
  row.name = "chimera";
  row.title = "Chimera";
  row.paper = "Li & Hoefler 2021, Chimera, sections 3.1 and 3.5";
  row.constraints = "ranks even; micro-batches even";
  row.refuse = refuse;
  row.program = chimera;
  row.closed_form.bubble = [](const ScheduleRequest& q, double, double i, double w) {
    return (q.ranks - 2) * (i + w);
  };
  row.closed_form.assumes = "M = P, or M a multiple of 2P and B = 2F";
  row.closed_form.parameters = 2;
  return row;
}

}  // namespace pipemark
