// The result file in memory: header, one RunRecord a run. Written whole beside its place and then
// renamed, so that a reader never sees a half file. Merging files is joining their lists of runs.
// The tables' columns, with their units, are in results_schema.cpp.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "schedules/timeline.hpp"
#include "suite/hdf5.hpp"
#include "trainer/config.hpp"
#include "trainer/report.hpp"

namespace pipemark {

inline constexpr const char* kFormatName = "pipemark";
inline constexpr std::int64_t kSchemaVersion = 2;
inline constexpr double kNoNumber = std::numeric_limits<double>::quiet_NaN();

/// Root attributes.
struct RecordHeader {
  std::string uuid, created, command_line, git_hash, environment;
  std::string configuration;  ///< resolved: a run's canonical TOML, or the sweep file's
  bool git_dirty = false;
  std::int64_t seed = 0;
};

/// A row of /runs. NaN: there is no such number.
struct RunRow {
  int run = 0;
  std::string uuid, created, fingerprint;
  std::string role = "train";  ///< "train", "cell", "reference"
  int cell = -1, repetition = 0;
  std::string factors;  ///< "schedule.name = gpipe; train.micro_batches = 8"
  std::string schedule, balancer, backend, transport;
  int ranks = 0, pipeline = 0, data = 0, expert = 1, micro_batches = 0, stages = 0;
  std::string preset;
  int layers = 0, channels = 0, heads = 0, context = 0, vocabulary = 0;
  std::int64_t parameters = 0, tokens_per_step = 0;
  int steps = 0, steps_done = 0;
  std::int64_t seed = 0;
  std::string evidence;
  double ranks_per_core = kNoNumber;
  bool valid = false;
  std::string invalid_reason;
  bool complete = false;
  std::string failure, stopped_by;
  double median_step_s = kNoNumber, ci_low_s = kNoNumber, ci_high_s = kNoNumber,
         confidence = kNoNumber;
  double tokens_per_s = kNoNumber, model_flops_per_s = kNoNumber, mfu = kNoNumber;
  double makespan_s = kNoNumber, bubble_ratio = kNoNumber, span_bubble_rate = kNoNumber;
  double predicted_makespan_s = kNoNumber, predicted_bubble_ratio = kNoNumber;
  double makespan_error = kNoNumber;      ///< predicted / shown - 1
  double bubble_ratio_error = kNoNumber;  ///< predicted - shown
  double idle_fill_drain = kNoNumber, idle_imbalance = kNoNumber,
         idle_exposed_communication = kNoNumber, idle_overhead = kNoNumber;
  std::int64_t overruns = 0;
  double first_loss = kNoNumber, last_loss = kNoNumber, validation_loss = kNoNumber,
         bigram_validation_loss = kNoNumber;
  int reference_run = -1;  ///< the run whose losses this one's must equal; -1: none
  double loss_tolerance = kNoNumber, reference_loss_error = kNoNumber;
  std::int64_t peak_arena_bytes = 0, peak_resident_bytes = 0;  ///< of the rank that has most
  int peak_live = 0;
};

struct SampleRow {
  int run = 0;
  std::int64_t step = 0;
  std::string metric;
  double value = 0;
  bool warmup = false;
};
struct TimelineRow {
  int rank = 0;
  std::string action;  ///< text form: 2F0, (0F5;7B2)
  int replica = 0, replica_b = 0;
  double start_s = 0, end_s = 0, wait_s = 0;
};
/// Idle time of a rank by cause, as shares of the timeline's makespan.
struct IdleRow {
  int rank = 0;
  double busy_s = 0;
  double fill_drain = 0, imbalance = 0, exposed_communication = 0, overhead = 0;
};
struct LossRow {
  std::int64_t step = 0;
  double loss = 0;
};
struct MemoryRow {
  int rank = 0;
  std::string host, device;
  std::int64_t arena_bytes = 0, peak_resident_bytes = 0, parameters = 0;
  int peak_live = 0, predicted_peak_live = 0;
};
struct LayerRow {
  int layer = 0, stage = 0;
  std::string name;
  std::int64_t parameters = 0;
  double forward_s = 0, input_grad_s = 0, weight_grad_s = 0;
};
/// What a balancer decided at a step's end.
struct DecisionRow {
  std::int64_t step = 0;
  std::string kind, reason, partition, ranks;  ///< "0 3 5 8"
  int micro_batches = 0;
  double present_step_s = 0, expected_step_s = 0, expected_cost_s = 0;
  bool applied = false;
  std::string refusal;
  double migration_s = 0;
  std::int64_t moved_bytes = 0;
};
struct ConfigurationRow {
  int run = 0;
  std::string toml;  ///< canonical
};

struct RunRecord {
  RunRow row;
  std::string configuration;
  std::vector<SampleRow> samples;
  std::vector<TimelineRow> timeline, predicted_timeline;
  std::vector<IdleRow> idle;  ///< of `timeline`
  std::vector<LossRow> losses;
  std::vector<MemoryRow> memory;
  std::vector<LayerRow> layers;
  std::vector<DecisionRow> decisions;

  /// Of one metric; warm-up steps too unless `timed_only`.
  std::vector<double> values_of(const std::string& metric, bool timed_only = false) const;
};

struct Record {
  RecordHeader header;
  std::vector<RunRecord> runs;
};

const std::vector<Column<RunRow>>& run_columns();
const std::vector<Column<SampleRow>>& sample_columns();
const std::vector<Column<TimelineRow>>& timeline_columns();
const std::vector<Column<IdleRow>>& idle_columns();
const std::vector<Column<LossRow>>& loss_columns();
const std::vector<Column<MemoryRow>>& memory_columns();
const std::vector<Column<LayerRow>>& layer_columns();
const std::vector<Column<DecisionRow>>& decision_columns();
const std::vector<Column<ConfigurationRow>>& configuration_columns();
/// What a sample may be, its unit, and whether only runs with experts have it.
struct SampleMetric {
  const char *name, *unit;
  bool of_experts;
};
const std::vector<SampleMetric>& sample_metrics();

/// Numbers the runs 0, 1, ... in order; writes PATH.part and renames it.
void write_record(const std::string& path, Record& record);
/// UserError when the file is missing, no HDF5, of another schema, or a table is not as it must be.
Record read_record(const std::string& path);

/// A header of this program, now; configuration and seed are left to the caller.
RecordHeader make_header(const std::string& command_line, const std::string& environment);
/// What a run tells, as it is recorded. The interval of the median is at 95 %.
RunRecord make_run_record(const RunConfig& config, const TrainReport& report,
                          double ranks_per_core);
/// A timeline again; UserError where an action's text is wrong.
Timeline timeline_of(const std::vector<TimelineRow>& rows);

}  // namespace pipemark
