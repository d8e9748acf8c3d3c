// Chrome trace events by nlohmann-json; see the header for what they show.
#include "schedules/trace.hpp"

#include <nlohmann/json.hpp>

#include "kernels/check.hpp"
#include "schedules/palette.hpp"
#include "schedules/text.hpp"

namespace pipemark {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kMicrosecond = 1e-6;

Json name_event(const char* what, int process, int thread, const std::string& name) {
  return {
      {"ph", "M"}, {"name", what}, {"pid", process}, {"tid", thread}, {"args", {{"name", name}}}};
}

Json order_event(const char* what, int process, int thread) {
  const int order = thread > 0 ? thread : process;
  return {{"ph", "M"},
          {"name", what},
          {"pid", process},
          {"tid", thread},
          {"args", {{"sort_index", order}}}};
}

/// Perfetto keeps thread 0 for the idle task, so rank r is thread r + 1.
int thread_of(std::size_t rank) { return static_cast<int>(rank) + 1; }

Json slice(const TimedAction& timed, int process, int thread, double start, double scale) {
  const Action& a = timed.action;
  Json args = {{"stage", a.stage}, {"micro_batch", a.micro_batch}, {"replica", a.replica}};
  if (a.kind == Kind::FB) {
    args["stage_b"] = a.stage_b;
    args["micro_batch_b"] = a.micro_batch_b;
    args["replica_b"] = a.replica_b;
  }
  args["wait_us"] = timed.wait_s * scale;
  return {{"ph", "X"},
          {"name", to_text(a)},
          {"cat", style_of(a.kind).text},
          {"pid", process},
          {"tid", thread},
          {"ts", (timed.start_s - start) * scale},
          {"dur", (timed.end_s - timed.start_s) * scale},
          {"args", std::move(args)}};
}

/// Live activations of a rank: one more at the start of F or FB, one less at the end of B, FB or W.
void add_counter(Json& events, const std::vector<TimedAction>& row, std::size_t rank, int process,
                 double start, double scale) {
  int live = 0;
  const std::string name = fmt::format("live activations of rank {}", rank);
  const auto add = [&](double time) {
    events.push_back({{"ph", "C"},
                      {"name", name},
                      {"pid", process},
                      {"ts", (time - start) * scale},
                      {"args", {{"activations", live}}}});
  };
  for (const TimedAction& timed : row) {
    const Kind kind = timed.action.kind;
    if (kind == Kind::F || kind == Kind::FB) {
      ++live;
      add(timed.start_s);
    }
    if (kind == Kind::B || kind == Kind::W || kind == Kind::FB) {
      --live;
      add(timed.end_s);
    }
  }
}

}  // namespace

std::string to_trace(const Drawing& drawing, double unit_s) {
  const double scale = unit_s / kMicrosecond;
  Json events = Json::array();
  for (std::size_t t = 0; t < drawing.timelines.size(); ++t) {
    const DrawnTimeline& drawn = drawing.timelines[t];
    const int process = static_cast<int>(t) + 1;
    const double start = drawn.timeline.first_start_s();
    events.push_back(
        name_event("process_name", process, 0,
                   fmt::format("{} [{}], {}", drawn.name, drawn.evidence, drawing.schedule.name)));
    events.push_back(order_event("process_sort_index", process, 0));
    for (std::size_t r = 0; r < drawn.timeline.ranks.size(); ++r) {
      const int thread = thread_of(r);
      events.push_back(name_event("thread_name", process, thread, fmt::format("rank {}", r)));
      events.push_back(order_event("thread_sort_index", process, thread));
      for (const TimedAction& timed : drawn.timeline.ranks[r]) {
        events.push_back(slice(timed, process, thread, start, scale));
      }
      add_counter(events, drawn.timeline.ranks[r], r, process, start, scale);
    }
  }
  const Json trace = {{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}};
  return trace.dump() + "\n";
}

}  // namespace pipemark
