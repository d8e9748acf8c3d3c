#include "balancers/elastic/training.hpp"

#include <algorithm>
#include <random>

#include "balancers/static.hpp"
#include "kernels/check.hpp"

namespace pipemark {

namespace {
constexpr TraceKind kKinds[] = {TraceKind::quiet, TraceKind::step, TraceKind::drift,
                                TraceKind::failure, TraceKind::mixed};
constexpr std::uint64_t kValidationSeed = 1u << 29;
constexpr int kValidationEpisodes = 4;  ///< of each kind
constexpr std::size_t kBatch = 64;

/// What option `index` saves against staying, in step times, both followed by the policy.
double played_out(const Episode& episode, const ElasticBalancer& at, int index, int step,
                  int horizon) {
  const int last = std::min(episode.steps(), step + 1 + horizon);
  const auto play = [&](int choice) {
    ElasticBalancer balancer = at;
    double total = 0;
    if (const auto decision = balancer.decide(choice)) {
      const double cost = episode.simulator.migration_s(balancer.plan(), decision->plan);
      balancer.applied(*decision, cost);
      total = cost;
    }
    const PipelinePlan plan = balancer.plan();
    return total + run_episode(episode, plan, &balancer, step + 1, last).total_s;
  };
  return (play(0) - play(index)) / at.look().options.front().step_s;
}

/// Plays one episode and adds samples from up to `looks` of its looks.
void sample_episode(const Episode& episode, const Policy& policy, const TrainingOptions& options,
                    std::mt19937_64& random, std::vector<Policy::Sample>& samples) {
  ElasticBalancer balancer = elastic_for(episode, policy, 0);
  PipelinePlan plan = episode.start;
  int left = options.looks;
  for (int step = 0; step + 1 < episode.steps(); ++step) {
    auto decision = balancer.after_step(observation_of(episode, plan, step));
    const auto& look = balancer.look();
    // Looks right after a change are few and matter most; of the others one in four.
    const bool recent = !balancer.monitor().changes().empty();
    if (look.options.size() > 1 && left > 0 && (recent || random() % 4 == 0)) {
      --left;
      const auto index = 1 + static_cast<int>(random() % (look.options.size() - 1));
      samples.push_back({look.features[static_cast<std::size_t>(index)],
                         played_out(episode, balancer, index, step, options.horizon)});
      if (random() % 4 == 0) decision = balancer.decide(index);  // see more than the policy does
    }
    if (!decision) continue;
    plan = decision->plan;
    balancer.applied(*decision, episode.simulator.migration_s(balancer.plan(), plan));
  }
}

double validate(const Policy& policy) {
  double excess = 0;
  int count = 0;
  for (const TraceKind kind : kKinds) {
    for (int i = 0; i < kValidationEpisodes; ++i) {
      const auto seed = kValidationSeed + static_cast<std::uint64_t>(i);
      const Verdict verdict = judge(seed, kind, false, policy, 0);
      excess += verdict.elastic_s / verdict.hindsight_s - 1;
      ++count;
    }
  }
  return excess / count;
}

void fit(Policy& policy, std::vector<Policy::Sample> samples, const TrainingOptions& options,
         std::mt19937_64& random) {
  for (int epoch = 0; epoch < options.epochs; ++epoch) {
    for (std::size_t i = samples.size(); i > 1; --i)
      std::swap(samples[i - 1], samples[random() % i]);
    const double rate = 5e-3 * (1 - 0.9 * epoch / options.epochs);
    for (std::size_t i = 0; i < samples.size(); i += kBatch) {
      const auto end = std::min(samples.size(), i + kBatch);
      policy.learn({samples.begin() + static_cast<std::ptrdiff_t>(i),
                    samples.begin() + static_cast<std::ptrdiff_t>(end)},
                   rate);
    }
  }
}
}  // namespace

Policy train_policy(const TrainingOptions& options,
                    const std::function<void(const TrainingRound&)>& told) {
  Policy policy(options.seed), best = policy;
  double least = 0;
  std::vector<std::string> history;
  std::mt19937_64 random(options.seed);
  std::vector<Policy::Sample> samples;
  history.push_back(fmt::format("elastic policy: seed {}, {} rounds of {} episodes", options.seed,
                                options.rounds, options.episodes));
  for (int round = 0; round < options.rounds; ++round) {
    std::vector<Policy::Sample> fresh;
    for (int e = 0; e < options.episodes; ++e) {
      const auto seed = static_cast<std::uint64_t>(round * options.episodes + e) +
                        (options.seed << 20) % kValidationSeed;
      const TraceKind kind = kKinds[e % std::size(kKinds)];
      sample_episode(random_episode(seed, kind, {300, e % 7 == 6}), policy, options, random, fresh);
    }
    // Returns of an older policy still say much: only the first, untrained one's are dropped.
    if (round == 1) samples.clear();
    samples.insert(samples.end(), fresh.begin(), fresh.end());
    TrainingRound told_round{round, static_cast<int>(fresh.size()), policy.loss(fresh), 0, 0};
    fit(policy, samples, options, random);
    told_round.loss = policy.loss(fresh);
    told_round.excess = validate(policy);
    history.push_back(fmt::format(
        "round {}: {} samples, loss {:.4f} -> {:.4f}, validation {:.2f} % over hindsight", round,
        told_round.samples, told_round.loss_before, told_round.loss, 100 * told_round.excess));
    if (round == 0 || told_round.excess < least) {
      best = policy;
      least = told_round.excess;
    }
    told(told_round);
  }
  best.history = std::move(history);
  return best;
}

Verdict judge(std::uint64_t seed, TraceKind kind, bool homogeneous, const Policy& policy,
              int model_update_freq) {
  const Episode episode = random_episode(seed, kind, {300, homogeneous});
  Verdict verdict{seed, kind, homogeneous, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  const auto& model = episode.simulator.model();
  const std::vector<double> blind(static_cast<std::size_t>(model.ranks), 1.0);
  PipelinePlan even = episode.start, by_cost = episode.start;
  even.partition = partition_even(static_cast<int>(model.layers.size()), model.ranks);
  by_cost.partition = episode.simulator.best_partition(by_cost.micro_batches, by_cost.ranks, blind);
  const auto kept = [&](const PipelinePlan& plan) {
    return run_episode(episode, plan, nullptr, 0, episode.steps()).total_s;
  };
  verdict.even_s = kept(even);
  verdict.cost_s = kept(by_cost.partition.first.empty() ? even : by_cost);
  verdict.start_s = kept(episode.start);
  GreedyBalancer greedy(episode);
  const Outcome of_greedy = run_episode(episode, &greedy);
  ElasticBalancer elastic = elastic_for(episode, policy, model_update_freq);
  const Outcome of_elastic = run_episode(episode, &elastic);
  verdict.greedy_s = of_greedy.total_s;
  verdict.elastic_s = of_elastic.total_s;
  verdict.greedy_moves = of_greedy.moves;
  verdict.elastic_moves = of_elastic.moves;
  verdict.alarms = elastic.alarms();
  std::vector<PipelinePlan> offered = of_elastic.visited;
  offered.insert(offered.end(), of_greedy.visited.begin(), of_greedy.visited.end());
  verdict.hindsight_s = hindsight_s(episode, offered);
  return verdict;
}

std::vector<Verdict> judge_held_out(int count, const Policy& policy, int model_update_freq) {
  std::vector<Verdict> verdicts;
  for (const TraceKind kind : kKinds) {
    for (int i = 0; i < count; ++i) {
      verdicts.push_back(judge(kHeldOutSeed + static_cast<std::uint64_t>(i), kind, false, policy,
                               model_update_freq));
    }
  }
  for (int i = 0; i < count; ++i) {
    verdicts.push_back(judge(kHeldOutSeed + static_cast<std::uint64_t>(i), TraceKind::quiet, true,
                             policy, model_update_freq));
  }
  return verdicts;
}

}  // namespace pipemark
