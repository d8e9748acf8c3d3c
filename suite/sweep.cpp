#include "suite/sweep.hpp"

#include <algorithm>
#include <cmath>

#include "suite/environment.hpp"
#include "suite/statistics.hpp"
#include "suite/verify.hpp"

namespace pipemark {

namespace {
class Sweep {
 public:
  Sweep(const SweepPlan& plan, const CellRunner& runner, Record done,
        const std::string& command_line)
      : plan_(plan), runner_(runner), done_(std::move(done)) {
    record_.header = make_header(command_line, environment_text("", ""));
    record_.header.configuration = plan.text;
    record_.header.seed = plan.rules.seed;
  }

  Record run() {
    for (const RunConfig& config : plan_.references) {
      reference_runs_.push_back(static_cast<int>(record_.runs.size()));
      add(get(config, "reference", -1, 0), "reference");
    }
    for (const SweepCell& cell : plan_.cells) {
      if (!cell.refused.empty()) add_refused(cell);
    }
    for (int block = 0; block < plan_.rules.max_repetitions; ++block) {
      for (const int index :
           block_order(static_cast<int>(plan_.cells.size()), block, plan_.rules.seed)) {
        const SweepCell& cell = plan_.cells[static_cast<std::size_t>(index)];
        if (wants(cell, block)) run_cell(cell, block);
      }
    }
    write_record(plan_.output, record_);
    return std::move(record_);
  }

 private:
  /// Pooled over the repetitions of a cell.
  MedianInterval interval_of(int cell) const {
    std::vector<double> all;
    for (const RunRecord& run : record_.runs) {
      if (run.row.cell != cell || !run.row.complete) continue;
      const auto samples = run.values_of("step_s", true);
      all.insert(all.end(), samples.begin(), samples.end());
    }
    return median_interval(all, plan_.rules.confidence);
  }
  bool wants(const SweepCell& cell, int block) const {
    if (!cell.refused.empty()) return false;
    const bool failed = std::any_of(record_.runs.begin(), record_.runs.end(), [&](auto& run) {
      return run.row.cell == cell.index && !run.row.complete;
    });
    if (failed) return false;
    return block < plan_.rules.repetitions ||
           !(interval_of(cell.index).relative_half_width() <= plan_.rules.ci_half_width);
  }

  void run_cell(const SweepCell& cell, int block) {
    RunRecord run = get(cell.config, "cell", cell.index, block);
    run.row.cell = cell.index;
    run.row.repetition = block;
    run.row.factors = cell.factors;
    if (cell.reference >= 0 && run.row.complete) judge(run, cell);
    add(std::move(run), "cell");
    RunRow& row = record_.runs.back().row;
    const bool narrow = interval_of(cell.index).relative_half_width() <= plan_.rules.ci_half_width;
    row.stopped_by = !row.complete                                    ? "failure"
                     : narrow && block + 1 >= plan_.rules.repetitions ? "narrow interval"
                     : block + 1 == plan_.rules.max_repetitions       ? "cap"
                                                                      : "";
    write_record(plan_.output, record_);
  }

  void judge(RunRecord& run, const SweepCell& cell) {
    const int reference = reference_runs_[static_cast<std::size_t>(cell.reference)];
    const RunRecord& with = record_.runs[static_cast<std::size_t>(reference)];
    run.row.reference_run = reference;
    run.row.loss_tolerance = plan_.rules.loss_tolerance;
    run.row.reference_loss_error =
        reference_loss_error(run.losses, with.losses, plan_.rules.loss_tolerance);
    if (run.row.reference_loss_error <= 1) return;
    run.row.valid = false;
    if (!run.row.invalid_reason.empty()) run.row.invalid_reason += "; ";
    run.row.invalid_reason += with.row.complete
                                  ? fmt::format(
                                        "losses differ from reference run {} by {:.3g} of "
                                        "the bound",
                                        reference, run.row.reference_loss_error)
                                  : fmt::format("reference run {} failed", reference);
  }

  /// From the interrupted sweep, else by running it.
  RunRecord get(const RunConfig& config, const char* role, int cell, int repetition) {
    const std::string print = fingerprint(config, program_, machine_);
    for (const RunRecord& run : done_.runs) {
      if (run.row.fingerprint == print && run.row.role == role && run.row.complete &&
          run.row.repetition == repetition) {
        fmt::print("{} {} repetition {}: already done\n", role, cell, repetition);
        return run;
      }
    }
    fmt::print(
        "{}: {} ranks, schedule {}, balancer {}, M {}, repetition {} ... ",
        cell < 0 ? std::string(role) : fmt::format("cell {}/{}", cell + 1, plan_.cells.size()),
        config.parallel.ranks(), config.schedule.name, config.balancer.name,
        config.train.micro_batches, repetition);
    std::fflush(stdout);
    RunRecord run = runner_(config, plan_.rules);
    fill_configured(run.row, config);
    run.row.fingerprint = print;
    fmt::print("{}\n", run.row.complete ? run.row.valid ? "done" : run.row.invalid_reason
                                        : run.row.failure);
    std::fflush(stdout);
    return run;
  }

  /// A run that failed before its first step has no row of its own.
  static void fill_configured(RunRow& row, const RunConfig& config) {
    if (row.uuid.empty()) {
      row.uuid = new_uuid();
      row.created = utc_now();
    }
    row.schedule = config.schedule.name;
    row.balancer = config.balancer.name;
    row.ranks = config.parallel.ranks();
    row.pipeline = config.parallel.pipeline;
    row.data = config.parallel.data;
    row.expert = config.parallel.expert;
    row.micro_batches = config.train.micro_batches;
    row.preset = config.model.preset;
    row.layers = config.model.layers;
    row.channels = config.model.channels;
    row.heads = config.model.heads;
    row.context = config.model.context;
    row.vocabulary = config.model.vocabulary;
    row.steps = config.train.steps;
    row.seed = static_cast<std::int64_t>(config.train.seed);
  }

  void add_refused(const SweepCell& cell) {
    RunRecord run;
    run.configuration = canonical_toml(cell.config);
    fill_configured(run.row, cell.config);
    run.row.fingerprint = fingerprint(cell.config, program_, machine_);
    run.row.cell = cell.index;
    run.row.factors = cell.factors;
    run.row.failure = "refused: " + cell.refused;
    run.row.invalid_reason = "the run is not complete";
    run.row.stopped_by = "refused";
    add(std::move(run), "cell");
  }

  void add(RunRecord run, const char* role) {
    run.row.role = role;
    record_.runs.push_back(std::move(run));
    write_record(plan_.output, record_);
  }

  const SweepPlan& plan_;
  const CellRunner& runner_;
  Record done_, record_;
  std::vector<int> reference_runs_;
  std::string program_ = binary_hash(), machine_ = machine_text();
};
}  // namespace

Record run_sweep(const SweepPlan& plan, const CellRunner& runner, Record done,
                 const std::string& command_line) {
  return Sweep(plan, runner, std::move(done), command_line).run();
}

}  // namespace pipemark
