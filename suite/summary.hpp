// What a person reads on the terminal: progress, the summary of a run, the table of a sweep. Every
// number stands beside its evidence level; an invalid run shows no rating.
#pragma once

#include <cstdio>
#include <string>

#include "suite/results.hpp"

namespace pipemark {

/// A bar on a terminal, a line now and then in a log.
class Progress {
 public:
  Progress(int steps, std::FILE* out);
  void show(int done, double loss, double step_s);
  void end();

 private:
  int steps_, last_shown_ = 0;
  std::FILE* out_;
  bool terminal_;
};

std::string plan_text(const RunConfig& config);
std::string summary_text(const RunRecord& run, const std::string& file);
/// One line a cell (its last repetition), in the order of the cells.
std::string sweep_table(const Record& record);

}  // namespace pipemark
