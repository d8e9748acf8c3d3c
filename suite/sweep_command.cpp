// pipemark sweep SWEEP.toml [--resume]: plan, run every cell, check, table. Exit code 1 when a
// cell that could run failed or its losses were not the reference's.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>

#include "suite/commands.hpp"
#include "suite/mps_daemon.hpp"
#include "suite/summary.hpp"
#include "suite/sweep.hpp"
#include "suite/verify.hpp"

namespace pipemark {

namespace {
struct SweepOptions {
  std::string file, devices, output, command_line;
  bool resume = false;
};

int judge_sweep(const Record& record) {
  int code = kGood;
  for (const RunRecord& run : record.runs) {
    const bool wrong_losses = run.row.reference_loss_error > 1;
    const bool failed = !run.row.complete && run.row.stopped_by != "refused";
    if (wrong_losses || failed) code = kWrongResult;
  }
  return code;
}

/// One daemon for all cells, where any wants slices of a GPU.
std::unique_ptr<MpsDaemon> start_daemon(const SweepPlan& plan) {
  const bool wanted = std::any_of(plan.cells.begin(), plan.cells.end(), [](const SweepCell& cell) {
    return !cell.config.device.devices.empty() && cell.refused.empty();
  });
  if (!wanted) return nullptr;
  auto daemon = std::make_unique<MpsDaemon>();
  announce_mps_folder(daemon->folder());
  return daemon;
}

int run_sweep_command(const SweepOptions& options) {
  const SweepPlan plan = plan_sweep(options.file, options.output, options.devices);
  check_writable(plan.output);
  Record done;
  if (options.resume && std::filesystem::exists(plan.output)) done = read_record(plan.output);
  fmt::print("sweep: {} cells, {} reference runs, {} to {} repetitions, record {}\n",
             plan.cells.size(), plan.references.size(), plan.rules.repetitions,
             plan.rules.max_repetitions, plan.output);
  const std::string work = plan.output + ".work";
  const auto daemon = start_daemon(plan);
  const Record record = run_sweep(plan, mpirun_runner(work), std::move(done), options.command_line);
  if (daemon != nullptr) daemon->stop();
  fmt::print("{}\nrecord: {}\n", sweep_table(record), plan.output);
  for (const std::string& fault : verify_record(record)) {
    print_error(fault, "the record contradicts itself: this is a defect of pipemark");
    return kWrongResult;
  }
  const int code = judge_sweep(record);
  if (code == kGood) std::filesystem::remove_all(work);
  return code;
}
}  // namespace

void add_sweep_command(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<SweepOptions>();
  CLI::App* command =
      app.add_subcommand("sweep", "Runs every combination of factors, each under its own mpirun");
  command->add_option("file", options->file, "SWEEP.toml")->required();
  command->add_flag("--resume", options->resume, "go on where an interrupted sweep was");
  command->add_option("--devices", options->devices,
                      "device.devices of every cell: slices of one GPU, as mps:8");
  command->add_option("-o,--output", options->output, "result file");
  command->callback([=, &invocation] {
    options->command_line = invocation.command_line;
    invocation.run = [=] { return run_sweep_command(*options); };
  });
}

}  // namespace pipemark
