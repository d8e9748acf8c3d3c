// Options and look-up shared by `schedule` and `simulate`.
#include "suite/schedule_options.hpp"

#include <CLI/CLI.hpp>
#include <cmath>

#include "kernels/check.hpp"
#include "suite/config.hpp"

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

double time_of(const std::vector<double>& times, int stage, int ranks, int stages,
               const char* key) {
  if (times.size() == 1) return times[0] * ranks / stages;
  if (times.size() != static_cast<std::size_t>(stages)) {
    throw UserError(
        fmt::format("{} has {} values, but the schedule has {} stages", key, times.size(), stages),
        "give one time (of 1/P of the model), or one for each stage");
  }
  return times[static_cast<std::size_t>(stage)];
}

/// What zb-auto needs beyond what every schedule does.
void add_synthesis_request(const ScheduleOptions& options, ScheduleRequest& request) {
  request.placement = options.placement;
  if (request.placement.empty()) request.placement = options.chunks == 2 ? "v" : "linear";
  const int stages = request.placement == "v" ? 2 * request.ranks : request.ranks;
  request.cost = cost_of(options, request.ranks, stages);
}

PlannedSchedule read_planned(const ScheduleOptions& options) {
  PlannedSchedule planned;
  planned.file = read_torch_csv(options.name);
  planned.schedule = planned.file.schedule;
  refuse_mismatch(options.name, "--ranks", options.ranks, planned.schedule.rank_count());
  refuse_mismatch(options.name, "--micro-batches", options.micro_batches,
                  planned.schedule.micro_batches);
  return planned;
}

}  // namespace

double ScheduleOptions::overlap() const {
  if (overlapped == 0) return 1;
  return overlapped / (whole().forward + whole().backward());
}

void add_schedule_options(CLI::App& command, ScheduleOptions& options) {
  command.add_option("--ranks", options.ranks, "P, ranks");
  command.add_option("--micro-batches", options.micro_batches, "M, micro-batches of a step");
  command.add_option("--chunks", options.chunks, "stages a rank holds (0: the schedule's own)");
  const auto list = [&](const char* name, std::vector<double>& values, const char* text) {
    command.add_option(name, values, text)->delimiter(',')->allow_extra_args(false);
  };
  list("--time-forward", options.forward, "F of 1/P of the model, or F1,F2,... of each stage");
  list("--time-input-grad", options.input_grad, "I, as --time-forward");
  list("--time-weight-grad", options.weight_grad, "W, as --time-forward");
  command.add_option("--time-comm", options.message, "time of a message between two ranks");
  command.add_option("--time-overlapped", options.overlapped,
                     "FB of 1/P of the model (otherwise F + I + W)");
  command.add_option("--pace", options.pace,
                     "PROFILE.toml with times of stages and speeds of ranks, in place of --time-*");
  list("--memory-limit", options.memory_limit,
       "activations a rank may hold, times 1F1B's most (P micro-batches of 1/P of the model); "
       "or X1,X2,... of each rank");
  command.add_option("--placement", options.placement, "zb-auto: linear, v or bidirectional")
      ->check(CLI::IsMember({"linear", "v", "bidirectional"}));
}

ScheduleRequest request_of(const ScheduleOptions& options) {
  const auto all = [](const char* key, const std::vector<double>& times, bool zero_allowed) {
    for (const double time : times) check_time(key, time, zero_allowed);
  };
  all("--time-forward", options.forward, false);
  all("--time-input-grad", options.input_grad, false);
  all("--time-weight-grad", options.weight_grad, true);
  check_time("--time-comm", options.message, true);
  check_time("--time-overlapped", options.overlapped, true);
  if (options.overlapped > 0 && !options.uniform()) {
    throw UserError("--time-overlapped is of 1/P of the model, but times are given by stage",
                    "give one --time-forward, --time-input-grad and --time-weight-grad");
  }
  ScheduleRequest request;
  request.ranks = options.ranks;
  request.micro_batches = options.micro_batches;
  request.chunks = options.chunks;
  for (const double limit : options.memory_limit) {
    if (!std::isfinite(limit) || limit <= 0) {
      throw UserError(fmt::format("--memory-limit = {}: more than 0 is needed", limit),
                      "1 is as much as 1F1B's rank 0 holds; leave it out for no limit");
    }
    request.memory_limits.push_back(limit * options.ranks);
  }
  if (request.memory_limits.size() == 1) {
    request.memory_limit = request.memory_limits[0];
    request.memory_limits.clear();
  } else if (!request.memory_limits.empty() &&
             request.memory_limits.size() != static_cast<std::size_t>(options.ranks)) {
    throw UserError(fmt::format("--memory-limit has {} values for {} ranks",
                                request.memory_limits.size(), options.ranks),
                    "give one, or one for each rank");
  }
  return request;
}

CostModel cost_of(const ScheduleOptions& options, int ranks, int stages) {
  CostModel cost;
  if (!options.pace.empty()) {
    cost = read_pace_profile(options.pace).cost_model(ranks, stages);
  } else {
    cost.ranks = ranks;
    cost.stages = stages;
    for (int rank = 0; rank < ranks; ++rank) {
      for (int stage = 0; stage < stages; ++stage) {
        cost.stage.push_back(
            {time_of(options.forward, stage, ranks, stages, "--time-forward"),
             time_of(options.input_grad, stage, ranks, stages, "--time-input-grad"),
             time_of(options.weight_grad, stage, ranks, stages, "--time-weight-grad")});
      }
    }
    cost.overlap = options.overlap();
  }
  const auto across = static_cast<std::size_t>(ranks);
  cost.message.assign(across * across, options.message);
  for (std::size_t rank = 0; rank < across; ++rank) cost.message[rank * across + rank] = 0;
  return cost;
}

PlannedSchedule plan_schedule(const ScheduleOptions& options, bool rendezvous) {
  PlannedSchedule planned;
  ValidateOptions sound;
  if (is_schedule_file(options.name)) {
    planned = read_planned(options);
    rendezvous = false;
  } else {
    find_schedule(options.name);  // a wrong name is said before a missing size
    if (options.ranks == 0 || options.micro_batches == 0) {
      throw UserError(fmt::format("schedule '{}' needs a size", options.name),
                      "give --ranks P and --micro-batches M, each at least 1");
    }
    ScheduleRequest request = request_of(options);
    if (const CatalogueRow& row = find_schedule(options.name); row.name == "zb-auto") {
      if (const std::string why = row.refuse(request); !why.empty()) {
        throw UserError(fmt::format("schedule '{}': {}", row.name, why), row.constraints);
      }
      add_synthesis_request(options, request);
      planned.synthesis = synthesize(request);
      planned.schedule = planned.synthesis->schedule;
      rendezvous = rendezvous && planned.synthesis->rendezvous;
    } else {
      planned.schedule = make_schedule(options.name, request);
    }
  }
  ScheduleOptions sized = options;
  sized.ranks = planned.schedule.rank_count();
  const ScheduleRequest limits = request_of(sized);
  sound.rendezvous = rendezvous;
  sound.memory_limit = limits.memory_limit;
  sound.memory_limits = limits.memory_limits;
  planned.faults = validate(planned.schedule, sound);
  planned.cost = cost_of(options, sized.ranks, planned.schedule.placement.stages);
  return planned;
}

namespace {
std::vector<Fault> placed_faults(const PlannedSchedule& planned) {
  std::vector<Fault> placed = planned.faults;
  for (Fault& fault : placed) {
    const auto rank = static_cast<std::size_t>(fault.rank);
    if (fault.rank < 0 || rank >= planned.file.places.size()) continue;
    const auto& places = planned.file.places[rank];
    if (fault.index < 0 || places.empty()) continue;
    // What is missing at a row's end is placed at its last action.
    const auto& place = places[std::min(static_cast<std::size_t>(fault.index), places.size() - 1)];
    fault.what =
        fmt::format("{}:{}:{}: {}", planned.schedule.name, place.line, place.column, fault.what);
  }
  return placed;
}
}  // namespace

std::string describe_faults(const PlannedSchedule& planned) {
  return format_faults(planned.schedule, placed_faults(planned));
}

void refuse_faulty(const PlannedSchedule& planned) {
  if (planned.faults.empty()) return;
  const Fault first = placed_faults(planned).front();
  const std::string place = first.rank < 0 || !planned.file.places.empty()
                                ? ""
                                : fmt::format("rank {}, action {}: ", first.rank, first.index);
  throw FaultySchedule(fmt::format("schedule '{}' is faulty and has no times: {}{}{}",
                                   planned.schedule.name, place, first.what,
                                   planned.faults.size() == 1
                                       ? ""
                                       : fmt::format(" (and {} more)", planned.faults.size() - 1)),
                       "pipemark schedule NAME --check shows each fault on a grid");
}

std::string synthesis_text(const Synthesis& s) {
  // Equal ones may be off by the rounding of sums in another order.
  const auto below = [](double bound, double value) {
    return std::max(0.0, 100 * (1 - bound / value));
  };
  std::string out = fmt::format(
      "lower bound       makespan {:.6g}, {:.2f} % below this one; longest span {:.6g}, {:.2f} % "
      "below\n",
      s.lower_bound, below(s.lower_bound, s.makespan), s.span_lower_bound,
      below(s.span_lower_bound, s.span));
  return out + fmt::format("rendezvous sends  {}\n",
                           s.rendezvous ? "pass" : "would block: it sends further ahead");
}

}  // namespace pipemark
