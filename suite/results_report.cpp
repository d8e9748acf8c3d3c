// A TrainReport as it is recorded, and back to a Timeline.
#include <fmt/ranges.h>

#include <algorithm>

#include "schedules/text.hpp"
#include "suite/config.hpp"
#include "suite/environment.hpp"
#include "suite/results.hpp"
#include "suite/statistics.hpp"

namespace pipemark {

namespace {
constexpr double kConfidence = 0.95;

double or_none(double value, bool known) { return known ? value : kNoNumber; }

void add_samples(RunRecord& record, const TrainReport& report) {
  for (const StepReport& s : report.steps) {
    const auto add = [&](const char* metric, double value) {
      record.samples.push_back({0, s.step, metric, value, s.warmup});
    };
    add("loss", s.loss);
    add("gradient_norm", s.gradient_norm);
    add("learning_rate", s.learning_rate);
    add("step_s", s.step_s);
    add("pipeline_s", s.pipeline_s);
    add("optimizer_s", s.optimizer_s);
    add("bubble_ratio", s.bubble_ratio);
    add("span_bubble_rate", s.span_bubble_rate);
    add("host_overhead_s", s.host_overhead_s);
    add("overruns", s.overruns);
    if (s.expert_imbalance > 0) {
      add("exchange_exposed_s", s.exchange_exposed_s);
      add("exchange_flight_s", s.exchange_flight_s);
      add("expert_imbalance", s.expert_imbalance);
      add("expert_moved_bytes", static_cast<double>(s.expert_moved_bytes));
      add("expert_move_s", s.expert_move_s);
    }
    record.losses.push_back({s.step, s.loss});
    record.row.overruns += s.overruns;
  }
}

std::vector<TimelineRow> timeline_rows(const Timeline& timeline) {
  std::vector<TimelineRow> rows;
  for (std::size_t r = 0; r < timeline.ranks.size(); ++r) {
    for (const TimedAction& t : timeline.ranks[r]) {
      rows.push_back({static_cast<int>(r), to_text(t.action), t.action.replica, t.action.replica_b,
                      t.start_s, t.end_s, t.wait_s});
    }
  }
  return rows;
}

void add_tables(RunRecord& record, const TrainReport& report) {
  record.timeline = timeline_rows(report.timeline);
  record.predicted_timeline = timeline_rows(report.predicted_timeline);
  const std::size_t shown = std::min(report.idle.ranks.size(), report.timeline.ranks.size());
  for (std::size_t r = 0; r < shown; ++r) {
    const IdleCauses& idle = report.idle.ranks[r];
    const int rank = static_cast<int>(r);
    record.idle.push_back({rank, report.timeline.busy_s(rank), idle.fill_drain, idle.imbalance,
                           idle.exposed_communication, idle.overhead});
  }
  for (const RankReport& r : report.rank_reports) {
    record.memory.push_back({r.rank, r.host, r.device, r.arena_bytes, r.peak_resident_bytes,
                             r.parameters, r.peak_live, r.predicted_peak_live});
    record.row.peak_arena_bytes = std::max(record.row.peak_arena_bytes, r.arena_bytes);
    record.row.peak_resident_bytes =
        std::max(record.row.peak_resident_bytes, r.peak_resident_bytes);
    record.row.peak_live = std::max(record.row.peak_live, r.peak_live);
  }
  for (const DecisionReport& d : report.decisions) {
    record.decisions.push_back(
        {d.step, d.kind, d.reason, fmt::format("{}", fmt::join(d.partition, " ")),
         fmt::format("{}", fmt::join(d.ranks, " ")), d.micro_batches, d.present_step_s,
         d.expected_step_s, d.expected_cost_s, d.applied, d.refusal, d.migration_s, d.moved_bytes});
  }
  for (std::size_t l = 0; l < report.layer_costs.size(); ++l) {
    const LayerCost& cost = report.layer_costs[l];
    const int layer = static_cast<int>(l);
    const int stage = layer < report.partition.layers() ? report.partition.stage_of(layer) : -1;
    record.layers.push_back({layer, stage, cost.name, cost.parameters, cost.forward_s,
                             cost.input_grad_s, cost.weight_grad_s});
  }
}

void add_figures(RunRow& row, const RunRecord& record, const TrainReport& report) {
  const MedianInterval interval = median_interval(record.values_of("step_s", true), kConfidence);
  row.median_step_s = interval.median;
  row.ci_low_s = interval.low;
  row.ci_high_s = interval.high;
  row.confidence = interval.confidence;
  row.tokens_per_s = static_cast<double>(report.tokens_per_step) / row.median_step_s;
  row.mfu = or_none(report.mfu, report.mfu >= 0);
  if (!report.steps.empty()) {
    row.first_loss = report.steps.front().loss;
    row.last_loss = report.steps.back().loss;
  }
  row.validation_loss = or_none(report.validation_loss, report.validation_loss >= 0);
  row.bigram_validation_loss =
      or_none(report.bigram_validation_loss, report.bigram_validation_loss >= 0);
  if (report.timeline.ranks.empty()) return;
  row.makespan_s = report.timeline.makespan_s();
  row.bubble_ratio = report.timeline.bubble_ratio();
  row.span_bubble_rate = report.timeline.span_bubble_rate();
  row.predicted_makespan_s = report.predicted_makespan_s;
  row.predicted_bubble_ratio = report.predicted_bubble_ratio;
  row.makespan_error = row.predicted_makespan_s / row.makespan_s - 1;
  row.bubble_ratio_error = row.predicted_bubble_ratio - row.bubble_ratio;
  row.idle_fill_drain = report.idle.total.fill_drain;
  row.idle_imbalance = report.idle.total.imbalance;
  row.idle_exposed_communication = report.idle.total.exposed_communication;
  row.idle_overhead = report.idle.total.overhead;
}
}  // namespace

RecordHeader make_header(const std::string& command_line, const std::string& environment) {
  RecordHeader header;
  header.uuid = new_uuid();
  header.created = utc_now();
  header.command_line = command_line;
  header.git_hash = git_hash();
  header.git_dirty = git_dirty();
  header.environment = environment;
  return header;
}

RunRecord make_run_record(const RunConfig& config, const TrainReport& report,
                          double ranks_per_core) {
  RunRecord record;
  record.configuration = canonical_toml(config);
  RunRow& row = record.row;
  row.uuid = new_uuid();
  row.created = utc_now();
  row.schedule = report.schedule;
  row.balancer = report.balancer;
  row.backend = report.backend;
  row.transport = report.transport;
  row.ranks = report.ranks;
  row.pipeline = config.parallel.pipeline;
  row.data = config.parallel.data;
  row.expert = config.parallel.expert;
  row.micro_batches = report.micro_batches;
  row.stages = report.stages;
  row.preset = config.model.preset;
  row.layers = config.model.layers;
  row.channels = config.model.channels;
  row.heads = config.model.heads;
  row.context = config.model.context;
  row.vocabulary = config.model.vocabulary;
  row.parameters = report.parameters;
  row.tokens_per_step = report.tokens_per_step;
  row.steps = config.train.steps;
  row.steps_done = static_cast<int>(report.steps.size());
  row.seed = static_cast<std::int64_t>(config.train.seed);
  row.evidence = to_string(report.evidence);
  row.ranks_per_core = ranks_per_core;
  row.complete = report.complete;
  row.failure = report.failure;
  row.valid = report.valid && report.complete;
  row.invalid_reason = report.invalid_reason;
  if (!report.complete && row.invalid_reason.empty())
    row.invalid_reason = "the run is not complete";
  add_samples(record, report);
  add_tables(record, report);
  add_figures(row, record, report);
  row.model_flops_per_s = row.tokens_per_s * config.model.flops_per_token();
  return record;
}

Timeline timeline_of(const std::vector<TimelineRow>& rows) {
  Timeline timeline;
  for (const TimelineRow& row : rows) {
    check(row.rank >= 0 && row.rank < 1 << 20, "rank {} in a timeline", row.rank);
    if (timeline.ranks.size() <= static_cast<std::size_t>(row.rank)) {
      timeline.ranks.resize(static_cast<std::size_t>(row.rank) + 1);
    }
    TimedAction timed{parse_action(row.action), row.start_s, row.end_s, row.wait_s};
    timed.action.replica = static_cast<std::int8_t>(row.replica);
    timed.action.replica_b = static_cast<std::int8_t>(row.replica_b);
    timeline.ranks[static_cast<std::size_t>(row.rank)].push_back(timed);
  }
  return timeline;
}

}  // namespace pipemark
