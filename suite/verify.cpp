#include "suite/verify.hpp"

#include <algorithm>
#include <cmath>

#include "suite/config.hpp"
#include "suite/peers.hpp"
#include "suite/statistics.hpp"
#include "trainer/pace.hpp"

namespace pipemark {

namespace {
// Derived numbers are recomputed with the same arithmetic from stored doubles; what may differ is
// the order of a sum over at most some 1e5 actions: 1e5 x 2^-53 is 1e-11.
constexpr double kRelative = 1e-9;

class Verifier {
 public:
  Verifier(const Record& record, std::vector<std::string>& faults)
      : record_(record), faults_(faults) {}

  void verify(const RunRecord& run) {
    run_ = &run;
    check_names();
    check_configuration();
    check_samples();
    check_timeline();
    check_memory();
    check_validity();
    check_reference();
  }

 private:
  void fault(const std::string& member, const std::string& what) {
    faults_.push_back(fmt::format("/runs[{}].{} {}", run_->row.run, member, what));
  }
  void equal(const char* member, double stored, double derived, const char* source) {
    if (stored == derived || (std::isnan(stored) && std::isnan(derived))) return;
    const double scale = std::max({std::abs(stored), std::abs(derived), 1e-12});
    if (!(std::abs(stored - derived) <= kRelative * scale)) {
      fault(member, fmt::format("is {} but {} gives {}", stored, source, derived));
    }
  }
  void absolute(const char* member, double stored, double derived, const char* source) {
    if (std::isnan(stored) && std::isnan(derived)) return;
    if (!(std::abs(stored - derived) <= kRelative)) {
      fault(member, fmt::format("is {} but {} gives {}", stored, source, derived));
    }
  }

  bool is_peer() const { return run_->row.role == kPeerRole; }

  void check_names() {
    const RunRow& r = run_->row;
    static const std::vector<std::string> roles = {"train", "cell", "reference", kPeerRole};
    static const std::vector<std::string> levels = {"measured", "paced", "simulated",
                                                    "oversubscribed", ""};
    if (std::find(roles.begin(), roles.end(), r.role) == roles.end()) {
      fault("role", fmt::format("is \"{}\"", r.role));
    }
    if (std::find(levels.begin(), levels.end(), r.evidence) == levels.end() ||
        (r.complete && r.evidence.empty())) {
      fault("evidence", fmt::format("is \"{}\"", r.evidence));
    }
    if (!r.complete && r.failure.empty()) fault("failure", "is empty but the run is not complete");
  }

  void check_configuration() {
    const RunRow& r = run_->row;
    RunConfig config;
    try {
      config = parse_canonical(run_->configuration, "/configurations");
    } catch (const UserError& error) {
      fault("configuration", fmt::format("cannot be read: {}", error.what()));
      return;
    }
    has_experts_ = config.model.has_experts();
    const auto same = [&](const char* member, auto stored, auto configured) {
      if (stored != configured) {
        fault(member, fmt::format("is {} but /configurations says {}", stored, configured));
      }
    };
    same("pipeline", r.pipeline, config.parallel.pipeline);
    same("data", r.data, config.parallel.data);
    same("layers", r.layers, config.model.layers);
    same("channels", r.channels, config.model.channels);
    same("context", r.context, config.model.context);
    same("vocabulary", r.vocabulary, config.model.vocabulary);
    same("steps", r.steps, config.train.steps);
    if (r.steps_done == 0) return;
    same("ranks", r.ranks, config.parallel.ranks());
    same("micro_batches", r.micro_batches, config.train.micro_batches);
    same("parameters", r.parameters, config.model.parameters());
    same("tokens_per_step", r.tokens_per_step,
         static_cast<std::int64_t>(config.train.batch) * config.model.context);
    equal("model_flops_per_s", r.model_flops_per_s, r.tokens_per_s * config.model.flops_per_token(),
          "tokens_per_s x FLOPs of a token");
  }

  void check_samples() {
    const RunRow& r = run_->row;
    for (const auto& [metric, unit, of_experts] : sample_metrics()) {
      const auto count = run_->values_of(metric).size();
      if (is_peer() && count == 0 && std::string(metric) != "step_s") continue;
      const bool none = of_experts && !has_experts_;
      if (count != (none ? 0 : static_cast<std::size_t>(r.steps_done))) {
        fault("steps_done",
              fmt::format("is {} but /samples has {} of {}", r.steps_done, count, metric));
      }
    }
    if (r.complete && r.steps_done != r.steps) {
      fault("complete", fmt::format("is true after {} of {} steps", r.steps_done, r.steps));
    }
    if (r.steps_done == 0) return;
    const MedianInterval step = median_interval(run_->values_of("step_s", true), 0.95);
    equal("median_step_s", r.median_step_s, step.median, "/samples step_s");
    equal("ci_low_s", r.ci_low_s, step.low, "/samples step_s");
    equal("ci_high_s", r.ci_high_s, step.high, "/samples step_s");
    equal("confidence", r.confidence, step.confidence, "/samples step_s");
    equal("tokens_per_s", r.tokens_per_s, static_cast<double>(r.tokens_per_step) / r.median_step_s,
          "tokens_per_step / median_step_s");
    double overruns = 0;
    for (const double value : run_->values_of("overruns")) overruns += value;
    equal("overruns", static_cast<double>(r.overruns), overruns, "/samples overruns");
    const auto losses = run_->values_of("loss");
    if (losses.empty()) return;
    equal("first_loss", r.first_loss, losses.front(), "/samples loss");
    equal("last_loss", r.last_loss, losses.back(), "/samples loss");
    if (losses.size() != run_->losses.size()) {
      fault("steps_done", fmt::format("is {} but /loss/{} has {} rows", r.steps_done, r.run,
                                      run_->losses.size()));
      return;
    }
    for (std::size_t i = 0; i < losses.size(); ++i) {
      if (losses[i] != run_->losses[i].loss &&
          !(std::isnan(losses[i]) && std::isnan(run_->losses[i].loss))) {
        faults_.push_back(fmt::format("/loss/{}[{}].loss is {} but /samples loss gives {}", r.run,
                                      i, run_->losses[i].loss, losses[i]));
      }
    }
  }

  void check_timeline() {
    const RunRow& r = run_->row;
    if (run_->timeline.empty()) {
      for (const double value : {r.bubble_ratio, r.makespan_s, r.span_bubble_rate}) {
        if (!std::isnan(value)) fault("bubble_ratio", "is given but there is no timeline");
      }
      if (r.complete && r.valid && !is_peer()) fault("valid", "is true without a timeline");
      return;
    }
    try {
      const Timeline timeline = timeline_of(run_->timeline);
      if (static_cast<int>(timeline.ranks.size()) != r.pipeline) {
        fault("pipeline", fmt::format("is {} but /timeline/{} has {} ranks", r.pipeline, r.run,
                                      timeline.ranks.size()));
      }
      for (const auto& rank : timeline.ranks) {
        for (std::size_t i = 0; i < rank.size(); ++i) {
          if (!(rank[i].end_s >= rank[i].start_s) ||
              (i > 0 && rank[i].start_s < rank[i - 1].end_s - 1e-6)) {
            fault("makespan_s", fmt::format("rests on /timeline/{}, where an action overlaps its "
                                            "predecessor or ends before it starts",
                                            r.run));
          }
        }
      }
      equal("makespan_s", r.makespan_s, timeline.makespan_s(), "/timeline");
      absolute("bubble_ratio", r.bubble_ratio, timeline.bubble_ratio(), "/timeline");
      absolute("span_bubble_rate", r.span_bubble_rate, timeline.span_bubble_rate(), "/timeline");
      const Timeline predicted = timeline_of(run_->predicted_timeline);
      equal("predicted_makespan_s", r.predicted_makespan_s, predicted.makespan_s(),
            "/predicted_timeline");
      absolute("predicted_bubble_ratio", r.predicted_bubble_ratio, predicted.bubble_ratio(),
               "/predicted_timeline");
    } catch (const UserError& error) {
      fault("timeline", fmt::format("cannot be read: {}", error.what()));
      return;
    }
    check_idle();
    absolute("bubble_ratio_error", r.bubble_ratio_error, r.predicted_bubble_ratio - r.bubble_ratio,
             "predicted - shown");
    absolute("makespan_error", r.makespan_error, r.predicted_makespan_s / r.makespan_s - 1,
             "predicted / shown - 1");
    absolute("idle_*",
             r.idle_fill_drain + r.idle_imbalance + r.idle_exposed_communication + r.idle_overhead,
             r.bubble_ratio, "bubble_ratio, to which the causes must add up,");
  }

  /// The causes of a run are the mean of its ranks'.
  void check_idle() {
    const RunRow& r = run_->row;
    IdleRow mean;
    for (const IdleRow& row : run_->idle) {
      const double share = 1.0 / static_cast<double>(run_->idle.size());
      mean.fill_drain += share * row.fill_drain;
      mean.imbalance += share * row.imbalance;
      mean.exposed_communication += share * row.exposed_communication;
      mean.overhead += share * row.overhead;
    }
    absolute("idle_fill_drain", r.idle_fill_drain, mean.fill_drain, "/idle");
    absolute("idle_imbalance", r.idle_imbalance, mean.imbalance, "/idle");
    absolute("idle_exposed_communication", r.idle_exposed_communication, mean.exposed_communication,
             "/idle");
    absolute("idle_overhead", r.idle_overhead, mean.overhead, "/idle");
  }

  void check_memory() {
    const RunRow& r = run_->row;
    std::int64_t arena = 0, resident = 0;
    int live = 0;
    for (const MemoryRow& row : run_->memory) {
      arena = std::max(arena, row.arena_bytes);
      resident = std::max(resident, row.peak_resident_bytes);
      live = std::max(live, row.peak_live);
    }
    const auto same = [&](const char* member, std::int64_t stored, std::int64_t derived) {
      if (stored != derived)
        fault(member, fmt::format("is {} but /memory gives {}", stored, derived));
    };
    same("peak_arena_bytes", r.peak_arena_bytes, arena);
    same("peak_resident_bytes", r.peak_resident_bytes, resident);
    same("peak_live", r.peak_live, live);
    if (r.complete && static_cast<int>(run_->memory.size()) != r.ranks) {
      fault("ranks",
            fmt::format("is {} but /memory/{} has {} rows", r.ranks, r.run, run_->memory.size()));
    }
  }

  void check_validity() {
    const RunRow& r = run_->row;
    if (!r.valid) {
      if (r.invalid_reason.empty()) fault("invalid_reason", "is empty but the run is not valid");
      return;
    }
    const auto refuse = [&](const std::string& why) { fault("valid", "is true but " + why); };
    if (!r.complete) refuse("the run is not complete");
    if (r.evidence == "oversubscribed") refuse("its ranks shared cores and were not paced");
    if (r.evidence == "measured" && !(r.ranks_per_core <= 1)) {
      refuse(fmt::format("it is measured with {} ranks a core", r.ranks_per_core));
    }
    for (const LossRow& row : run_->losses) {
      if (!std::isfinite(row.loss))
        refuse(fmt::format("the loss of step {} is not finite", row.step));
    }
    const auto actions = static_cast<double>(run_->timeline.size()) * r.data * r.steps_done;
    if (r.evidence == "paced" && static_cast<double>(r.overruns) > kMaxOverrunFraction * actions) {
      refuse(fmt::format("{} of {} paced actions overran", r.overruns, actions));
    }
  }

  void check_reference() {
    const RunRow& r = run_->row;
    if (r.reference_run < 0) return;
    if (r.reference_run >= static_cast<int>(record_.runs.size()) ||
        record_.runs[static_cast<std::size_t>(r.reference_run)].row.role != "reference") {
      fault("reference_run", fmt::format("is {}, which is no reference run", r.reference_run));
      return;
    }
    const auto& reference = record_.runs[static_cast<std::size_t>(r.reference_run)];
    const double error = reference_loss_error(run_->losses, reference.losses, r.loss_tolerance);
    equal("reference_loss_error", r.reference_loss_error, error, "/loss");
    if (r.valid && !(error <= 1)) fault("valid", "is true but its losses are not the reference's");
  }

  const Record& record_;
  std::vector<std::string>& faults_;
  const RunRecord* run_ = nullptr;
  bool has_experts_ = false;
};
}  // namespace

std::vector<std::string> verify_record(const Record& record) {
  std::vector<std::string> faults;
  if (record.runs.empty()) faults.push_back("/runs is empty");
  Verifier verifier(record, faults);
  for (const RunRecord& run : record.runs) verifier.verify(run);
  return faults;
}

double reference_loss_error(const std::vector<LossRow>& losses,
                            const std::vector<LossRow>& reference, double tolerance) {
  if (losses.size() != reference.size() || losses.empty()) {
    return std::numeric_limits<double>::infinity();
  }
  double worst = 0;
  for (std::size_t i = 0; i < losses.size(); ++i) {
    const double bound = tolerance * (1 + static_cast<double>(i)) * std::abs(reference[i].loss);
    const double error = std::abs(losses[i].loss - reference[i].loss) / bound;
    if (!(error <= worst))
      worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
  }
  return worst;
}

}  // namespace pipemark
