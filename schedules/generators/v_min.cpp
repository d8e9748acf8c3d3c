// V-Min (Qi et al. 2024, Pipeline Parallelism with Controllable Memory, section 4): the V-shaped
// building block of least memory; every step between neighbours takes one slot.
//
// Legend: P ranks, M micro-batches, two chunks a rank on a V (S = 2P), one slot = F = I = W of a
// chunk. Slots of micro-batch 0 on rank r: F of chunk 0 at r, F of chunk 1 at 2P-1-r, I of chunk 1
// at 2P+g+r, I of chunk 0 at 4P+g-1-r; g = 2 where 3 divides P, else 0, keeps them apart modulo 6.
// bubble: about 2P slots of 1/P of the model (the paper gives no closed form; see the tests).
// Peak activations: min((P+4) div 3, M), a third of 1F1B's.
#include <algorithm>

#include "kernels/check.hpp"
#include "schedules/generators/building_block.hpp"
#include "schedules/generators/generators.hpp"

namespace pipemark {

namespace {

Program v_min(const ScheduleRequest& request) {
  const int P = request.ranks;
  const int gap = P % 3 == 0 ? 2 : 0;  // keeps the four slots apart modulo 6
  const BuildingBlock block{[=](int r) {
    return BuildingBlock::Slots{r, 2 * P - 1 - r, 2 * P + gap + r, 4 * P + gap - 1 - r};
  }};
  return repeat_block("v-min", P, request.micro_batches, block);
}

std::string refuse(const ScheduleRequest& request) {
  if (std::string why = refuse_basics(request); !why.empty()) return why;
  return refuse_chunks(request, "v-min", 2);
}

}  // namespace

CatalogueRow v_min_row() {
  CatalogueRow row;
  row.name = "v-min";
  row.title = "V-Min";
  row.paper = "Qi et al. 2024, Pipeline Parallelism with Controllable Memory, section 4";
  row.constraints = "any ranks; any micro-batches; chunks 2";
  row.default_chunks = 2;
  row.splits_backward = true;
  row.refuse = refuse;
  row.program = v_min;
  row.closed_form.peak_activations = [](const ScheduleRequest& q, int) {
    return static_cast<double>(std::min((q.ranks + 4) / 3, q.micro_batches));
  };
  return row;
}

}  // namespace pipemark
