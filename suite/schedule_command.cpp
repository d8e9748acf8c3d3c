// `pipemark schedule`: draws, writes and checks a schedule, its closed forms beside the simulation;
// draws a recorded run; and lays all schedules beside their papers (--table).
#include <sys/ioctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <fstream>
#include <memory>

#include "kernels/check.hpp"
#include "schedules/grid.hpp"
#include "schedules/simulate.hpp"
#include "schedules/svg.hpp"
#include "schedules/text.hpp"
#include "schedules/trace.hpp"
#include "suite/commands.hpp"
#include "suite/recorded_drawing.hpp"
#include "suite/schedule_options.hpp"
#include "suite/schedule_table.hpp"

namespace pipemark {
namespace {

constexpr int kPlainWidth = 200;  // where standard output is no terminal
constexpr double kMillisecond = 1e-3;

struct DrawOptions {
  ScheduleOptions schedule;
  std::string show = "grid";
  std::string output;
  bool check = false, table = false;
  int width = -1;  ///< -1: the terminal's, or as wide as it gets
  int run = -1;    ///< of a record
};

int terminal_width() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return kPlainWidth;
}

std::string grid_of(const DrawOptions& options, const Drawing& drawing) {
  GridOptions grid;
  const bool to_file = !options.output.empty();
  grid.width = options.width >= 0 ? options.width : to_file ? 0 : terminal_width();
  grid.colour = !to_file && isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr;
  std::string out;
  for (const DrawnTimeline& drawn : drawing.timelines) {
    if (drawing.timelines.size() > 1) {
      out += fmt::format("{} [{}], bubble_ratio {:.4f}\n", drawn.name, drawn.evidence,
                         drawn.timeline.bubble_ratio());
    }
    out += render_grid(drawing.schedule, drawn.timeline, grid);
  }
  return out;
}

std::string draw(const DrawOptions& options, const Drawing& drawing) {
  if (options.show == "svg") {
    SvgOptions svg;
    svg.width = std::max(0, options.width);
    return render_svg(drawing, svg);
  }
  // A time unit of no name is shown as a millisecond.
  if (options.show == "trace") {
    return to_trace(drawing, drawing.time_unit == "s" ? 1 : kMillisecond);
  }
  return grid_of(options, drawing);
}

void put(const DrawOptions& options, const std::string& text) {
  if (options.output.empty()) {
    fmt::print("{}", text);
    return;
  }
  std::ofstream stream(options.output);
  stream << text;
  stream.close();
  if (!stream) {
    throw UserError(fmt::format("-o {}: the file cannot be written", options.output),
                    "give a path in a folder that exists and is writable");
  }
  fmt::print("wrote {}\n", options.output);
}

Drawing simulated_drawing(const ScheduleOptions& options, const PlannedSchedule& planned) {
  Simulation made = simulate(planned.schedule, planned.cost, true);
  IdleAnalysis idle = analyze_ranks(planned.schedule, made.timeline, planned.cost);
  Drawing drawing;
  drawing.schedule = planned.schedule;
  if (!options.pace.empty()) drawing.time_unit = "s";
  drawing.timelines.push_back(
      {"predicted", "simulated", std::move(made.timeline), std::move(idle)});
  return drawing;
}

std::string peaks_of(const std::vector<double>& peaks) {
  std::string out;
  for (const double peak : peaks) out += fmt::format("{}{:.6g}", out.empty() ? "" : " ", peak);
  return out;
}

/// Title, paper, and closed forms beside what is simulated; each line says which it is.
std::string summary_of(const ScheduleOptions& options, const PlannedSchedule& planned) {
  const Schedule& schedule = planned.schedule;
  const Simulation made = simulate(schedule, planned.cost);
  std::string out;
  const CatalogueRow* row = is_schedule_file(options.name) ? nullptr : &find_schedule(options.name);
  out += row == nullptr
             ? fmt::format("file              {}\n", options.name)
             : fmt::format("schedule          {}\npaper             {}\n", row->title, row->paper);
  out += fmt::format("size              {} ranks, {} micro-batches, {} stages\n",
                     schedule.rank_count(), schedule.micro_batches, schedule.placement.stages);
  std::string bubble = "no closed form", peaks = "no closed form";
  if (row != nullptr && row->closed_form.bubble && options.uniform()) {
    const StageCost whole = options.whole();
    const double idle = row->closed_form.bubble(request_of(options), whole.forward,
                                                whole.input_grad, whole.weight_grad);
    const double work = schedule.micro_batches * (whole.forward + whole.backward());
    bubble = fmt::format("closed form {:.4f}, without messages", idle / (idle + work));
  }
  if (row != nullptr && row->closed_form.peak_activations) {
    std::vector<double> closed;
    for (int rank = 0; rank < schedule.rank_count(); ++rank) {
      closed.push_back(row->closed_form.peak_activations(request_of(options), rank));
    }
    peaks = "closed form " + peaks_of(closed);
  }
  out += fmt::format("bubble_ratio      {:.4f} simulated; {}\n", made.bubble_ratio, bubble);
  out += fmt::format("span_bubble_rate  {:.4f} simulated\n", made.span_bubble_rate);
  out +=
      fmt::format("peak_activations  {} simulated; {}\n", peaks_of(made.peak_activations), peaks);
  if (planned.synthesis) out += synthesis_text(*planned.synthesis);
  return out;
}

int check_schedule(const DrawOptions& options, const PlannedSchedule& planned) {
  if (planned.faults.empty()) {
    fmt::print("{}: sound, {} ranks, {} micro-batches\n", options.schedule.name,
               planned.schedule.rank_count(), planned.schedule.micro_batches);
    return kGood;
  }
  fmt::print("{}{}: {} fault{}\n", describe_faults(planned), options.schedule.name,
             planned.faults.size(), planned.faults.size() == 1 ? "" : "s");
  return kWrongResult;
}

int run_record(const DrawOptions& options) {
  const Drawing drawing = read_drawing(options.schedule.name, options.run);
  if (options.show == "csv") {
    put(options, to_torch_csv(drawing.schedule));
  } else if (options.show == "text") {
    put(options, to_text(drawing.schedule));
  } else {
    put(options, draw(options, drawing));
  }
  return kGood;
}

int run(const DrawOptions& options) {
  if (options.table) {
    put(options, schedule_table(options.schedule));
    return kGood;
  }
  if (options.schedule.name.empty()) {
    throw UserError("pipemark schedule: NAME is missing",
                    "give a schedule's name, the path of a CSV file or of a record, or --table");
  }
  if (is_record_file(options.schedule.name)) return run_record(options);
  const PlannedSchedule planned = plan_schedule(options.schedule, true);
  if (options.check) return check_schedule(options, planned);
  if (options.show == "csv" || options.show == "text") {
    put(options,
        options.show == "csv" ? to_torch_csv(planned.schedule) : to_text(planned.schedule));
    return kGood;
  }
  try {
    refuse_faulty(planned);
  } catch (const FaultySchedule& faulty) {
    print_error(faulty.what(), faulty.hint());
    return kWrongResult;
  }
  put(options, draw(options, simulated_drawing(options.schedule, planned)));
  if (options.show == "grid") fmt::print("{}", summary_of(options.schedule, planned));
  return kGood;
}

}  // namespace

void add_schedule_command(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<DrawOptions>();
  CLI::App* command = app.add_subcommand("schedule", "Draws and checks a schedule");
  command->add_option("name", options->schedule.name,
                      "name, path of a CSV file, or path of a record (RUN.h5)");
  add_schedule_options(*command, options->schedule);
  command->add_option("--show", options->show, "grid, svg, trace, csv or text")
      ->check(CLI::IsMember({"grid", "svg", "trace", "csv", "text"}));
  command->add_option("-o,--output", options->output, "file to write the drawing to");
  command->add_option("--width", options->width, "columns of the grid (0: all), pixels of the SVG");
  command->add_option("--run", options->run, "which run of a record");
  command->add_flag("--check", options->check, "print each fault; exit code 1 if there is one");
  command->add_flag("--table", options->table,
                    "all schedules beside their papers: each cell exact, bound or differs");
  command->callback([=, &invocation] { invocation.run = [=] { return run(*options); }; });
}

}  // namespace pipemark
