// V-Half (Qi et al. 2024, Pipeline Parallelism with Controllable Memory, section 4): the V-shaped
// building block of half of 1F1B's memory; the way down takes two slots a step, the way up one.
//
// Legend: P ranks, M micro-batches, two chunks a rank on a V (S = 2P), one slot = F = I = W of a
// chunk. Slots of micro-batch 0 on rank r: F of chunk 0 at 2r, F of chunk 1 at 3P-2-r, I of chunk 1
// at 3P-1+g+2r, I of chunk 0 at 6P-2+g-r; g = 3 where P is even, else 0, keeps them apart modulo 6.
// bubble: about 1.5P slots (the paper gives no closed form; see the tests).
// Peak activations: min((P+2) div 2, M).
#include <algorithm>

#include "kernels/check.hpp"
#include "schedules/generators/building_block.hpp"
#include "schedules/generators/generators.hpp"

namespace pipemark {

namespace {

Program v_half(const ScheduleRequest& request) {
  const int P = request.ranks;
  const int gap = P % 2 == 0 ? 3 : 0;  // keeps the four slots apart modulo 6
  const BuildingBlock block{[=](int r) {
    return BuildingBlock::Slots{2 * r, 3 * P - 2 - r, 3 * P - 1 + gap + 2 * r, 6 * P - 2 + gap - r};
  }};
  return repeat_block("v-half", P, request.micro_batches, block);
}

std::string refuse(const ScheduleRequest& request) {
  if (std::string why = refuse_basics(request); !why.empty()) return why;
  return refuse_chunks(request, "v-half", 2);
}

}  // namespace

CatalogueRow v_half_row() {
  CatalogueRow row;
  row.name = "v-half";
  row.title = "V-Half";
  row.paper = "Qi et al. 2024, Pipeline Parallelism with Controllable Memory, section 4";
  row.constraints = "any ranks; any micro-batches; chunks 2";
  row.default_chunks = 2;
  row.splits_backward = true;
  row.refuse = refuse;
  row.program = v_half;
  row.closed_form.peak_activations = [](const ScheduleRequest& q, int) {
    return static_cast<double>(std::min((q.ranks + 2) / 2, q.micro_batches));
  };
  return row;
}

}  // namespace pipemark
