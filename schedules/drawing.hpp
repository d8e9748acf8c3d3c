// What the renderers draw: timelines of one schedule, one below the other on the same time axis
// (a measured one and the predicted one beside it), each with its evidence level.
#pragma once

#include <string>
#include <vector>

#include "schedules/analysis.hpp"
#include "schedules/schedule.hpp"
#include "schedules/timeline.hpp"

namespace pipemark {

struct DrawnTimeline {
  std::string name;      ///< "measured", "predicted"
  std::string evidence;  ///< "measured", "paced", "simulated"
  Timeline timeline;
  IdleAnalysis idle;  ///< no ranks: not known
};

struct Drawing {
  Schedule schedule;  ///< placement and name; its rows are not drawn
  std::vector<DrawnTimeline> timelines;
  std::string time_unit;  ///< of the timelines, for the axis: "s", "ms"; empty: as given
};

/// The schedule that a timeline ran, as far as the timeline shows it.
Schedule schedule_of(const Timeline& timeline, std::string name);

}  // namespace pipemark
