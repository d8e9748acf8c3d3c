// ZB-V (V-ZB) (Qi et al. 2024, Pipeline Parallelism with Controllable Memory, section 4; Qi et al.
// 2023)
//
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
  row.closed_form.peak_activations = nullptr;
  return row;
}

}  // namespace pipemark
