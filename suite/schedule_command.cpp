// `pipemark schedule`: draws, writes and checks a schedule, its closed forms beside the simulation.
#include "suite/schedule_command.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <fstream>
#include <memory>

#include "kernels/check.hpp"
#include "schedules/grid.hpp"
#include "schedules/simulate.hpp"
#include "schedules/text.hpp"
#include "schedules/validate.hpp"
#include "suite/commands.hpp"

namespace pipemark {
namespace {

constexpr int kPlainWidth = 200;  // where standard output is no terminal

struct DrawOptions {
  ScheduleOptions schedule;
  std::string show = "grid";
  std::string output;
  bool check = false;
  int width = -1;  ///< -1: the terminal's
};

int terminal_width() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return kPlainWidth;
}

std::string drawing_of(const DrawOptions& options, const Schedule& schedule) {
  if (options.show == "csv") return to_torch_csv(schedule);
  if (options.show == "text") return to_text(schedule);
  const Simulation made = simulate(schedule, cost_of(options.schedule, schedule), true);
  GridOptions grid;
  const bool to_file = !options.output.empty();
  grid.width = options.width >= 0 ? options.width : to_file ? 0 : terminal_width();
  grid.colour = !to_file && isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr;
  return render_grid(schedule, made.timeline, grid);
}

void write_file(const std::string& path, const std::string& text) {
  std::ofstream stream(path);
  stream << text;
  stream.close();
  if (!stream) {
    throw UserError(fmt::format("-o {}: the file cannot be written", path),
                    "give a path in a folder that exists and is writable");
  }
}

std::string peaks_of(const std::vector<double>& peaks) {
  std::string out;
  for (const double peak : peaks) out += fmt::format("{}{:g}", out.empty() ? "" : " ", peak);
  return out;
}

int run(const DrawOptions& options) {
  CsvSchedule file;
  const Schedule schedule = schedule_of(options.schedule, &file);
  ValidateOptions sound;
  sound.memory_limit = options.schedule.memory_limit;
  // A file's sends may rely on buffers; torch's do.
  sound.rendezvous = file.places.empty();
  const std::vector<Fault> faults = validate(schedule, sound);
  if (options.check) {
    if (faults.empty()) {
      fmt::print("{}: sound, {} ranks, {} micro-batches\n", options.schedule.name,
                 schedule.rank_count(), schedule.micro_batches);
      return kGood;
    }
    fmt::print("{}{}: {} fault{}\n", describe_faults(file, schedule, faults), options.schedule.name,
               faults.size(), faults.size() == 1 ? "" : "s");
    return kWrongResult;
  }
  if (!faults.empty() && options.show != "csv" && options.show != "text") {
    print_error(fmt::format("schedule '{}' is faulty and has no times: {}", options.schedule.name,
                            faults.front().what),
                "--check shows each fault");
    return kWrongResult;
  }
  const std::string drawing = drawing_of(options, schedule);
  if (!options.output.empty()) {
    write_file(options.output, drawing);
    fmt::print("wrote {}\n", options.output);
  } else {
    fmt::print("{}", drawing);
  }
  if (options.show == "grid") fmt::print("{}", schedule_summary(options.schedule, schedule));
  return kGood;
}

}  // namespace

std::string schedule_summary(const ScheduleOptions& options, const Schedule& schedule) {
  const Simulation made = simulate(schedule, cost_of(options, schedule));
  std::string out;
  const bool file = is_schedule_file(options.name);
  const CatalogueRow* row = file ? nullptr : &find_schedule(options.name);
  out += row == nullptr
             ? fmt::format("file              {}\n", options.name)
             : fmt::format("schedule          {}\npaper             {}\n", row->title, row->paper);
  out += fmt::format("size              {} ranks, {} micro-batches, {} stages\n",
                     schedule.rank_count(), schedule.micro_batches, schedule.placement.stages);
  std::string closed_bubble = "no closed form", closed_peaks = "no closed form";
  if (row != nullptr && row->closed_form.bubble) {
    const double idle = row->closed_form.bubble(request_of(options), options.forward,
                                                options.input_grad, options.weight_grad);
    const double work =
        schedule.micro_batches * (options.forward + options.input_grad + options.weight_grad);
    closed_bubble = fmt::format("closed form {:.4f}, without messages", idle / (idle + work));
  }
  if (row != nullptr && row->closed_form.peak_activations) {
    std::vector<double> peaks;
    for (int rank = 0; rank < schedule.rank_count(); ++rank) {
      peaks.push_back(row->closed_form.peak_activations(request_of(options), rank));
    }
    closed_peaks = fmt::format("closed form {}", peaks_of(peaks));
  }
  out += fmt::format("bubble_ratio      {:.4f} simulated; {}\n", made.bubble_ratio, closed_bubble);
  out += fmt::format("span_bubble_rate  {:.4f} simulated\n", made.span_bubble_rate);
  out += fmt::format("peak_activations  {} simulated; {}\n", peaks_of(made.peak_activations),
                     closed_peaks);
  return out;
}

void add_schedule_command(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<DrawOptions>();
  CLI::App* command = app.add_subcommand("schedule", "Draws and checks a schedule");
  command->add_option("name", options->schedule.name, "name, or path of a CSV file")->required();
  add_schedule_options(*command, options->schedule);
  command->add_option("--show", options->show, "grid, csv or text")
      ->check(CLI::IsMember({"grid", "csv", "text"}));
  command->add_option("-o,--output", options->output, "file to write the drawing to");
  command->add_option("--width", options->width, "columns of the grid (0: all)");
  command->add_flag("--check", options->check, "print each fault; exit code 1 if there is one");
  command->callback([=, &invocation] { invocation.run = [=] { return run(*options); }; });
}

}  // namespace pipemark
