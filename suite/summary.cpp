#include "suite/summary.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace pipemark {

namespace {
std::string number(double value, int digits = 4) {
  return std::isnan(value) ? "-" : fmt::format("{:.{}g}", value, digits);
}
std::string fixed(double value, int digits = 4) {
  return std::isnan(value) ? "-" : fmt::format("{:.{}f}", value, digits);
}
std::string interval(const RunRow& row) {
  if (std::isnan(row.ci_low_s)) return "";
  return fmt::format(" ({:.2f} to {:.2f}, {:.1f} %)", 1e3 * row.ci_low_s, 1e3 * row.ci_high_s,
                     100 * row.confidence);
}
constexpr double kMiB = 1024.0 * 1024.0;

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

/// Of a run with experts: their exchanges, and how evenly their rows came.
template <class Line>
void line_experts(const RunRecord& run, Line&& line) {
  const auto exposed = run.values_of("exchange_exposed_s", true);
  if (exposed.empty()) return;
  line("expert exchanges",
       fmt::format("{} ms a step exposed of {} ms under way, mean of ranks [{}]",
                   fixed(1e3 * mean(exposed), 2),
                   fixed(1e3 * mean(run.values_of("exchange_flight_s", true)), 2),
                   run.row.evidence));
  const auto imbalance = run.values_of("expert_imbalance", true);
  double moved = 0;
  for (const double bytes : run.values_of("expert_moved_bytes", false)) moved += bytes;
  line("expert imbalance",
       fmt::format("{} -> {} (busiest rank's rows over the mean), {:.2f} MiB moved",
                   fixed(imbalance.front(), 3), fixed(imbalance.back(), 3), moved / kMiB));
}
}  // namespace

Progress::Progress(int steps, std::FILE* out)
    : steps_(steps), out_(out), terminal_(isatty(fileno(out)) != 0) {}

void Progress::show(int done, double loss, double step_s) {
  if (terminal_) {
    constexpr int kWidth = 30;
    const int filled = kWidth * done / std::max(1, steps_);
    fmt::print(out_, "\r[{}{}] step {}/{}  loss {:.4f}  {:.1f} ms ", std::string(filled, '#'),
               std::string(kWidth - filled, '.'), done, steps_, loss, 1e3 * step_s);
  } else {
    const int every = std::max(1, steps_ / 10);
    if (done != 1 && done != steps_ && done - last_shown_ < every) return;
    last_shown_ = done;
    fmt::print(out_, "step {}/{}  loss {:.4f}  {:.1f} ms\n", done, steps_, loss, 1e3 * step_s);
  }
  std::fflush(out_);
}

void Progress::end() {
  if (terminal_) fmt::print(out_, "\n");
}

std::string plan_text(const RunConfig& config) {
  const ModelConfig& model = config.model;
  return fmt::format(
      "plan      {} steps of {} sequences x {} tokens, {} micro-batches\n"
      "model     {} blocks, {} channels, {} heads, vocabulary {}: {} parameters\n"
      "ranks     {} = pipeline {} x data {} x expert {}; schedule {}, balancer {}\n"
      "device    {}, {}\n"
      "output    {}\n",
      config.train.steps, config.train.batch, model.context, config.train.micro_batches,
      model.layers, model.channels, model.heads, model.vocabulary, model.parameters(),
      config.parallel.ranks(), config.parallel.pipeline, config.parallel.data,
      config.parallel.expert, config.schedule.name, config.balancer.name, config.device.backend,
      config.device.pace.empty() ? "not paced" : "paced by " + config.device.pace,
      config.output.file);
}

std::string summary_text(const RunRecord& run, const std::string& file) {
  const RunRow& r = run.row;
  std::string text = fmt::format("\nschedule {}, {} ranks, {} micro-batches; evidence: {}\n",
                                 r.schedule, r.ranks, r.micro_batches, r.evidence);
  const auto line = [&](const char* name, const std::string& value) {
    text += fmt::format("  {:<22}{}\n", name, value);
  };
  line("loss", fmt::format("{} -> {} nats a token", fixed(r.first_loss), fixed(r.last_loss)));
  line("validation loss", fmt::format("{} (bigram model {})", fixed(r.validation_loss),
                                      fixed(r.bigram_validation_loss)));
  if (r.valid) {
    line("median step",
         fmt::format("{} ms{} [{}]", fixed(1e3 * r.median_step_s, 2), interval(r), r.evidence));
    line("throughput",
         fmt::format("{} tokens/s, {} model GFLOP/s, MFU {} [{}]", number(r.tokens_per_s),
                     number(1e-9 * r.model_flops_per_s),
                     std::isnan(r.mfu) ? "unknown (the device's peak is not known)" : fixed(r.mfu),
                     r.evidence));
    line("bubble_ratio",
         fmt::format("{} [{}], predicted {} [simulated], error {}", fixed(r.bubble_ratio),
                     r.evidence, fixed(r.predicted_bubble_ratio), fixed(r.bubble_ratio_error)));
    line("  its causes",
         fmt::format("fill/drain {}, imbalance {}, exposed communication {}, overhead {}",
                     fixed(r.idle_fill_drain), fixed(r.idle_imbalance),
                     fixed(r.idle_exposed_communication), fixed(r.idle_overhead)));
    line_experts(run, line);
    line("span_bubble_rate", fmt::format("{} [{}]", fixed(r.span_bubble_rate), r.evidence));
    line("makespan",
         fmt::format("{} ms [{}], predicted {} ms [simulated], error {} %",
                     fixed(1e3 * r.makespan_s, 2), r.evidence,
                     fixed(1e3 * r.predicted_makespan_s, 2), fixed(100 * r.makespan_error, 1)));
  } else {
    line("timings", fmt::format("INVALID: {}", r.invalid_reason));
  }
  for (const DecisionRow& d : run.decisions) {
    line(fmt::format("after step {}", d.step).c_str(),
         fmt::format("{} ({}): layers {}, ranks {}, {} micro-batches; {:.1f} -> {:.1f} ms "
                     "[simulated], {}",
                     d.kind, d.reason, d.partition, d.ranks, d.micro_batches,
                     1e3 * d.present_step_s, 1e3 * d.expected_step_s,
                     d.applied ? fmt::format("{:.1f} KiB moved in {:.1f} ms",
                                             d.moved_bytes / 1024.0, 1e3 * d.migration_s)
                               : "REFUSED: " + d.refusal));
  }
  if (!run.decisions.empty()) {
    double total = 0;
    for (const double step : run.values_of("step_s")) total += step;
    for (const DecisionRow& d : run.decisions) total += d.migration_s;
    line("whole run",
         fmt::format("{:.2f} s with {} decisions, {} tokens/s [{}]", total, run.decisions.size(),
                     number(static_cast<double>(r.tokens_per_step) * r.steps_done / total),
                     r.evidence));
  }
  for (const MemoryRow& m : run.memory) {
    line(fmt::format("memory of rank {}", m.rank).c_str(),
         fmt::format("arena {:.1f} MiB, resident {:.1f} MiB, {} live activations (predicted {})",
                     m.arena_bytes / kMiB, m.peak_resident_bytes / kMiB, m.peak_live,
                     m.predicted_peak_live));
  }
  if (!r.complete) line("INCOMPLETE", r.failure);
  line("record", file);
  return text;
}

std::string sweep_table(const Record& record) {
  std::map<int, const RunRow*> cells;  // the last repetition of each
  for (const RunRecord& run : record.runs) {
    if (run.row.role == "cell") cells[run.row.cell] = &run.row;
  }
  std::size_t wide = 6;
  for (const auto& [cell, row] : cells) wide = std::max(wide, row->factors.size());
  std::string text =
      fmt::format("\n{:<{}}  {:<10} {:>10} {:>19} {:>10} {:>8} {:>9} {:>8} {:>9}  {}\n", "factors",
                  wide, "evidence", "step ms", "95 % CI", "tokens/s", "bubble", "predicted",
                  "error", "last loss", "verdict");
  for (const auto& [cell, row] : cells) {
    const bool shown = row->valid;
    const auto rating = [&](double value, double scale, int digits) {
      return shown ? fixed(scale * value, digits) : std::string("-");
    };
    text += fmt::format(
        "{:<{}}  {:<10} {:>10} {:>19} {:>10} {:>8} {:>9} {:>8} {:>9}  {}\n", row->factors, wide,
        row->evidence.empty() ? "-" : row->evidence, rating(row->median_step_s, 1e3, 2),
        shown && !std::isnan(row->ci_low_s)
            ? fmt::format("{:.2f} .. {:.2f}", 1e3 * row->ci_low_s, 1e3 * row->ci_high_s)
            : "-",
        rating(row->tokens_per_s, 1, 0), rating(row->bubble_ratio, 1, 4),
        shown ? fixed(row->predicted_bubble_ratio) : "-", rating(row->bubble_ratio_error, 1, 4),
        fixed(row->last_loss),
        shown           ? "VALID"
        : row->complete ? "INVALID: " + row->invalid_reason
                        : "FAILED: " + row->failure);
  }
  return text;
}

}  // namespace pipemark
