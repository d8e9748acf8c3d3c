// What a run tells: the steps' figures, the median step's timeline with its idle time by cause, the
// prediction beside it, memory by rank, and whether the figures may be shown at all.
#include <sys/resource.h>

#include <algorithm>
#include <cmath>

#include "schedules/analysis.hpp"
#include "schedules/simulate.hpp"
#include "trainer/trainer_impl.hpp"

namespace pipemark {

namespace {
/// Steps at the start that count as warm-up in timings: first touch of memory, caches, code.
constexpr int kTimingWarmUpSteps = 2;

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

std::int64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::int64_t>(usage.ru_maxrss) * 1024;
}
}  // namespace

std::string to_string(Evidence evidence) {
  switch (evidence) {
    case Evidence::measured:
      return "measured";
    case Evidence::paced:
      return "paced";
    case Evidence::simulated:
      return "simulated";
    case Evidence::invalid_timing:
      return "oversubscribed";
  }
  return "unknown";
}

TrainReport Trainer::Impl::start_report() {
  TrainReport report;
  report.schedule = plan_.schedule.name;
  report.balancer = config_.balancer.name;
  report.backend = ops_->name();
  report.transport = transport_ ? transport_->name() : "none";
  report.ranks = cluster_.size();
  report.data = config_.parallel.data;
  report.micro_batches = plan_.shape.micro_batches;
  report.stages = plan_.schedule.placement.stages;
  report.evidence = paced_                      ? Evidence::paced
                    : cluster_.oversubscribed() ? Evidence::invalid_timing
                                                : Evidence::measured;
  report.partition = plan_.partition;
  report.layer_costs = layer_costs_;
  report.parameters = config_.model.parameters();
  report.tokens_per_step = plan_.shape.batch_tokens;
  return report;
}

TrainReport Trainer::Impl::fit(const StepCallback& after_step) {
  TrainReport report = start_report();
  kept_.clear();
  actions_ = overruns_ = 0;
  const int warm_up = std::min(kTimingWarmUpSteps, config_.train.steps - 1);
  for (int step = 0; step < config_.train.steps; ++step) {
    if (paced_ && pace_->changes_at(step)) set_pace(step);
    report.steps.push_back(train_step(step));
    report.steps.back().warmup = step < warm_up;
    if (after_step && cluster_.rank() == 0) after_step(report);
    if (balancing_ && step + 1 < config_.train.steps) rebalance(report);
  }
  finish_report(report);
  return report;
}

void Trainer::Impl::finish_report(TrainReport& report) {
  report.validation_loss = validate_model();
  if (report.validation_loss >= 0 && cluster_.rank() == 0) {
    report.bigram_validation_loss = data_.bigram_validation_loss();
  }
  add_rates(report);
  add_timeline(report);
  add_rank_reports(report);
  judge(report);
  report.complete = true;
}

void Trainer::Impl::add_rates(TrainReport& report) const {
  std::vector<double> times;
  for (const StepReport& step : report.steps) {
    if (!step.warmup) times.push_back(step.step_s);
  }
  report.median_step_s = median(times);
  if (report.median_step_s > 0) {
    report.tokens_per_s = static_cast<double>(report.tokens_per_step) / report.median_step_s;
    report.model_flops_per_s = report.tokens_per_s * config_.model.flops_per_token();
  }
}

std::int64_t Trainer::Impl::median_step(const TrainReport& report) const {
  // Of the steps that every rank kept, the one nearest to the median, warm-up left out. After a
  // change of plan they are the last plan's.
  std::int64_t best = -1;
  double distance = 0;
  for (std::size_t i = 0; i < kept_.size(); ++i) {
    const auto at = static_cast<std::size_t>(kept_[i].step);
    if (at >= report.steps.size()) break;
    const StepReport& step = report.steps[at];
    const double off = std::abs(step.step_s - report.median_step_s);
    if (!step.warmup && (best < 0 || off < distance)) {
      best = static_cast<std::int64_t>(i);
      distance = off;
    }
  }
  return best;
}

void Trainer::Impl::add_timeline(TrainReport& report) {
  // All ranks have the same figures, so all choose the same step; pipeline 0 shows its timeline.
  const double kept = cluster_.world().allreduce_min(static_cast<double>(kept_.size()));
  kept_.resize(static_cast<std::size_t>(kept));
  const std::int64_t shown = median_step(report);
  if (shown < 0) return;
  const ActionTimes& times = kept_[static_cast<std::size_t>(shown)].times;
  report.timeline = gather_timeline(grid_.pipeline, times, clock_offset_s_);
  if (cluster_.rank() != 0) return;
  const CostModel cost =
      paced_ ? pace_cost_ : cost_from_timeline(plan_.schedule, report.timeline, message_s_);
  Simulation predicted = simulate(plan_.schedule, cost, true);
  report.predicted_bubble_ratio = predicted.bubble_ratio;
  report.predicted_makespan_s = predicted.makespan;
  report.predicted_timeline = std::move(predicted.timeline);
  report.idle = analyze_ranks(plan_.schedule, report.timeline, cost);
}

void Trainer::Impl::add_rank_reports(TrainReport& report) {
  const auto hosts = cluster_.world().gather(cluster_.host());
  const auto devices = cluster_.world().gather(device_label_);
  std::int64_t parameters = 0;
  for (const auto& stage : pieces_->stages) parameters += stage->parameters().count();
  const std::vector<double> mine{
      static_cast<double>(pieces_->arena.used_bytes()), static_cast<double>(peak_resident_bytes()),
      static_cast<double>(peak_live_), static_cast<double>(predicted_peak_live_),
      static_cast<double>(parameters)};
  const auto figures = cluster_.world().gather(std::span<const double>(mine));
  for (std::size_t r = 0; r < figures.size(); ++r) {
    RankReport rank;
    rank.rank = static_cast<int>(r);
    rank.host = hosts[r];
    rank.device = devices[r];
    rank.arena_bytes = static_cast<std::int64_t>(figures[r][0]);
    rank.peak_resident_bytes = static_cast<std::int64_t>(figures[r][1]);
    rank.peak_live = static_cast<int>(figures[r][2]);
    rank.predicted_peak_live = static_cast<int>(figures[r][3]);
    rank.parameters = static_cast<std::int64_t>(figures[r][4]);
    report.rank_reports.push_back(std::move(rank));
  }
}

void Trainer::Impl::judge(TrainReport& report) const {
  const auto refuse = [&](std::string why) {
    report.valid = false;
    if (!report.invalid_reason.empty()) report.invalid_reason += "; ";
    report.invalid_reason += std::move(why);
  };
  for (const StepReport& step : report.steps) {
    if (!std::isfinite(step.loss)) {
      refuse(fmt::format("the loss of step {} is not finite", step.step));
      break;
    }
  }
  if (paced_ &&
      static_cast<double>(overruns_) > kMaxOverrunFraction * static_cast<double>(actions_)) {
    refuse(fmt::format("{} of {} paced actions overran their time, more than {:.0f} %", overruns_,
                       actions_, 100 * kMaxOverrunFraction));
  }
  if (report.evidence == Evidence::invalid_timing) {
    refuse(fmt::format("{:.1f} ranks a core and no pacing: timings do not count",
                       cluster_.ranks_per_core()));
  }
  for (const RankReport& rank : report.rank_reports) {
    if (rank.peak_live != rank.predicted_peak_live) {
      refuse(fmt::format("rank {} held {} live activations, predicted {}", rank.rank,
                         rank.peak_live, rank.predicted_peak_live));
    }
  }
}

}  // namespace pipemark
