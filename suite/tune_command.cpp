// `pipemark tune CONFIG.toml`: two short runs measure the layers, the simulator ranks what could be
// run, the best few and two baselines (the configuration as given; the published recipe) are
// measured each under its own mpirun, and the fastest by the clock is written as a configuration.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>

#include "kernels/check.hpp"
#include "schedules/catalogue.hpp"
#include "suite/commands.hpp"
#include "suite/statistics.hpp"
#include "suite/sweep.hpp"
#include "suite/tune.hpp"

namespace pipemark {
namespace {

struct TuneOptions {
  std::string file, output = "tuned.toml", record = "tune.h5", command_line;
  std::vector<std::string> schedules, overrides;
  double memory_gb = 0, timeout_s = 600;
  int best = 3, steps = 8, repetitions = 2;
  bool simulate_only = false;
};

constexpr int kProfileSteps = 6;

RunConfig load(const TuneOptions& options) {
  auto settings = read_settings(options.file);
  for (const std::string& text : options.overrides) settings.push_back(parse_override(text));
  RunConfig config = make_config(settings);
  check_run(config, 0);
  const auto refuse = [](const std::string& what, const std::string& hint) {
    throw UserError(what, hint);
  };
  if (!config.device.pace.empty()) {
    refuse(fmt::format("device.pace = \"{}\": tune measures the device itself", config.device.pace),
           "leave device.pace out; simulate and balance partition study paced devices");
  }
  if (config.model.has_experts()) {
    refuse(fmt::format("model.experts = {}: tune knows dense models only", config.model.experts),
           "sweep compares configurations of a mixture of experts");
  }
  if (options.best < 1) refuse(fmt::format("--best = {}", options.best), "give at least 1");
  if (options.repetitions < 1) {
    refuse(fmt::format("--repetitions = {}", options.repetitions), "give at least 1");
  }
  if (options.steps < 4) {
    refuse(fmt::format("--steps = {}", options.steps), "give at least 4: the first warm up");
  }
  if (!(options.memory_gb >= 0)) {
    refuse(fmt::format("--memory-gb = {}", options.memory_gb), "give 0 or more");
  }
  for (const std::string& name : options.schedules) find_schedule(name);
  check_writable(options.output);
  check_writable(options.record);
  return config;
}

std::vector<LayerCost> layers_of(const RunRecord& run) {
  std::vector<LayerCost> layers;
  for (const LayerRow& row : run.layers) {
    layers.push_back(
        {row.name, row.parameters, row.forward_s, row.input_grad_s, row.weight_grad_s});
  }
  return layers;
}

double median_of(const RunRecord& run, const char* metric) {
  return median_interval(run.values_of(metric, true), 0.95).median;
}

struct Measured {
  TuneProfile profile;
  double memory_predicted = 0, memory_used = 0;  ///< of the first profile run
};

/// The configuration as given and with micro-batches of another size, its layers timed.
Measured measure_profile(const RunConfig& config, const CellRunner& runner, const SweepRules& rules,
                         const TuneSpace& space) {
  RunConfig given = config;
  given.train.steps = kProfileSteps;
  given.train.validation_batches = 0;
  given.balancer = {"static-cost", {}};
  RunConfig other = given;
  const int sequences = config.train.batch / config.parallel.data;
  const int m = config.train.micro_batches;
  for (int count = 1; count <= sequences; ++count) {  // fewer and so larger ones, else smaller
    if (sequences % count == 0 && count != m && (count >= m / 2 || count > m)) {
      other.train.micro_batches = count;
      break;
    }
  }
  other.schedule = {"gpipe", 0, 0};  // takes any number of micro-batches
  const auto run_one = [&](const RunConfig& one) {
    fmt::print("profile: {}, {} micro-batches of {} sequences ... ", one.schedule.name,
               one.train.micro_batches, sequences / one.train.micro_batches);
    std::fflush(stdout);
    RunRecord run = runner(one, rules);
    if (!run.row.complete || run.layers.empty()) {
      fmt::print("failed\n");
      throw UserError(fmt::format("the profile run failed: {}", run.row.failure),
                      "pipemark train runs it alone and says more");
    }
    fmt::print("done\n");
    return run;
  };
  const RunRecord first = run_one(given);
  const RunRecord second = other.train.micro_batches == m ? first : run_one(other);
  const int first_size = sequences / m, second_size = sequences / other.train.micro_batches;
  Measured made;
  made.profile = first_size <= second_size
                     ? fit_profile(layers_of(first), first_size, layers_of(second), second_size)
                     : fit_profile(layers_of(second), second_size, layers_of(first), first_size);
  // What the layers don't explain, spread over the actions so that the given run is predicted
  // right.
  const double pipeline_s = median_of(first, "pipeline_s");
  made.profile.rest_s = std::max(0.0, median_of(first, "step_s") - pipeline_s);
  const auto predicted_s = [&](double action_s) {
    TuneProfile tried = made.profile;
    tried.action_s = action_s;
    return predict_candidate(given, tried, space).step_s - tried.rest_s;
  };
  double low = 0, high = pipeline_s;
  for (int i = 0; i < 40 && predicted_s(0) < pipeline_s; ++i) {
    const double middle = (low + high) / 2;
    (predicted_s(middle) < pipeline_s ? low : high) = middle;
  }
  made.profile.action_s = low;
  made.memory_predicted = predict_candidate(given, made.profile, space).peak_bytes;
  made.memory_used = static_cast<double>(first.row.peak_arena_bytes);
  return made;
}

std::string describe(const RunConfig& config) {
  return fmt::format("{}{}, M {}, {}, checkpointing {}", config.schedule.name,
                     config.schedule.chunks > 0 ? fmt::format(" x{}", config.schedule.chunks) : "",
                     config.train.micro_batches, config.balancer.name, config.train.checkpointing);
}

std::vector<Candidate> choose(const RunConfig& config, const TuneProfile& profile,
                              const TuneSpace& space, int best) {
  std::vector<Candidate> chosen{predict_candidate(config, profile, space)};
  chosen.back().label = "as given";
  chosen.push_back(recipe(config, profile, space));
  auto found = search(config, profile, space);
  if (found.empty()) {
    throw UserError(fmt::format("--memory-gb = {:g}: nothing fits", space.memory_bytes / 1e9),
                    "use more ranks, or a smaller train.batch");
  }
  fmt::print("search: {} configurations fit\n", found.size());
  for (int i = 0; i < best && i < static_cast<int>(found.size()); ++i) {
    found[static_cast<std::size_t>(i)].label = fmt::format("found {}", i + 1);
    chosen.push_back(std::move(found[static_cast<std::size_t>(i)]));
  }
  return chosen;
}

SweepPlan plan_of(const TuneOptions& options, const std::vector<Candidate>& chosen) {
  SweepPlan plan;
  plan.output = options.record;
  plan.rules.repetitions = plan.rules.max_repetitions = options.repetitions;
  plan.rules.timeout_s = options.timeout_s;
  plan.rules.reference = false;
  for (const Candidate& candidate : chosen) {
    SweepCell cell;
    cell.index = static_cast<int>(plan.cells.size());
    cell.factors = candidate.label + ": " + describe(candidate.config);
    cell.config = candidate.config;
    cell.config.train.steps = options.steps;
    cell.config.train.validation_batches = 0;
    plan.text += cell.factors + "\n";
    plan.cells.push_back(std::move(cell));
  }
  return plan;
}

/// Step times of a cell's complete runs, warm-up left out.
std::vector<double> steps_of(const Record& record, int cell) {
  std::vector<double> steps;
  for (const RunRecord& run : record.runs) {
    if (run.row.cell != cell || !run.row.complete) continue;
    const auto values = run.values_of("step_s", true);
    steps.insert(steps.end(), values.begin(), values.end());
  }
  return steps;
}

void print_table(const std::vector<Candidate>& chosen, const Record* record) {
  fmt::print("{:<10} {:>12} {:>14} {:>8} {:>8} {:>9}  configuration\n", "", "predicted ms",
             "measured ms", "error", "bubble", "peak MB");
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const Candidate& candidate = chosen[i];
    std::string measured = "-", error = "-";
    if (record != nullptr) {
      const auto steps = steps_of(*record, static_cast<int>(i));
      if (!steps.empty()) {
        const MedianInterval interval = median_interval(steps, 0.95);
        measured = fmt::format("{:.2f}", 1e3 * interval.median);
        error = fmt::format("{:+.1f}%", 100 * (candidate.step_s / interval.median - 1));
      }
    }
    fmt::print("{:<10} {:>12.2f} {:>14} {:>8} {:>8.4f} {:>9.1f}  {}\n", candidate.label,
               1e3 * candidate.step_s, measured, error, candidate.bubble_ratio,
               1e-6 * candidate.peak_bytes, describe(candidate.config));
  }
}

int write_winner(const TuneOptions& options, const std::vector<Candidate>& chosen,
                 const Record* record, const RunConfig& given) {
  std::size_t winner = chosen.size();
  double least = 0;
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    double step_s = chosen[i].step_s;
    if (record != nullptr) {
      const auto steps = steps_of(*record, static_cast<int>(i));
      if (steps.empty()) continue;
      step_s = median_interval(steps, 0.95).median;
    }
    const bool over = options.memory_gb > 0 && chosen[i].peak_bytes > 1e9 * options.memory_gb;
    if (!over && (winner == chosen.size() || step_s < least)) winner = i, least = step_s;
  }
  if (winner == chosen.size()) {
    print_error("no candidate ran to its end", "the record names what went wrong");
    return kWrongResult;
  }
  RunConfig config = chosen[winner].config;
  config.train.steps = given.train.steps;
  std::ofstream file(options.output);
  file << canonical_toml(config);
  file.close();
  if (!file) throw EnvironmentError(options.output + ": cannot be written", "is the disk full?");
  fmt::print("fastest [{}]: {} ({}), written to {}\n", record != nullptr ? "measured" : "simulated",
             chosen[winner].label, describe(config), options.output);
  return kGood;
}

int run(const TuneOptions& options) {
  const RunConfig config = load(options);
  SweepRules rules;
  rules.timeout_s = options.timeout_s;
  const std::string work = options.record + ".work";
  const CellRunner runner = mpirun_runner(work);
  TuneSpace space{options.schedules, 1e9 * options.memory_gb,
                  config.device.backend == "cuda" ? 2 : 4};
  const Measured measured = measure_profile(config, runner, rules, space);
  fmt::print("memory of the profile run: predicted {:.2f} MB, used {:.2f} MB\n",
             1e-6 * measured.memory_predicted, 1e-6 * measured.memory_used);
  fmt::print("beside its layers: an action {:.3f} ms, a step {:.3f} ms\n",
             1e3 * measured.profile.action_s, 1e3 * measured.profile.rest_s);
  const auto chosen = choose(config, measured.profile, space, options.best);
  Record record;
  if (!options.simulate_only) {
    record = run_sweep(plan_of(options, chosen), runner, {}, options.command_line);
  }
  const Record* measured_record = options.simulate_only ? nullptr : &record;
  print_table(chosen, measured_record);
  for (const RunRecord& cell : record.runs) {
    if (cell.row.valid || !cell.row.complete) continue;
    fmt::print("timings are not valid: {}\n", cell.row.invalid_reason);
    break;
  }
  const int code = write_winner(options, chosen, measured_record, config);
  if (code == kGood) std::filesystem::remove_all(work);
  return code;
}
}  // namespace

void add_tune_command(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<TuneOptions>();
  CLI::App* command = app.add_subcommand(
      "tune", "Searches schedule, cut, micro-batches and checkpointing; measures the best");
  command->add_option("config", options->file, "CONFIG.toml")->required();
  command->add_option("--memory-gb", options->memory_gb, "of a device (0: no limit)");
  command->add_option("--schedules", options->schedules, "only these, gpipe,1f1b,...")
      ->delimiter(',');
  command->add_option("--best", options->best, "how many to measure (3)");
  command->add_option("--steps", options->steps, "of a measured run (8)");
  command->add_option("--repetitions", options->repetitions, "of each, in random order (2)");
  command->add_option("--timeout", options->timeout_s, "seconds of a run (600)");
  command->add_flag("--simulate-only", options->simulate_only, "measure the layers, not the runs");
  command->add_option("-o,--output", options->output, "configuration to write (tuned.toml)");
  command->add_option("--record", options->record, "of what was measured (tune.h5)");
  command->add_option("--set", options->overrides, "any key, as --set model.layers=6")
      ->take_all()
      ->allow_extra_args(false);
  command->callback([=, &invocation] {
    options->command_line = invocation.command_line;
    invocation.run = [=] { return run(*options); };
  });
}

}  // namespace pipemark
