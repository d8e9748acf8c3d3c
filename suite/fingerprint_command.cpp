// `pipemark fingerprint`: measures this device, and under mpirun the links between ranks; writes
// the library's TOML; then holds the cost model's times of a model's layers against measured ones.
// --show prints an entry of the library instead.
#include <CLI/CLI.hpp>

#include <ctime>
#include <fstream>
#include <memory>

#include "kernels/check.hpp"
#include "suite/commands.hpp"
#include "suite/config.hpp"
#include "suite/fingerprint_file.hpp"
#include "trainer/device_rates.hpp"
#include "trainer/layer_times.hpp"
#include "trainer/time_model.hpp"

namespace pipemark {
namespace {

struct FingerprintOptions {
  std::string output, name, show, backend = "kokkos", model = "tiny";
  int sequences = 4;
};

std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[16] = {};
  std::strftime(text, sizeof text, "%Y-%m-%d", std::gmtime(&now));
  return text;
}

std::string rates_text(const Fingerprint& made) {
  std::string out = fmt::format("device            {}\n", made.name);
  out += fmt::format("memory            {:.1f} GB, {:.1f} GB/s\n", 1e-9 * made.memory_bytes,
                     1e-9 * made.memory_bytes_per_s);
  for (const GemmRate& rate : made.gemms) {
    out += fmt::format("product {:<9g} {:.1f} GFLOP/s {}\n", rate.rows, 1e-9 * rate.flops_per_s,
                       rate.precision);
  }
  for (const OpRate& rate : made.ops) {
    out += rate.flops_per_s > 0
               ? fmt::format("{:<22} {:.1f} GFLOP/s\n", rate.op, 1e-9 * rate.flops_per_s)
               : fmt::format("{:<22} {:.2f} GB/s\n", rate.op, 1e-9 * rate.bytes_per_s);
  }
  return out;
}

std::string error_text(const ModelConfig& model, int sequences,
                       const std::vector<LayerCost>& predicted,
                       const std::vector<LayerCost>& measured) {
  std::string out = fmt::format("\ncost model against measurement: {}, {} sequences of {} tokens\n",
                                model.preset, sequences, model.context);
  out += fmt::format("{:<14} {:>4} {:>13} {:>12} {:>9}\n", "part", "", "predicted ms",
                     "measured ms", "error");
  const auto line = [&](const std::string& part, const char* kind, double guess, double real) {
    out +=
        fmt::format("{:<14} {:>4} {:>13.4f} {:>12.4f} {:>8}\n", part, kind, 1e3 * guess, 1e3 * real,
                    real > 0 ? fmt::format("{:+.1f}%", 100 * (guess / real - 1)) : "-");
  };
  const int count = static_cast<int>(predicted.size());
  const std::vector<std::pair<std::string, std::pair<int, int>>> parts{{"embedding", {0, 1}},
                                                                       {"block", {1, 2}},
                                                                       {"head", {count - 1, count}},
                                                                       {"model", {0, count}}};
  for (const auto& [name, range] : parts) {
    const StageCost guess = stage_time(predicted, range.first, range.second);
    const StageCost real = stage_time(measured, range.first, range.second);
    line(name, "F", guess.forward, real.forward);
    line(name, "I", guess.input_grad, real.input_grad);
    line(name, "W", guess.weight_grad, real.weight_grad);
  }
  const StageCost guess = stage_time(predicted, 0, count), real = stage_time(measured, 0, count);
  line("model", "all", guess.forward + guess.backward(), real.forward + real.backward());
  return out;
}

int measure(const FingerprintOptions& options) {
  const ModelConfig model = ModelConfig::from_preset(options.model);
  if (options.sequences < 1) {
    throw UserError(fmt::format("--sequences = {}", options.sequences), "give at least 1");
  }
  if (!options.output.empty()) check_writable(options.output);
  Cluster cluster;
  const std::unique_ptr<Ops> ops = make_ops(options.backend, cluster.local_rank());
  Fingerprint made = measure_device(*ops);
  if (!options.name.empty()) made.name = options.name;
  made.source = fmt::format("pipemark fingerprint, {}, {} rank(s), backend {}", today(),
                            cluster.size(), options.backend);
  const auto links = measure_links(cluster, *ops, made);
  const MicroBatchShape shape{options.sequences, 1,
                              static_cast<std::int64_t>(options.sequences) * model.context};
  const Grid grid = cluster.make_grid(cluster.size(), 1, 1);
  std::vector<double> speeds;
  const auto measured = measure_layer_times(*ops, model, shape, cluster.world(), grid, speeds);
  if (cluster.rank() != 0) return kGood;
  if (cluster.oversubscribed()) {
    fmt::print("{:.1f} ranks a core: these rates are not the device's own\n",
               cluster.ranks_per_core());
  }
  fmt::print("{}", rates_text(made));
  for (const LinkRate& link : links) {
    fmt::print("link {} - {}        {:.2f} us, {:.2f} GB/s\n", link.from, link.from + 1,
               1e6 * link.latency_s, 1e-9 * link.bytes_per_s);
  }
  const auto predicted = predict_layer_times(made, precision_name(*ops),
                                             static_cast<double>(size_of(ops->activation_dtype())),
                                             model, options.sequences);
  fmt::print("{}", error_text(model, options.sequences, predicted, measured));
  if (!options.output.empty()) {
    std::ofstream file(options.output);
    file << fingerprint_toml(made);
    file.close();
    if (!file)
      throw EnvironmentError(fmt::format("{}: cannot be written", options.output),
                             "is the disk full?");
    fmt::print("wrote {}\n", options.output);
  }
  return kGood;
}

int run(const FingerprintOptions& options) {
  if (options.show.empty()) return measure(options);
  fmt::print("{}", fingerprint_toml(read_fingerprint(options.show)));
  return kGood;
}
}  // namespace

void add_fingerprint_command(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<FingerprintOptions>();
  CLI::App* command =
      app.add_subcommand("fingerprint", "Measures this device, and links under mpirun");
  command->add_option("-o,--output", options->output, "TOML file to write");
  command->add_option("--name", options->name, "of the entry (the device's own)");
  command->add_option("--backend", options->backend, "kokkos or cuda");
  command->add_option("--model", options->model, "preset whose layers are held against it (tiny)");
  command->add_option("--sequences", options->sequences, "of a micro-batch of that model (4)");
  command->add_option("--show", options->show,
                      "print this entry: a file, or v100, a100, h100, ...");
  command->callback([=, &invocation] { invocation.run = [=] { return run(*options); }; });
}

}  // namespace pipemark
