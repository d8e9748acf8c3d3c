// `pipemark simulate`: predicts one schedule and prints its figures as text or JSON. The evidence
// level of all of them is `simulated`.
#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "kernels/check.hpp"
#include "schedules/analysis.hpp"
#include "schedules/program.hpp"
#include "schedules/simulate.hpp"
#include "suite/commands.hpp"
#include "suite/schedule_options.hpp"

namespace pipemark {
namespace {

/// From here on a schedule is simulated as loops: expanded, an action takes some 100 bytes.
constexpr std::int64_t kMostExpanded = 20'000'000;
/// A CostModel has an entry for each (rank, stage).
constexpr std::int64_t kMostCosts = 4'000'000;

struct Prediction {
  int ranks = 0, micro_batches = 0, stages = 0;
  Simulation simulation;
  IdleCauses idle;
  std::vector<double> peak_memory;     ///< by rank, as --memory-limit counts
  std::optional<Synthesis> synthesis;  ///< its figures
};

/// The schedule as loops, where it has that form and is too large for the other.
std::optional<Program> large_program(const ScheduleOptions& options) {
  if (is_schedule_file(options.name) || !options.uniform()) return std::nullopt;
  const CatalogueRow& row = find_schedule(options.name);
  const ScheduleRequest request = request_of(options);
  if (!row.program || !row.refuse(request).empty() || request.memory_limit > 0 ||
      !request.memory_limits.empty()) {
    return std::nullopt;
  }
  const std::int64_t ranks = request.ranks;
  // Every micro-batch is at least an F and a B on each rank.
  if (2 * ranks * request.micro_batches <= kMostExpanded && ranks * ranks <= kMostCosts) {
    return std::nullopt;
  }
  return row.program(request);
}

Prediction predict(const ScheduleOptions& options) {
  Prediction made;
  if (const std::optional<Program> program = large_program(options)) {
    ProgramAnalysis analysis =
        simulate_and_analyze(*program, options.whole(), options.message, options.overlap());
    made.ranks = program->placement.ranks;
    made.micro_batches = program->micro_batches;
    made.stages = program->placement.stages;
    made.simulation = std::move(analysis.simulation);
    made.idle = analysis.idle.total;
    return made;
  }
  PlannedSchedule planned = plan_schedule(options, false);
  refuse_faulty(planned);
  const Schedule& schedule = planned.schedule;
  made.ranks = schedule.rank_count();
  made.micro_batches = schedule.micro_batches;
  made.stages = schedule.placement.stages;
  made.simulation = simulate(schedule, planned.cost, true);
  made.idle = analyze(schedule, made.simulation.timeline, planned.cost);
  made.peak_memory = peak_memory(schedule);
  made.synthesis = std::move(planned.synthesis);
  return made;
}

std::string list_of(const std::vector<double>& values) {
  std::string out;
  for (const double value : values) out += fmt::format("{}{:.6g}", out.empty() ? "" : " ", value);
  return out;
}

std::string json_of(const ScheduleOptions& options, const Prediction& made) {
  nlohmann::ordered_json out;
  out["schedule"] = options.name;
  out["evidence"] = "simulated";
  out["ranks"] = made.ranks;
  out["micro_batches"] = made.micro_batches;
  out["stages"] = made.stages;
  out["makespan"] = made.simulation.makespan;
  out["bubble_ratio"] = made.simulation.bubble_ratio;
  out["span_bubble_rate"] = made.simulation.span_bubble_rate;
  out["peak_activations"] = made.simulation.peak_activations;
  if (!made.peak_memory.empty()) out["peak_memory"] = made.peak_memory;
  out["idle"] = {{"fill_drain", made.idle.fill_drain},
                 {"imbalance", made.idle.imbalance},
                 {"exposed_communication", made.idle.exposed_communication},
                 {"overhead", made.idle.overhead}};
  if (made.synthesis) {
    const Synthesis& s = *made.synthesis;
    out["synthesis"] = {{"makespan_lower_bound", s.lower_bound},
                        {"makespan_gap", s.gap()},
                        {"span", s.span},
                        {"span_lower_bound", s.span_lower_bound},
                        {"span_gap", s.span_gap()},
                        {"rendezvous", s.rendezvous},
                        {"evaluations", s.evaluations}};
  }
  return out.dump(2) + "\n";
}

std::string text_of(const ScheduleOptions& options, const Prediction& made) {
  std::string out = fmt::format("schedule          {}, {} ranks, {} micro-batches, {} stages\n",
                                options.name, made.ranks, made.micro_batches, made.stages);
  out += "evidence          simulated\n";
  out += fmt::format("makespan          {:.6g}\n", made.simulation.makespan);
  out += fmt::format("bubble_ratio      {:.4f}\n", made.simulation.bubble_ratio);
  out += fmt::format("span_bubble_rate  {:.4f}\n", made.simulation.span_bubble_rate);
  out += fmt::format(
      "idle              fill/drain {:.4f}, imbalance {:.4f}, exposed communication {:.4f}, "
      "overhead {:.4f}\n",
      made.idle.fill_drain, made.idle.imbalance, made.idle.exposed_communication,
      made.idle.overhead);
  out += fmt::format("peak_activations  {}\n", list_of(made.simulation.peak_activations));
  if (made.synthesis) out += fmt::format("peak_memory       {}\n", list_of(made.peak_memory));
  if (made.synthesis) out += synthesis_text(*made.synthesis);
  return out;
}

int run(const ScheduleOptions& options, const std::string& format) {
  try {
    const Prediction made = predict(options);
    fmt::print("{}", format == "json" ? json_of(options, made) : text_of(options, made));
    return kGood;
  } catch (const FaultySchedule& faulty) {
    print_error(faulty.what(), faulty.hint());
    return kWrongResult;
  }
}

}  // namespace

void add_simulate_command(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<ScheduleOptions>();
  auto format = std::make_shared<std::string>("text");
  CLI::App* command = app.add_subcommand("simulate", "Predicts a schedule's bubbles and memory");
  command->add_option("--schedule", options->name, "name, or path of a CSV file")->required();
  add_schedule_options(*command, *options);
  command->add_option("--format", *format, "text or json")->check(CLI::IsMember({"text", "json"}));
  command->callback([=, &invocation] { invocation.run = [=] { return run(*options, *format); }; });
}

}  // namespace pipemark
