// The catalogue: one row a schedule. A new schedule is one file with a generator and one row here.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "schedules/cost_model.hpp"
#include "schedules/program.hpp"
#include "schedules/schedule.hpp"

namespace pipemark {

/// What a generator is asked for.
struct ScheduleRequest {
  int ranks = 4;          ///< P
  int micro_batches = 8;  ///< M
  int chunks = 0;  ///< stages a rank holds, where the schedule has the choice; 0: its default
  /// Read by zb-auto (and hanayo's and chimera's options where they have any); others ignore them.
  std::optional<CostModel> cost;
  /// Peak activations allowed on a rank, in micro-batches of a whole rank's share (1F1B's rank 0
  /// has P); 0: no limit.
  double memory_limit = 0;
  /// zb-auto only: a limit for each rank in the same unit (0: none); empty: memory_limit for all.
  std::vector<double> memory_limits;
  /// zb-auto only: what is held of an activation after I until W, as a part of it.
  double deferred_share = kDeferredShare;
  /// zb-auto only: whether the schedule must pass validate()'s rendezvous model. Empty: it must
  /// when no cost is given; else one that doesn't is taken where its bubble is smaller.
  std::optional<bool> rendezvous;
  /// zb-auto only: "linear", "v" (two chunks) or "bidirectional"; empty: linear, or "v" when chunks
  /// is 2.
  std::string placement;
  /// What FB takes, as a part of F + B: read by closed forms only.
  double overlap = 1;
};

/// Closed forms of the paper, in the times of 1/P of the model; empty where the paper gives none.
struct ClosedForm {
  /// Idle time of a rank in a step, the paper's "bubble"; `of_span`: in its own span, the longest.
  std::function<double(const ScheduleRequest&, double forward, double input_grad,
                       double weight_grad)>
      bubble;
  bool of_span = false;
  std::string assumes;  ///< what `bubble` holds for: "F = I = W"
  /// Peak activations of rank r, in micro-batches of 1/P of the model (1F1B: P - r).
  std::function<double(const ScheduleRequest&, int rank)> peak_activations;
  double parameters = 1;  ///< copies of the model held (DualPipe 2)
};

struct CatalogueRow {
  std::string name;   ///< as on the command line
  std::string title;  ///< "1F1B (PipeDream-flush)"
  std::string paper;  ///< authors, year, section
  std::string
      constraints;  ///< in words, for messages: "ranks even; micro-batches even and at least 2P"
  int default_chunks = 1;
  bool splits_backward = false;  ///< has I and W actions
  /// Empty when the request is allowed; else one sentence that names the key, the value and what
  /// would be right.
  std::function<std::string(const ScheduleRequest&)> refuse;
  std::function<Schedule(const ScheduleRequest&)> generate;
  /// The schedule as loops, where its generator writes loops; `generate` is then its expansion.
  std::function<Program(const ScheduleRequest&)> program;
  ClosedForm closed_form;
};

const std::vector<CatalogueRow>& catalogue();
/// Throws UserError with the nearest known name.
const CatalogueRow& find_schedule(std::string_view name);
/// Whether `name` is the path of a CSV file: it has a '/' or ends in ".csv".
bool is_schedule_file(std::string_view name);
/// Generates, or reads a CSV file when `name` is a path of one; the file has its own size. Throws
/// UserError where the row refuses.
Schedule make_schedule(std::string_view name, const ScheduleRequest& request);

}  // namespace pipemark
