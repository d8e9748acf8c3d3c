#include "suite/recorded_drawing.hpp"

namespace pipemark {

bool is_record_file(const std::string& name) { return name.ends_with(".h5"); }

Drawing drawing_of(const RunRecord& run) {
  if (run.timeline.empty()) {
    throw UserError(
        fmt::format("run {} has no timeline: {}", run.row.run,
                    run.row.complete ? "it has no step after warm-up" : run.row.failure),
        "draw a run that went on to its end");
  }
  Drawing drawing;
  drawing.time_unit = "ms";
  const auto add = [&](const char* name, const std::string& evidence,
                       const std::vector<TimelineRow>& rows) {
    DrawnTimeline drawn{name, evidence, timeline_of(rows), {}};
    for (auto& row : drawn.timeline.ranks) {
      for (TimedAction& timed : row) {
        timed.start_s *= 1e3, timed.end_s *= 1e3, timed.wait_s *= 1e3;
      }
    }
    drawing.timelines.push_back(std::move(drawn));
  };
  add(run.row.evidence == "paced" ? "run" : "measured", run.row.evidence, run.timeline);
  for (const IdleRow& idle : run.idle) {
    drawing.timelines[0].idle.ranks.push_back(
        {idle.fill_drain, idle.imbalance, idle.exposed_communication, idle.overhead});
  }
  if (!run.predicted_timeline.empty()) add("predicted", "simulated", run.predicted_timeline);
  drawing.schedule = schedule_of(drawing.timelines[0].timeline, run.row.schedule);
  return drawing;
}

Drawing read_drawing(const std::string& path, int run) {
  const Record record = read_record(path);
  const int runs = static_cast<int>(record.runs.size());
  if (run < 0 && runs != 1) {
    std::string list;
    for (const RunRecord& r : record.runs) {
      list += fmt::format("{}{} {}", list.empty() ? "" : ", ", r.row.run, r.row.schedule);
    }
    throw UserError(fmt::format("{} holds {} runs", path, runs),
                    fmt::format("choose one by --run N: {}", list));
  }
  if (run >= runs) {
    throw UserError(fmt::format("--run {}: {} holds {} runs", run, path, runs),
                    "runs are numbered from 0");
  }
  return drawing_of(record.runs[static_cast<std::size_t>(std::max(run, 0))]);
}

}  // namespace pipemark
