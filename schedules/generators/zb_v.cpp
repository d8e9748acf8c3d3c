// ZB-V (Qi et al. 2024, Pipeline Parallelism with Controllable Memory, section 4, V-ZB; Qi et al.
// 2023, appendix): the V-shaped building block without a bubble; a step down takes four slots, a
// step up two.
//
// Legend: P ranks, M micro-batches, two chunks a rank on a V (S = 2P), one slot = F = I = W of a
// chunk. Slots of micro-batch 0 on rank r: F of chunk 0 at 4r, F of chunk 1 at 6P-3-2r, I of chunk
// 1 at 6P-2+4r, I of chunk 0 at 12P-5-2r: 0, 3, 4, 1 modulo 6 at r = 0, and all move by 4r. bubble:
// none in any rank's own span where F = I = W and M >= 2P (the spans are staggered by P-1 slots, so
// one step alone has that much). Peak activations: min(P, M), as 1F1B's.
#include <algorithm>

#include "kernels/check.hpp"
#include "schedules/generators/building_block.hpp"
#include "schedules/generators/generators.hpp"

namespace pipemark {

namespace {

Program zb_v(const ScheduleRequest& request) {
  const int P = request.ranks;
  const BuildingBlock block{[=](int r) {
    return BuildingBlock::Slots{4 * r, 6 * P - 3 - 2 * r, 6 * P - 2 + 4 * r, 12 * P - 5 - 2 * r};
  }};
  return repeat_block("zb-v", P, request.micro_batches, block);
}

std::string refuse(const ScheduleRequest& request) {
  if (std::string why = refuse_basics(request); !why.empty()) return why;
  return refuse_chunks(request, "zb-v", 2);
}

}  // namespace

CatalogueRow zb_v_row() {
  CatalogueRow row;
  row.name = "zb-v";
  row.title = "ZB-V";
  row.paper = "Qi et al. 2024, Pipeline Parallelism with Controllable Memory, section 4";
  row.constraints = "any ranks; any micro-batches; chunks 2";
  row.default_chunks = 2;
  row.splits_backward = true;
  row.refuse = refuse;
  row.program = zb_v;
  row.closed_form.bubble = [](const ScheduleRequest&, double, double, double) { return 0.0; };
  row.closed_form.of_span = true;
  row.closed_form.assumes = "F = I = W and M >= 2P";
  row.closed_form.peak_activations = [](const ScheduleRequest& q, int) {
    return static_cast<double>(std::min(q.ranks, q.micro_batches));
  };
  return row;
}

}  // namespace pipemark
