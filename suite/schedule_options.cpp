// Options and look-up shared by `schedule` and `simulate`.
#include "suite/schedule_options.hpp"

#include <CLI/CLI.hpp>
#include <cmath>

#include "kernels/check.hpp"
#include "schedules/validate.hpp"

namespace pipemark {
namespace {

void refuse_mismatch(const std::string& file, const char* key, int given, int has) {
  if (given == 0 || given == has) return;
  throw UserError(fmt::format("{} = {}, but '{}' has {}", key, given, file, has),
                  fmt::format("leave {} out: the file says it", key));
}

void check_time(const char* key, double value, bool zero_allowed) {
  if (std::isfinite(value) && (value > 0 || (zero_allowed && value == 0))) return;
  throw UserError(fmt::format("{} = {}: a time is needed", key, value),
                  zero_allowed ? "give 0 or more" : "give more than 0");
}

}  // namespace

void add_schedule_options(CLI::App& command, ScheduleOptions& options) {
  command.add_option("--ranks", options.ranks, "P, ranks");
  command.add_option("--micro-batches", options.micro_batches, "M, micro-batches of a step");
  command.add_option("--chunks", options.chunks, "stages a rank holds (0: the schedule's own)");
  command.add_option("--time-forward", options.forward, "F of 1/P of the model");
  command.add_option("--time-input-grad", options.input_grad, "I of 1/P of the model");
  command.add_option("--time-weight-grad", options.weight_grad, "W of 1/P of the model");
  command.add_option("--time-comm", options.message, "time of a message between two ranks");
  command.add_option("--memory-limit", options.memory_limit,
                     "peak activations a rank may hold, in micro-batches of 1/P of the model");
}

bool is_schedule_file(const std::string& name) {
  return name.find('/') != std::string::npos || name.ends_with(".csv");
}

ScheduleRequest request_of(const ScheduleOptions& options) {
  check_time("--time-forward", options.forward, false);
  check_time("--time-input-grad", options.input_grad, false);
  check_time("--time-weight-grad", options.weight_grad, true);
  check_time("--time-comm", options.message, true);
  check_time("--memory-limit", options.memory_limit, true);
  ScheduleRequest request;
  request.ranks = options.ranks;
  request.micro_batches = options.micro_batches;
  request.chunks = options.chunks;
  request.memory_limit = options.memory_limit;
  if (options.ranks > 0) {
    const int stages = options.ranks * std::max(1, options.chunks);
    request.cost = CostModel::uniform(options.ranks, stages,
                                      {options.forward, options.input_grad, options.weight_grad},
                                      options.message);
  }
  return request;
}

Schedule schedule_of(const ScheduleOptions& options, CsvSchedule* file) {
  const ScheduleRequest request = request_of(options);
  if (is_schedule_file(options.name)) {
    CsvSchedule read = read_torch_csv(options.name);
    refuse_mismatch(options.name, "--ranks", options.ranks, read.schedule.rank_count());
    refuse_mismatch(options.name, "--micro-batches", options.micro_batches,
                    read.schedule.micro_batches);
    if (file != nullptr) *file = read;
    return read.schedule;
  }
  find_schedule(options.name);  // a wrong name is said before a missing size
  if (options.ranks == 0 || options.micro_batches == 0) {
    throw UserError(fmt::format("schedule '{}' needs a size", options.name),
                    "give --ranks P and --micro-batches M, each at least 1");
  }
  return make_schedule(options.name, request);
}

CostModel cost_of(const ScheduleOptions& options, const Schedule& schedule) {
  return CostModel::uniform(schedule.rank_count(), schedule.placement.stages,
                            {options.forward, options.input_grad, options.weight_grad},
                            options.message);
}

std::string describe_faults(const CsvSchedule& file, const Schedule& schedule,
                            const std::vector<Fault>& faults) {
  std::vector<Fault> placed = faults;
  for (Fault& fault : placed) {
    const auto rank = static_cast<std::size_t>(fault.rank);
    if (fault.rank < 0 || rank >= file.places.size()) continue;
    const auto& places = file.places[rank];
    if (fault.index < 0 || places.empty()) continue;
    // What is missing at a row's end is placed at its last action.
    const auto& place = places[std::min(static_cast<std::size_t>(fault.index), places.size() - 1)];
    fault.what =
        fmt::format("{}:{}:{}: {}", file.schedule.name, place.line, place.column, fault.what);
  }
  return format_faults(schedule, placed);
}

}  // namespace pipemark
