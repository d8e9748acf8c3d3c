// `pipemark simulate`: predicts one schedule and prints its figures as text or JSON. The evidence
// level of all of them is `simulated`.
#include "suite/simulate_command.hpp"

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "kernels/check.hpp"
#include "schedules/analysis.hpp"
#include "schedules/simulate.hpp"
#include "schedules/validate.hpp"
#include "suite/commands.hpp"

namespace pipemark {
namespace {

struct Prediction {
  Schedule schedule;
  Simulation simulation;
  IdleCauses idle;
};

/// A faulty schedule has no prediction; its faults are told and the command ends with exit code 1.
struct FaultySchedule {
  std::string faults;
};

Prediction predict(const ScheduleOptions& options) {
  Prediction prediction;
  CsvSchedule file;
  prediction.schedule = schedule_of(options, &file);
  ValidateOptions sound;
  sound.rendezvous = false;
  sound.memory_limit = options.memory_limit;
  const auto faults = validate(prediction.schedule, sound);
  if (!faults.empty()) throw FaultySchedule{describe_faults(file, prediction.schedule, faults)};
  const CostModel cost = cost_of(options, prediction.schedule);
  prediction.simulation = simulate(prediction.schedule, cost, true);
  prediction.idle = analyze(prediction.schedule, prediction.simulation.timeline, cost);
  return prediction;
}

std::string list_of(const std::vector<double>& values) {
  std::string out;
  for (const double value : values) out += fmt::format("{}{:g}", out.empty() ? "" : " ", value);
  return out;
}

int run(const ScheduleOptions& options, const std::string& format) {
  try {
    fmt::print("{}", format == "json" ? simulate_json(options) : simulate_text(options));
    return kGood;
  } catch (const FaultySchedule& faulty) {
    print_error(fmt::format("schedule '{}' is faulty\n{}", options.name, faulty.faults),
                "pipemark schedule NAME --check shows each fault");
    return kWrongResult;
  }
}

}  // namespace

std::string simulate_json(const ScheduleOptions& options) {
  const Prediction made = predict(options);
  nlohmann::ordered_json out;
  out["schedule"] = options.name;
  out["evidence"] = "simulated";
  out["ranks"] = made.schedule.rank_count();
  out["micro_batches"] = made.schedule.micro_batches;
  out["stages"] = made.schedule.placement.stages;
  out["makespan"] = made.simulation.makespan;
  out["bubble_ratio"] = made.simulation.bubble_ratio;
  out["span_bubble_rate"] = made.simulation.span_bubble_rate;
  out["peak_activations"] = made.simulation.peak_activations;
  out["idle"] = {{"fill_drain", made.idle.fill_drain},
                 {"imbalance", made.idle.imbalance},
                 {"exposed_communication", made.idle.exposed_communication},
                 {"overhead", made.idle.overhead}};
  return out.dump(2) + "\n";
}

std::string simulate_text(const ScheduleOptions& options) {
  const Prediction made = predict(options);
  std::string out = fmt::format("schedule          {}, {} ranks, {} micro-batches, {} stages\n",
                                options.name, made.schedule.rank_count(),
                                made.schedule.micro_batches, made.schedule.placement.stages);
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
  return out;
}

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
