// `pipemark balance partition PROFILE`: every cut of a model in one table, each simulated under the
// schedule. The evidence level of all times is `simulated`.
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "balancers/partition_study.hpp"
#include "kernels/check.hpp"
#include "schedules/catalogue.hpp"
#include "suite/balance_command.hpp"
#include "suite/commands.hpp"
#include "suite/layer_profile.hpp"

namespace pipemark {
namespace {

struct PartitionOptions {
  std::string profile, schedule = "1f1b", format = "text";
  int ranks = 4, micro_batches = 16, chunks = 0;
  double samples = 1, flops = 100e12, memory_gb = 0, latency_us = 5, bandwidth_gbps = 25;
  std::vector<double> speeds;
};

void check_options(const PartitionOptions& o) {
  const auto positive = [](const char* name, double value) {
    if (!(value > 0)) throw UserError(fmt::format("{} = {}", name, value), "give more than 0");
  };
  positive("--ranks", o.ranks);
  positive("--micro-batches", o.micro_batches);
  positive("--samples", o.samples);
  positive("--flops", o.flops);
  positive("--link-gbps", o.bandwidth_gbps);
  for (const double speed : o.speeds) positive("--speeds", speed);
  if (!(o.memory_gb >= 0))
    throw UserError(fmt::format("--memory-gb = {}", o.memory_gb), "give 0 or more");
  if (!o.speeds.empty() && o.speeds.size() != static_cast<std::size_t>(o.ranks)) {
    throw UserError(fmt::format("--speeds has {} values for {} ranks", o.speeds.size(), o.ranks),
                    "give one speed a rank, 1 for one that does --flops");
  }
}

PartitionStudy study_of(const PartitionOptions& options, const ModelProfile& profile) {
  constexpr double kGb = 1e9, kUs = 1e-6;
  PartitionStudy study;
  study.layers = layer_costs(profile, options.samples, options.flops);
  for (const ProfileLayer& layer : profile.layers) {
    study.activation_bytes.push_back(options.samples * layer.activation_bytes);
    study.output_bytes.push_back(options.samples * layer.output_bytes);
  }
  study.speeds = options.speeds;
  study.memory_bytes = kGb * options.memory_gb;
  study.link_latency_s = kUs * options.latency_us;
  study.link_bytes_per_s = kGb * options.bandwidth_gbps;
  return study;
}

std::string json_of(const ModelProfile& profile, const PartitionOptions& options,
                    const std::vector<StudiedPartition>& rows) {
  nlohmann::ordered_json out;
  out["model"] = profile.name;
  out["schedule"] = options.schedule;
  out["evidence"] = "simulated";
  for (const StudiedPartition& row : rows) {
    out["partitions"].push_back({{"balancer", row.name},
                                 {"bubble_ratio", row.bubble_ratio},
                                 {"step_s", row.step_s},
                                 {"imbalance", row.imbalance},
                                 {"peak_bytes", row.peak_bytes},
                                 {"fits", row.fits},
                                 {"first", row.partition.first}});
  }
  return out.dump(2) + "\n";
}

std::string text_of(const ModelProfile& profile, const PartitionOptions& options,
                    const std::vector<StudiedPartition>& rows) {
  std::string out =
      fmt::format("{}: {} layers, {} ranks, {} micro-batches of {:g} ({}), {} [simulated]\n",
                  profile.name, profile.layers.size(), options.ranks, options.micro_batches,
                  options.samples, profile.sample, options.schedule);
  out += fmt::format("{:<18} {:>12} {:>10} {:>9} {:>9} {:>9}  {}\n", "balancer", "bubble_ratio",
                     "step ms", "v even", "max/mean", "peak GB", "first layer of each stage");
  for (const StudiedPartition& row : rows) {
    out += fmt::format("{:<18} {:>12.4f} {:>10.3f} {:>+8.1f}% {:>9.4f} {:>9.2f}{} {}\n", row.name,
                       row.bubble_ratio, 1e3 * row.step_s,
                       100 * (row.step_s / rows.front().step_s - 1), row.imbalance,
                       1e-9 * row.peak_bytes, row.fits ? " " : "!",
                       fmt::join(row.partition.first.begin(), row.partition.first.end() - 1, " "));
  }
  for (const StudiedPartition& row : rows) {
    if (row.fits) continue;
    out += fmt::format("! needs more than the device's {:g} GB\n", options.memory_gb);
    break;
  }
  return out;
}

int run(const PartitionOptions& options) {
  check_options(options);
  const ModelProfile profile = read_layer_profile(options.profile);
  ScheduleRequest request;
  request.ranks = options.ranks;
  request.micro_batches = options.micro_batches;
  request.chunks = options.chunks;
  const Schedule schedule = make_schedule(options.schedule, request);
  const auto rows = study_partitions(study_of(options, profile), schedule);
  fmt::print("{}", options.format == "json" ? json_of(profile, options, rows)
                                            : text_of(profile, options, rows));
  const bool any = std::any_of(rows.begin(), rows.end(), [](const auto& row) { return row.fits; });
  if (!any) {
    throw UserError(fmt::format("--memory-gb = {}: no cut fits", options.memory_gb),
                    "use more ranks, fewer --samples, or another schedule");
  }
  return kGood;
}
}  // namespace

void add_balance_partition(CLI::App& balance, Invocation& invocation) {
  auto options = std::make_shared<PartitionOptions>();
  CLI::App* command = balance.add_subcommand("partition", "Cuts of a model's layers in one table");
  command
      ->add_option("profile", options->profile,
                   "a layer profile: a file, or resnet152, bert-large, gpt3, deepseek-v3")
      ->required();
  command->add_option("--ranks", options->ranks, "P, ranks (4)");
  command->add_option("--micro-batches", options->micro_batches, "M, micro-batches (16)");
  command->add_option("--schedule", options->schedule, "name of a schedule (1f1b)");
  command->add_option("--chunks", options->chunks, "stages a rank holds (0: the schedule's own)");
  command->add_option("--samples", options->samples, "samples of a micro-batch (1)");
  command->add_option("--flops", options->flops, "FLOP/s of a device of speed 1 (1e14)");
  command->add_option("--speeds", options->speeds, "of the ranks, 1,1,0.5,...")->delimiter(',');
  command->add_option("--memory-gb", options->memory_gb, "of a device (0: no limit)");
  command->add_option("--link-us", options->latency_us, "latency of a message (5)");
  command->add_option("--link-gbps", options->bandwidth_gbps, "GB/s between ranks (25)");
  command->add_option("--format", options->format, "text or json")
      ->check(CLI::IsMember({"text", "json"}));
  command->callback([=, &invocation] { invocation.run = [=] { return run(*options); }; });
}

}  // namespace pipemark
