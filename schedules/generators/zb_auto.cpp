// The catalogue row of zb-auto, which is made for the request's own times by schedules/synthesis/.
// It has no closed form: its bubble is reported against a lower bound.
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
  row.refuse = refuse_basics;
  row.generate = [](const ScheduleRequest& request) { return synthesize(request).schedule; };
  return row;
}

}  // namespace pipemark
