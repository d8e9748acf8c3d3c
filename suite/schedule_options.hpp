// What `pipemark schedule` and `pipemark simulate` both take: a schedule's name or file, its size,
// the times, and the limits and placement that zb-auto is to keep to.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kernels/check.hpp"
#include "schedules/catalogue.hpp"
#include "schedules/csv.hpp"
#include "schedules/synthesis/synthesis.hpp"
#include "schedules/validate.hpp"

namespace CLI {
class App;
}

namespace pipemark {

struct ScheduleOptions {
  std::string name;
  int ranks = 0, micro_batches = 0;  ///< 0: not given (a file has its own)
  int chunks = 0;
  /// One time, of 1/P of the model, or one for each stage as it is placed.
  std::vector<double> forward{1}, input_grad{1}, weight_grad{1};
  double message = 0;
  double overlapped = 0;  ///< of FB, of 1/P of the model; 0: F + B
  /// Times 1F1B's peak (P micro-batches of 1/P of the model): one, or one a rank; empty: no limit.
  std::vector<double> memory_limit;
  std::string placement;
  std::string
      pace;  ///< a profile with the times of stages and the speeds of ranks, in place of times

  bool uniform() const {
    return pace.empty() && forward.size() == 1 && input_grad.size() == 1 && weight_grad.size() == 1;
  }
  /// F, I and W of 1/P of the model; uniform() must hold.
  StageCost whole() const { return {forward[0], input_grad[0], weight_grad[0]}; }
  /// FB over F + B.
  double overlap() const;
};

void add_schedule_options(CLI::App& command, ScheduleOptions& options);

/// Without costs. Throws UserError where a number can't be right.
ScheduleRequest request_of(const ScheduleOptions& options);

/// The costs of `stages` stages on `ranks` ranks.
CostModel cost_of(const ScheduleOptions& options, int ranks, int stages);

/// A schedule as the options ask for it.
struct PlannedSchedule {
  Schedule schedule;
  CostModel cost;
  std::vector<Fault> faults;
  CsvSchedule file;                    ///< where it was read from a file: the place of each action
  std::optional<Synthesis> synthesis;  ///< where it is zb-auto's
};

/// Makes or reads the schedule and judges it. Sizes given beside a file must be the file's.
/// `rendezvous`: of a catalogue's schedule; a file's sends may rely on buffers, as torch's do.
PlannedSchedule plan_schedule(const ScheduleOptions& options, bool rendezvous);

/// The faults on a grid, with file:line:column in front for a schedule that was read from a file.
std::string describe_faults(const PlannedSchedule& planned);

/// A faulty schedule has no times: told in one line, the command ends with exit code 1.
class FaultySchedule : public UserError {
  using UserError::UserError;
};
/// Throws FaultySchedule with the first fault and its place.
void refuse_faulty(const PlannedSchedule& planned);

/// How far zb-auto's schedule is from the best possible.
std::string synthesis_text(const Synthesis& synthesis);

}  // namespace pipemark
