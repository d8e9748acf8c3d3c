// The catalogue row of zb-auto, which is made for the request's own times by schedules/synthesis/.
// It has no closed form: its bubble is reported against a lower bound.
#include "kernels/check.hpp"
#include "schedules/generators/generators.hpp"
#include "schedules/synthesis/synthesis.hpp"

namespace pipemark {

CatalogueRow zb_auto_row() {
  CatalogueRow row;
  row.name = "zb-auto";
  row.title = "Zero bubble, synthesised (ZB-1p, ZB-2p and beyond)";
  row.paper = "Qi et al. 2023, Zero Bubble Pipeline Parallelism, section 3";
  row.constraints = "any ranks; any micro-batches; chunks 1, or 2 on a V";
  row.splits_backward = true;
  row.refuse = [](const ScheduleRequest& request) {
    if (std::string why = refuse_basics(request); !why.empty()) return why;
    if (request.chunks <= 2) return std::string();
    return fmt::format("chunks = {}: zb-auto has 1 chunk a rank, or 2 on a V", request.chunks);
  };
  row.generate = [](const ScheduleRequest& request) { return synthesize(request).schedule; };
  return row;
}

}  // namespace pipemark
