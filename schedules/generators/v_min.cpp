// V-Min (Qi et al. 2024, Pipeline Parallelism with Controllable Memory, section 4): the V-shaped
// building block of the least memory, every step between neighbours one slot.
//
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
  row.closed_form.peak_activations = nullptr;
  return row;
}

}  // namespace pipemark
