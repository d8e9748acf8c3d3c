// pipemark train CONFIG.toml: one training run under mpirun, from the plan to the record. Mistakes
// found before training are found by all ranks and told by one.
#include <CLI/CLI.hpp>
#include <cmath>
#include <memory>
#include <optional>

#include "suite/commands.hpp"
#include "suite/config.hpp"
#include "suite/environment.hpp"
#include "suite/mps_daemon.hpp"
#include "suite/partial_record.hpp"
#include "suite/results.hpp"
#include "suite/summary.hpp"
#include "trainer/cluster.hpp"
#include "trainer/device_slices.hpp"
#include "trainer/trainer.hpp"

namespace pipemark {

namespace {
struct TrainOptions {
  std::string config, schedule, balancer, devices, output;
  std::vector<std::string> overrides;
  std::optional<int> steps, micro_batches;
  std::optional<std::int64_t> seed;
  std::string command_line;
};

RunConfig load_config(const TrainOptions& options) {
  std::vector<Setting> settings = read_settings(options.config);
  for (const std::string& text : options.overrides) settings.push_back(parse_override(text));
  const auto add = [&](const char* option, const char* key, const std::string& value) {
    settings.push_back({key, value, option});
  };
  const auto add_text = [&](const char* option, const char* key, const std::string& value) {
    if (!value.empty()) settings.push_back(parse_override(fmt::format("{}=\"{}\"", key, value)));
    if (!value.empty()) settings.back().origin = option;
  };
  add_text("--schedule", "schedule.name", options.schedule);
  add_text("--balancer", "balancer.name", options.balancer);
  add_text("--devices", "device.devices", options.devices);
  add_text("--output", "output.file", options.output);
  if (options.steps) add("--steps", "train.steps", fmt::format("{}", *options.steps));
  if (options.micro_batches) {
    add("--micro-batches", "train.micro_batches", fmt::format("{}", *options.micro_batches));
  }
  if (options.seed) add("--seed", "train.seed", fmt::format("{}", *options.seed));
  return make_config(settings);
}

struct Mistake {
  int code = kGood;
  std::string what, hint;
};

/// Runs `work` on this rank and tells what went wrong, if anything.
template <class Work>
Mistake caught(Work&& work) {
  try {
    work();
    return {};
  } catch (const EnvironmentError& error) {
    return {kEnvironmentFault, error.what(), error.hint()};
  } catch (const UserError& error) {
    return {kUserMistake, error.what(), error.hint()};
  }
}

/// Collective: the first rank's mistake, told once; the exit code on every rank.
int agree(Cluster& cluster, const Mistake& mine) {
  const auto all = cluster.world().all_gather(
      mine.code == kGood ? "" : fmt::format("{}{}\n{}", mine.code, mine.what, mine.hint));
  for (const std::string& text : all) {
    if (text.empty()) continue;
    const auto end = text.rfind('\n');
    if (cluster.rank() == 0) print_error(text.substr(1, end - 1), text.substr(end + 1));
    cluster.world().barrier();  // nobody leaves before it is told
    return text[0] - '0';
  }
  return kGood;
}

std::string node_list(Cluster& cluster) {
  std::string nodes;
  for (const std::string& host : cluster.world().gather(cluster.host())) {
    if (nodes.find(host) == std::string::npos) nodes += (nodes.empty() ? "" : ",") + host;
  }
  return nodes;
}

/// Rank 0's side: progress, the record while it goes on, the summary.
class Observer {
 public:
  Observer(const TrainOptions& options, const RunConfig& config, Cluster& cluster,
           const std::string& nodes)
      : config_(config),
        ranks_per_core_(cluster.ranks_per_core()),
        fingerprint_(fingerprint(config, binary_hash(), machine_text())),
        progress_(config.train.steps, stdout) {
    record_.header =
        make_header(options.command_line, environment_text(cluster.mpi_library(), nodes));
    record_.header.configuration = canonical_toml(config);
    record_.header.seed = static_cast<std::int64_t>(config.train.seed);
  }

  void write(const TrainReport& report) {
    RunRecord run = make_run_record(config_, report, ranks_per_core_);
    run.row.uuid = record_.header.uuid;
    run.row.created = record_.header.created;
    run.row.fingerprint = fingerprint_;
    record_.runs.assign(1, std::move(run));
    write_record(config_.output.file, record_);
  }
  void after_step(const TrainReport& report) {
    const StepReport& step = report.steps.back();
    progress_.show(static_cast<int>(report.steps.size()), step.loss, step.step_s);
  }
  int report() {
    progress_.end();
    const RunRecord& run = record_.runs.front();
    fmt::print("{}", summary_text(run, config_.output.file));
    for (const LossRow& row : run.losses) {
      if (!std::isfinite(row.loss)) return kWrongResult;
    }
    return kGood;
  }

 private:
  RunConfig config_;
  double ranks_per_core_;
  std::string fingerprint_;
  Progress progress_;
  Record record_;
};

int run_trainer(Cluster& cluster, Trainer& trainer, Observer* observer, PartialRecord& partial) {
  if (observer != nullptr) {
    partial.start([&](const TrainReport& report) { observer->write(report); });
  }
  try {
    const TrainReport report = trainer.fit([&](const TrainReport& so_far) {
      observer->after_step(so_far);
      partial.update(so_far);
    });
    if (observer == nullptr) return kGood;
    partial.finish(report);
    return observer->report();
  } catch (const std::exception& error) {  // of this rank alone: the others don't know
    if (observer != nullptr) {
      try {
        partial.fail(error.what());
      } catch (const std::exception& second) {
        print_error(second.what(), "");
      }
    }
    cluster.abort_job(kEnvironmentFault, error.what(), "the record holds the steps that were done");
  }
}

/// Collective, before the first CUDA call: this rank's slice of the GPU where the run asks for slices.
/// Rank 0 holds the daemon unless the sweep does.
int take_slice(Cluster& cluster, const RunConfig& config, std::unique_ptr<MpsDaemon>& daemon) {
  const std::vector<double> slices = parse_slices(config.device.devices);
  if (slices.empty()) return kGood;
  std::string folder = inherited_mps_folder();
  const Mistake refused = caught([&] {
    if (cluster.rank() == 0 && folder.empty()) {
      daemon = std::make_unique<MpsDaemon>();
      folder = daemon->folder();
    }
  });
  if (const int code = agree(cluster, refused)) return code;
  enter_slice(slices[static_cast<std::size_t>(cluster.rank())],
              cluster.world().broadcast(folder, 0));
  return kGood;
}

int run_train(const TrainOptions& options) {
  PartialRecord partial;  // blocks the signals before MPI makes threads
  Cluster cluster;
  RunConfig config;
  std::optional<PaceProfile> pace;
  const Mistake mistake = caught([&] {
    config = load_config(options);
    check_run(config, cluster.size());
    if (!config.device.pace.empty()) pace = read_pace_profile(config.device.pace);
    if (cluster.rank() == 0) check_writable(config.output.file);
  });
  if (const int code = agree(cluster, mistake)) return code;
  cluster.set_timeout(config.train.wait_timeout_s);
  std::unique_ptr<MpsDaemon> daemon;
  if (const int code = take_slice(cluster, config, daemon)) return code;
  std::unique_ptr<Trainer> trainer;
  const Mistake refused = caught(
      [&] { trainer = std::make_unique<Trainer>(cluster, config, pace ? &*pace : nullptr); });
  if (const int code = agree(cluster, refused)) return code;
  const std::string nodes = node_list(cluster);
  std::optional<Observer> observer;
  if (cluster.rank() == 0) {
    fmt::print("{}", plan_text(config));
    std::fflush(stdout);
    observer.emplace(options, config, cluster, nodes);
  }
  const int code = run_trainer(cluster, *trainer, observer ? &*observer : nullptr, partial);
  return static_cast<int>(cluster.world().allreduce_max(code, "exit code"));
}
}  // namespace

void add_train_command(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand("train", "Trains a model; run it under mpirun -n N");
  command->add_option("config", options->config, "CONFIG.toml")->required();
  command->add_option("--schedule", options->schedule, "schedule.name");
  command->add_option("--balancer", options->balancer, "balancer.name");
  command->add_option("--devices", options->devices,
                      "device.devices: slices of one GPU, as mps:8 or mps:40,30,20,10");
  command->add_option("--steps", options->steps, "train.steps");
  command->add_option("--micro-batches", options->micro_batches, "train.micro_batches");
  command->add_option("--seed", options->seed, "train.seed");
  command->add_option("-o,--output", options->output, "output.file");
  command->add_option("--set", options->overrides, "any key, as --set model.layers=6")
      ->take_all()
      ->allow_extra_args(false);
  command->callback([=, &invocation] {
    options->command_line = invocation.command_line;
    invocation.run = [=] { return run_train(*options); };
  });
}

}  // namespace pipemark
