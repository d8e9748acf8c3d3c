// Training and judging the elastic policy. A round plays episodes with the policy of the round
// before; at some looks it plays the rest twice, once staying and once with one of the options,
// both with the same trace and the same policy afterwards: the difference is what that option
// saved. The policy then learns these savings (fitted policy iteration with Monte-Carlo returns).
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "balancers/elastic/environment.hpp"

namespace pipemark {

struct TrainingOptions {
  std::uint64_t seed = 1;
  int rounds = 3;
  int episodes = 250;  ///< of a round
  int looks = 6;       ///< of an episode that are played out
  int horizon = 100;   ///< steps that they are played for
  int epochs = 60;
};

struct TrainingRound {
  int round = 0, samples = 0;
  double loss_before = 0, loss = 0;  ///< Huber of asinh(saving), on the round's samples
  double excess = 0;                 ///< validation: mean of total / hindsight - 1
};

/// The policy of the round with the least excess on validation episodes (their seeds are neither
/// training's nor the held-out ones). The same for the same options on every machine with the same
/// arithmetic. `told` hears each round.
Policy train_policy(const TrainingOptions& options,
                    const std::function<void(const TrainingRound&)>& told);

/// One held-out episode; seconds of the whole run.
struct Verdict {
  std::uint64_t seed = 0;
  TraceKind kind = TraceKind::quiet;
  bool homogeneous = false;
  double even_s = 0, cost_s = 0, start_s = 0, greedy_s = 0, elastic_s = 0, hindsight_s = 0;
  int elastic_moves = 0, greedy_moves = 0, alarms = 0;
};
/// static-even, static-cost (both blind to the devices), the start plan kept, greedy, elastic and
/// hindsight on one episode.
Verdict judge(std::uint64_t seed, TraceKind kind, bool homogeneous, const Policy& policy,
              int model_update_freq);

/// Seeds of held-out episodes start here; training draws below.
inline constexpr std::uint64_t kHeldOutSeed = 1u << 30;
/// `count` of each kind of trace, and as many homogeneous quiet ones.
std::vector<Verdict> judge_held_out(int count, const Policy& policy, int model_update_freq = 20);

}  // namespace pipemark
