// What the renderers write of a schedule: every action, once, where it belongs; axes and legends.
#include "schedules/drawing.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <regex>

#include "kernels/check.hpp"
#include "schedules/catalogue.hpp"
#include "schedules/grid.hpp"
#include "schedules/simulate.hpp"
#include "schedules/svg.hpp"
#include "schedules/text.hpp"
#include "schedules/trace.hpp"
#include "tests/schedules/requests.hpp"

namespace pipemark {
namespace {

using ::testing::HasSubstr;
using testing::is_cheap;
using ::testing::Not;
using testing::uneven_cost;

Drawing draw(const std::string& name, int ranks = 4, int micro_batches = 8) {
  ScheduleRequest request;
  request.ranks = ranks;
  request.micro_batches = micro_batches;
  Drawing drawing;
  drawing.schedule = make_schedule(name, request);
  const CostModel cost = uneven_cost(ranks, drawing.schedule.placement.stages);
  Timeline timeline = simulate(drawing.schedule, cost, true).timeline;
  IdleAnalysis idle = analyze_ranks(drawing.schedule, timeline, cost);
  drawing.timelines.push_back({"measured", "paced", timeline, idle});
  drawing.timelines.push_back({"predicted", "simulated", timeline, {}});
  return drawing;
}

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t found = 0;
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
  return found;
}

/// Each tag is closed in order; text holds no bare '<' or '&'. Enough of XML for what svg.cpp
/// writes.
void expect_well_formed(const std::string& svg) {
  std::vector<std::string> open;
  const std::regex tag("<(/?)([a-zA-Z?]+)([^<>]*?)(/?)>");
  for (std::sregex_iterator at(svg.begin(), svg.end(), tag), end; at != end; ++at) {
    if ((*at)[2].str().front() == '?') continue;
    if (!(*at)[1].str().empty()) {
      ASSERT_FALSE(open.empty());
      ASSERT_EQ(open.back(), (*at)[2].str());
      open.pop_back();
    } else if ((*at)[4].str().empty()) {
      open.push_back((*at)[2].str());
    }
  }
  EXPECT_TRUE(open.empty());
  EXPECT_EQ(count(svg, "<"), count(svg, ">"));
}

TEST(Svg, ShowsEveryActionAxesCausesAndLegend) {
  for (const CatalogueRow& row : catalogue()) {
    if (!is_cheap(row)) continue;
    SCOPED_TRACE(row.name);
    const Drawing drawing = draw(row.name);
    const std::string svg = render_svg(drawing);
    expect_well_formed(svg);
    std::size_t halves = 0;
    for (const auto& rank : drawing.schedule.ranks) {
      for (const Action& action : rank) halves += action.kind == Kind::FB ? 2 : 1;
    }
    std::size_t causes = 0;  // one bar a cause that a rank has
    for (const IdleCauses& idle : drawing.timelines[0].idle.ranks) {
      for (const double share :
           {idle.fill_drain, idle.imbalance, idle.exposed_communication, idle.overhead}) {
        causes += share > 0;
      }
    }
    EXPECT_EQ(count(svg, "<title>"), 2 * halves + causes);
    for (const char* part : {"rank 3<", "measured [paced]", "predicted [simulated]", ">time<",
                             "idle time by cause", "% of the makespan", "F forward", "fill/drain",
                             "imbalance", "exposed communication", "overhead"}) {
      EXPECT_THAT(svg, HasSubstr(part));
    }
    EXPECT_EQ(svg.find("W weight gradient") != std::string::npos, row.splits_backward);
  }
}

TEST(Svg, KeepsToTheWidth) {
  for (const double width : {400.0, 900.0, 3000.0}) {
    SvgOptions options;
    options.width = width;
    EXPECT_THAT(render_svg(draw("zb-h2", 8, 24), options),
                HasSubstr(fmt::format("width=\"{:g}\"", width)));
  }
}

TEST(Trace, HoldsEveryActionOfEveryTimeline) {
  for (const char* name : {"1f1b", "zb-v", "dualpipe"}) {
    const Drawing drawing = draw(name);
    const auto trace = nlohmann::json::parse(to_trace(drawing, 1e-3));
    std::map<std::pair<int, int>, double> busy, last_end;
    std::map<int, std::string> processes;
    std::map<std::string, int> live;
    for (const auto& event : trace["traceEvents"]) {
      const std::string phase = event["ph"];
      if (event["name"] == "process_name") processes[event["pid"]] = event["args"]["name"];
      if (phase == "C") live[event["name"]] = event["args"]["activations"];
      if (phase != "X") continue;
      const std::pair<int, int> row{event["pid"], event["tid"]};
      const double start = event["ts"], time = event["dur"];
      EXPECT_GE(start, last_end[row] - 1e-6) << event;  // rounding of sums, in microseconds
      last_end[row] = start + time;
      busy[row] += time;
    }
    EXPECT_THAT(processes[1], HasSubstr("measured [paced]"));
    EXPECT_THAT(processes[2], HasSubstr("predicted [simulated]"));
    ASSERT_EQ(busy.size(), 8u);  // two timelines of four ranks
    for (const auto& [row, sum] : busy) {
      EXPECT_NEAR(sum, 1e3 * drawing.timelines[0].timeline.busy_s(row.second - 1), 1e-6);
    }
    ASSERT_EQ(live.size(), 4u);
    for (const auto& [rank, activations] : live) EXPECT_EQ(activations, 0) << rank;
  }
}

TEST(Grid, IsColouredOnlyWhenAskedTo) {
  const Drawing drawing = draw("zb-h1");
  GridOptions options;
  EXPECT_THAT(render_grid(drawing.schedule, drawing.timelines[0].timeline, options),
              Not(HasSubstr("\x1b[")));
  options.colour = true;
  EXPECT_THAT(render_grid(drawing.schedule, drawing.timelines[0].timeline, options),
              HasSubstr("\x1b[30;48;5;117m"));
}

TEST(Drawing, ATimelineTellsItsPlacement) {
  for (const char* name : {"interleaved-1f1b", "zb-v", "dualpipe", "chimera"}) {
    const Drawing drawing = draw(name);
    const Schedule back = schedule_of(drawing.timelines[0].timeline, name);
    EXPECT_EQ(back.placement.rank, drawing.schedule.placement.rank) << name;
    EXPECT_EQ(back.ranks, drawing.schedule.ranks) << name;
    EXPECT_EQ(back.micro_batches, drawing.schedule.micro_batches) << name;
  }
}

}  // namespace
}  // namespace pipemark
