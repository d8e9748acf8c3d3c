// `pipemark balance elastic`: the elastic balancer against hindsight and the other balancers on
// held-out simulated clusters and traces. `pipemark balance train`: a new policy for it.
#include <CLI/CLI.hpp>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>

#include "balancers/elastic/training.hpp"
#include "kernels/check.hpp"
#include "suite/balance_command.hpp"
#include "suite/commands.hpp"
#include "suite/config.hpp"

namespace pipemark {

namespace {
/// What the shipped policy is to hold on held-out runs: mean of total time / hindsight.
constexpr double kWithin = 1.03;

Policy read_policy(const std::string& path) {
  if (path.empty()) return Policy::shipped();
  std::ifstream in(path);
  std::ostringstream text;
  if (!in || !(text << in.rdbuf())) {
    throw UserError(fmt::format("{}: cannot be read", path),
                    "give a file that pipemark balance train wrote");
  }
  return Policy::parse(text.str(), path);
}

/// Means over episodes of one kind, as multiples of hindsight.
struct Row {
  double even = 0, cost = 0, start = 0, greedy = 0, elastic = 0, worst = 0;
  double moves = 0, greedy_moves = 0, alarms = 0, episodes = 0;

  void add(const Verdict& v) {
    even += v.even_s / v.hindsight_s;
    cost += v.cost_s / v.hindsight_s;
    start += v.start_s / v.hindsight_s;
    greedy += v.greedy_s / v.hindsight_s;
    elastic += v.elastic_s / v.hindsight_s;
    worst = std::max(worst, v.elastic_s / v.hindsight_s);
    moves += v.elastic_moves;
    greedy_moves += v.greedy_moves;
    alarms += v.alarms;
    episodes += 1;
  }
  std::string text(const std::string& name) const {
    const double n = episodes;
    return fmt::format(
        "{:<12} {:>4} {:>12.3f} {:>12.3f} {:>10.3f} {:>8.3f} {:>9.4f} {:>7.3f} {:>7.2f} {:>8.2f} "
        "{:>7.2f}\n",
        name, episodes, even / n, cost / n, start / n, greedy / n, elastic / n, worst, moves / n,
        greedy_moves / n, alarms / n);
  }
};

struct JudgeOptions {
  int count = 10;
  std::string policy;
};

int run_judge(const JudgeOptions& options) {
  const std::vector<Verdict> verdicts = judge_held_out(options.count, read_policy(options.policy));
  std::map<std::string, Row> rows;
  Row all;
  double gain = 0;
  for (const Verdict& verdict : verdicts) {
    rows[verdict.homogeneous ? "homogeneous" : to_string(verdict.kind)].add(verdict);
    if (verdict.homogeneous) {
      gain = std::max(gain, std::abs(verdict.start_s - verdict.elastic_s) / verdict.start_s);
    } else {
      all.add(verdict);
    }
  }
  fmt::print(
      "total time / hindsight-optimal that pays the same migrations [simulated]\n"
      "{:<12} {:>4} {:>12} {:>12} {:>10} {:>8} {:>9} {:>7} {:>7} {:>8} {:>7}\n",
      "trace", "runs", "static-even", "static-cost", "start kept", "greedy", "elastic", "worst",
      "moves", "greedy's", "alarms");
  for (const auto& [name, row] : rows) fmt::print("{}", row.text(name));
  fmt::print("{}", all.text("all uneven"));
  fmt::print("homogeneous clusters: gain {:.4f} %\n", 100 * gain);
  const double mean = all.elastic / all.episodes;
  const bool good = mean <= kWithin && all.elastic < std::min({all.even, all.cost, all.greedy});
  fmt::print("elastic is {:.2f} % over hindsight (bound {:.0f} %): {}\n", 100 * (mean - 1),
             100 * (kWithin - 1), good ? "PASS" : "FAIL");
  return good ? kGood : kWrongResult;
}

struct TrainPolicyOptions {
  TrainingOptions training;
  std::string output;
};

int run_training(const TrainPolicyOptions& options) {
  check_writable(options.output);
  const Policy policy = train_policy(options.training, [](const TrainingRound& round) {
    fmt::print("round {}: {} samples, loss {:.4f} -> {:.4f}, validation {:.2f} % over hindsight\n",
               round.round, round.samples, round.loss_before, round.loss, 100 * round.excess);
    std::fflush(stdout);
  });
  std::ofstream out(options.output);
  if (!(out << policy.text())) {
    throw EnvironmentError(fmt::format("{}: cannot be written", options.output),
                           "is the disk full?");
  }
  fmt::print("{}: written; pipemark balance elastic --policy {} judges it\n", options.output,
             options.output);
  return kGood;
}
}  // namespace

void add_balance_elastic(CLI::App& balance, Invocation& invocation) {
  auto judge = std::make_shared<JudgeOptions>();
  CLI::App* command = balance.add_subcommand(
      "elastic", "Judges the elastic balancer on held-out simulated clusters and traces");
  command->add_option("--count", judge->count, "episodes of each kind of trace (10)")
      ->check(CLI::PositiveNumber);
  command->add_option("--policy", judge->policy, "a policy's file; without it the one built in");
  command->callback([=, &invocation] { invocation.run = [=] { return run_judge(*judge); }; });

  auto train = std::make_shared<TrainPolicyOptions>();
  command = balance.add_subcommand(
      "train", "Trains the elastic balancer's policy on simulated clusters and traces");
  command->add_option("-o,--output", train->output, "file of the policy")->required();
  command->add_option("--seed", train->training.seed, "of episodes and first weights (1)");
  command->add_option("--rounds", train->training.rounds, "each by the policy of the one before");
  command->add_option("--episodes", train->training.episodes, "of a round");
  command->callback([=, &invocation] { invocation.run = [=] { return run_training(*train); }; });
}

}  // namespace pipemark
