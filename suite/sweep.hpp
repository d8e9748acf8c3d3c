// A sweep: factors x rules -> cells, each repetition its own mpirun, all in one result file. Cells
// run in random order inside blocks (one block: each cell once), until the interval of a cell's
// median step time is narrow or the cap is reached. Every cell's losses are held against those of
// a reference run: the same model, data and steps on one rank.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "suite/config.hpp"
#include "suite/results.hpp"

namespace pipemark {

struct SweepRules {
  int repetitions = 1;          ///< blocks that always run
  int max_repetitions = 0;      ///< the cap; 0: `repetitions`
  double ci_half_width = 0.02;  ///< of the median, relative: narrow enough
  double confidence = 0.95;
  std::int64_t seed = 1;   ///< of the order inside blocks
  double timeout_s = 600;  ///< of a cell; then its process group is killed
  bool reference = true;
  /// Of a loss, relative, times 1 + step (fp32 sums in another order, carried on by AdamW).
  double loss_tolerance = 1e-5;
  /// {ranks} is replaced; empty: mpirun of this machine, or of the allocation.
  std::string launcher;
};

struct SweepCell {
  int index = 0;
  std::string factors;  ///< "schedule.name = gpipe; ..."
  RunConfig config;
  std::string refused;  ///< why it can't run; empty: it can
  int reference = -1;   ///< index into SweepPlan::references
};

struct SweepPlan {
  std::string text;  ///< the sweep file
  std::string output;
  SweepRules rules;
  std::vector<SweepCell> cells;
  std::vector<RunConfig> references;
};

/// UserError naming file, line, key, value. `output` empty: that of the file, else beside the
/// base's output as sweep.h5. `devices`, where it is not empty, is device.devices of the base.
SweepPlan plan_sweep(const std::string& path, const std::string& output,
                     const std::string& devices = "");
/// What a cell is compared with: one rank and whole device, not paced, all micro-batches of the
/// cell's data ranks.
RunConfig reference_of(const RunConfig& config);
/// The order of block `block`: a permutation of 0..cells-1, the same for the same seed.
std::vector<int> block_order(int cells, int block, std::int64_t seed);

struct ProcessResult {
  int exit_code = -1;
  bool timed_out = false;
  int signal = 0;
};
/// In a process group of its own; output to `log`; the whole group is killed after the time-out.
ProcessResult run_process(const std::vector<std::string>& arguments, const std::string& log,
                          double timeout_s);
/// mpirun's words for this machine or this allocation.
std::vector<std::string> launch_words(const std::string& launcher, int ranks);

/// Runs a configuration and gives its record, or one with the failure.
using CellRunner = std::function<RunRecord(const RunConfig& config, const SweepRules& rules)>;
CellRunner mpirun_runner(const std::string& work_folder);

/// Runs what `done` (of an interrupted sweep) lacks; the record is written after each run. The
/// pooled interval of each cell decides when it stops.
Record run_sweep(const SweepPlan& plan, const CellRunner& runner, Record done,
                 const std::string& command_line);

}  // namespace pipemark
