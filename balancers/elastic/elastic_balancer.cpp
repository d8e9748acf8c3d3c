#include "balancers/elastic/elastic_balancer.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/check.hpp"

namespace pipemark {

namespace {
/// A policy learns on line from the last looks of this many, slowly: it must not forget its
/// training over one odd run.
constexpr std::size_t kMemory = 64;
constexpr double kOnlineRate = 1e-3;
/// Steps that a change is judged over; as in training.
constexpr double kHorizon = 100;
/// Standard errors of the loads that a gain must be above.
constexpr double kSure = 2;
/// Weight of a migration's time in what the next one is expected to take.
constexpr double kCostWeight = 0.5;
}  // namespace

ElasticBalancer::ElasticBalancer(PipelineSimulator simulator, PipelinePlan start,
                                 std::vector<double> factors, ElasticSettings settings,
                                 Policy policy)
    : simulator_(std::move(simulator)),
      plan_(std::move(start)),
      monitor_(std::move(factors)),
      settings_(settings),
      policy_(std::move(policy)) {}

void ElasticBalancer::watch(const StepObservation& seen) {
  std::vector<LoadMonitor::Sample> samples;
  for (const StageTimes& stage : seen.stages) {
    const double expected = stage.micro_batches * simulator_.stage_s(plan_, stage.stage);
    if (!(expected > 0) || !(stage.total_s() > 0)) continue;
    samples.push_back({stage.rank, stage.replica, stage.stage, stage.total_s() / expected, expected,
                       stage.wait_s});
  }
  monitor_.observe(samples, seen.memory_bytes);
  for (const LoadChange& change : monitor_.changes()) {
    ++alarms_;
    last_change_ = step_;
    change_ = change;
    if (change.cause != ChangeCause::stage) continue;
    auto& layers = simulator_.model().layers;  // the layers are slower, whoever holds them
    for (int l = plan_.partition.first[static_cast<std::size_t>(change.stage)];
         l < plan_.partition.first[static_cast<std::size_t>(change.stage) + 1]; ++l) {
      LayerLoad& load = layers[static_cast<std::size_t>(l)];
      for (StageCost* cost : {&load.sequence, &load.fixed}) {
        cost->forward *= change.factor;
        cost->input_grad *= change.factor;
        cost->weight_grad *= change.factor;
      }
    }
    monitor_.explain(change.stage, change.factor);
  }
}

bool ElasticBalancer::due() const {
  return step_ - last_change_ < kLooks || step_ == kLooks - 1 || step_ % kInterval == kInterval - 1;
}

void ElasticBalancer::look_at_options() {
  look_ = {};
  look_.options = candidates(simulator_, plan_, monitor_.factors());
  std::erase_if(look_.options, [&](const Candidate& option) {
    return std::find(refused_.begin(), refused_.end(), option.plan) != refused_.end();
  });
  const double stay_s = look_.options.front().step_s;
  double error = 0;
  for (const int rank : plan_.ranks) error = std::max(error, monitor_.error(rank));
  double best = 0;
  for (std::size_t i = 0; i < look_.options.size(); ++i) {
    const Candidate& option = look_.options[i];
    CandidateView view;
    view.gain = 1 - option.step_s / stay_s;
    view.cost_steps = option.cost_s / stay_s;
    view.remaining = static_cast<double>(std::max<std::int64_t>(0, settings_.steps - step_ - 1));
    view.gain_error = error;
    view.noise = monitor_.noise();
    view.since_change = static_cast<double>(step_ - last_change_);
    view.since_move = static_cast<double>(step_ - last_move_);
    view.layers_moved = static_cast<double>(option.layers_moved) / plan_.partition.layers();
    view.evicts = option.plan.ranks.size() < plan_.ranks.size();
    view.changes_micro_batches = option.plan.micro_batches != plan_.micro_batches;
    look_.features.push_back(features_of(view));
    // What is no faster by more than the loads' error saves nothing: no network is asked.
    if (i == 0 || view.gain <= kSure * view.gain_error) continue;
    const double saving = policy_.saving(look_.features.back());
    if (saving > best) {
      best = saving;
      look_.chosen = static_cast<int>(i);
    }
  }
}

std::optional<Decision> ElasticBalancer::after_step(const StepObservation& seen) {
  step_ = seen.step;
  look_ = {};
  watch(seen);
  if (settings_.model_update_freq > 0 && (step_ + 1) % settings_.model_update_freq == 0) {
    update_policy();
  }
  if (!due()) return {};
  look_at_options();
  return decide(look_.chosen);
}

std::optional<Decision> ElasticBalancer::decide(int index) {
  look_.chosen = index;
  if (settings_.model_update_freq > 0 && look_.options.size() > 1) {
    std::size_t other = index > 0 ? static_cast<std::size_t>(index) : 1;
    for (std::size_t i = 1; index == 0 && i < look_.options.size(); ++i) {
      if (look_.options[i].step_s < look_.options[other].step_s) other = i;
    }
    if (memory_.size() == kMemory) memory_.erase(memory_.begin());
    memory_.push_back({step_, plan_, look_.options[other].plan, look_.features[other],
                       look_.options[other].cost_s});
  }
  if (index == 0) return {};
  const Candidate& option = look_.options[static_cast<std::size_t>(index)];
  return Decision{
      option.plan,  option.kind, reason(option), option.step_s, look_.options.front().step_s,
      option.cost_s};
}

std::string ElasticBalancer::reason(const Candidate& option) const {
  const double saved = 100 * (1 - option.step_s / look_.options.front().step_s);
  if (step_ - last_change_ >= kLooks) {
    return fmt::format("the devices as they are: a step {:.1f} % shorter", saved);
  }
  return fmt::format(
      "rank {}, stage {}: {:.2f} times as long, the {}'s change; a step {:.1f} % "
      "shorter",
      change_.rank, change_.stage, change_.factor, to_string(change_.cause), saved);
}

void ElasticBalancer::applied(const Decision& decision, double migration_s) {
  if (decision.expected_cost_s > 0 && migration_s > 0) {
    const double ratio = migration_s / decision.expected_cost_s;
    PipelineModel& model = simulator_.model();
    const double scale = 1 + kCostWeight * (ratio - 1);
    model.migration_fixed_s *= scale;
    model.migration_bytes_per_s /= scale;
  }
  plan_ = decision.plan;
  monitor_.plan_changed();
  last_move_ = step_;
  ++moves_;
}

void ElasticBalancer::refused(const Decision& decision, const std::string&) {
  refused_.push_back(decision.plan);
}

void ElasticBalancer::update_policy() {
  std::vector<Policy::Sample> batch;
  for (const Memory& look : memory_) {
    const double stay_s = simulator_.step_s(look.stay, monitor_.factors());
    const double other_s = simulator_.step_s(look.other, monitor_.factors());
    const double lasting = std::min(kHorizon, static_cast<double>(settings_.steps - look.step - 1));
    batch.push_back({look.features, ((stay_s - other_s) * lasting - look.cost_s) / stay_s});
  }
  if (!batch.empty()) policy_.learn(batch, kOnlineRate);
}

}  // namespace pipemark
