// What `pipemark schedule` and `pipemark simulate` both take: a schedule's name or file, its size,
// and the times of 1/P of the model (any unit).
#pragma once

#include <string>

#include "schedules/catalogue.hpp"
#include "schedules/csv.hpp"

namespace CLI {
class App;
}

namespace pipemark {

struct ScheduleOptions {
  std::string name;
  int ranks = 0, micro_batches = 0;  ///< 0: not given (a file has its own)
  int chunks = 0;
  double forward = 1, input_grad = 1, weight_grad = 1, message = 0;
  double memory_limit = 0;
};

/// --ranks, --micro-batches, --chunks, --time-*, --memory-limit.
void add_schedule_options(CLI::App& command, ScheduleOptions& options);
bool is_schedule_file(const std::string& name);
ScheduleRequest request_of(const ScheduleOptions& options);
/// Makes or reads the schedule; sizes given beside a file must be the file's. For a file, `places`
/// (when not null) takes the place of each action in it.
Schedule schedule_of(const ScheduleOptions& options, CsvSchedule* file = nullptr);
CostModel cost_of(const ScheduleOptions& options, const Schedule& schedule);
/// `what` of each fault, with file:line:column in front for a schedule read from a file.
std::string describe_faults(const CsvSchedule& file, const Schedule& schedule,
                            const std::vector<struct Fault>& faults);

}  // namespace pipemark
