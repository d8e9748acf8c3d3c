// validate: completeness, place and order of every action; then memory; then whether it can run
// (schedules/deadlock.cpp).
#include "schedules/validate.hpp"

#include <algorithm>

#include "kernels/check.hpp"
#include "schedules/deadlock.hpp"
#include "schedules/text.hpp"

namespace pipemark {

namespace {

/// Where F, the backward (B or I) and W of one (stage, micro-batch) are; index -1: nowhere.
struct Found {
  int forward = -1, backward = -1, weight = -1;
  bool split = false;  // the backward is an I
};

/// One (stage, micro-batch) half of an action.
struct Half {
  Kind kind;
  int replica, stage, micro_batch;
};

std::vector<Half> halves_of(const Action& a) {
  if (a.kind != Kind::FB) return {{a.kind, a.replica, a.stage, a.micro_batch}};
  return {{Kind::F, a.replica, a.stage, a.micro_batch},
          {Kind::B, a.replica_b, a.stage_b, a.micro_batch_b}};
}

std::string name_of(const char* kind, int stage, int micro_batch) {
  return fmt::format("{}{}{}", stage, kind, micro_batch);
}

class Completeness {
 public:
  explicit Completeness(const Schedule& schedule)
      : schedule_(schedule),
        placement_(schedule.placement),
        found_(static_cast<std::size_t>(placement_.stages) * schedule.micro_batches),
        replica_of_(static_cast<std::size_t>(schedule.micro_batches), -1) {}

  std::vector<Fault> faults() {
    for (int rank = 0; rank < schedule_.rank_count(); ++rank) {
      const auto& row = schedule_.ranks[static_cast<std::size_t>(rank)];
      for (std::size_t i = 0; i < row.size(); ++i) {
        for (const Half& half : halves_of(row[i])) look_at(rank, static_cast<int>(i), half);
      }
    }
    for (int micro_batch = 0; micro_batch < schedule_.micro_batches; ++micro_batch) {
      if (replica_of_[static_cast<std::size_t>(micro_batch)] < 0) {
        add(-1, -1, fmt::format("micro-batch {} is missing altogether", micro_batch));
        continue;
      }
      for (int stage = 0; stage < placement_.stages; ++stage) look_for_missing(stage, micro_batch);
    }
    return std::move(faults_);
  }

 private:
  void add(int rank, int index, std::string what) {
    faults_.push_back({rank, index, std::move(what)});
  }
  Found& found(int stage, int micro_batch) {
    return found_[static_cast<std::size_t>(stage) * schedule_.micro_batches + micro_batch];
  }

  void look_at(int rank, int index, const Half& half) {
    if (half.stage < 0 || half.stage >= placement_.stages) {
      return add(rank, index, fmt::format("stage {} of {} stages", half.stage, placement_.stages));
    }
    if (half.micro_batch < 0 || half.micro_batch >= schedule_.micro_batches) {
      return add(rank, index,
                 fmt::format("micro-batch {} of {}", half.micro_batch, schedule_.micro_batches));
    }
    if (half.replica < 0 || half.replica >= placement_.replicas) {
      return add(rank, index, fmt::format("replica {} of {}", half.replica, placement_.replicas));
    }
    int& replica = replica_of_[static_cast<std::size_t>(half.micro_batch)];
    if (replica < 0) replica = half.replica;
    if (replica != half.replica) {
      return add(rank, index,
                 fmt::format("micro-batch {} runs through replica {} here and {} before",
                             half.micro_batch, half.replica, replica));
    }
    if (const int right = placement_.rank_of(half.replica, half.stage); right != rank) {
      return add(rank, index,
                 fmt::format("stage {} of replica {} is on rank {}, not {}", half.stage,
                             half.replica, right, rank));
    }
    place(rank, index, half);
  }

  void place(int rank, int index, const Half& half) {
    Found& at = found(half.stage, half.micro_batch);
    const auto doubled = [&](const char* kind, int first) {
      add(rank, index,
          fmt::format("{} is here a second time, the first is action {}",
                      name_of(kind, half.stage, half.micro_batch), first));
    };
    switch (half.kind) {
      case Kind::F:
        if (at.forward >= 0) return doubled("F", at.forward);
        at.forward = index;
        break;
      case Kind::B:
      case Kind::I:
        if (at.backward >= 0) return doubled(half.kind == Kind::B ? "B" : "I", at.backward);
        at.backward = index;
        at.split = half.kind == Kind::I;
        break;
      case Kind::W:
        if (at.weight >= 0) return doubled("W", at.weight);
        at.weight = index;
        break;
      case Kind::FB:
        break;  // halves_of() has taken it apart
    }
  }

  void look_for_missing(int stage, int micro_batch) {
    const Found& at = found(stage, micro_batch);
    const int rank = placement_.rank_of(replica_of_[static_cast<std::size_t>(micro_batch)], stage);
    const int end = static_cast<int>(schedule_.ranks[static_cast<std::size_t>(rank)].size());
    const auto name = [&](const char* kind) { return name_of(kind, stage, micro_batch); };
    const char* backward = at.split ? "I" : "B";
    if (at.forward < 0) {
      add(rank, at.backward >= 0 ? at.backward : end, name("F") + " is missing before here");
    }
    if (at.backward < 0) {
      const int place = at.weight >= 0 ? at.weight : end;
      add(rank, place, name(at.weight >= 0 ? "I" : "B") + " is missing before here");
      return;
    }
    if (at.forward > at.backward) {
      add(rank, at.backward,
          fmt::format("{} is before {}, action {}", name(backward), name("F"), at.forward));
    }
    if (at.forward == at.backward && at.forward >= 0) {
      add(rank, at.forward, name("F") + " is paired with its own backward");
    }
    if (at.split && at.weight < 0) add(rank, end, name("W") + " is missing before here");
    if (!at.split && at.weight >= 0) {
      add(rank, at.weight,
          fmt::format("{} is here, but the backward is a full {}, action {}", name("W"), name("B"),
                      at.backward));
    }
    if (at.split && at.weight >= 0 && at.weight < at.backward) {
      add(rank, at.weight,
          fmt::format("{} is before {}, action {}", name("W"), name("I"), at.backward));
    }
  }

  const Schedule& schedule_;
  const Placement& placement_;
  std::vector<Found> found_;     // [stage * M + micro-batch]
  std::vector<int> replica_of_;  // by micro-batch
  std::vector<Fault> faults_;
};

/// What makes every further look meaningless.
std::vector<Fault> malformed(const Schedule& schedule) {
  const Placement& placement = schedule.placement;
  std::vector<Fault> faults;
  const auto add = [&](std::string what) { faults.push_back({-1, -1, std::move(what)}); };
  if (placement.ranks < 1 || placement.stages < 1 || placement.replicas < 1) {
    add(fmt::format("placement of {} ranks, {} stages, {} replicas", placement.ranks,
                    placement.stages, placement.replicas));
    return faults;
  }
  if (schedule.micro_batches < 1) add(fmt::format("{} micro-batches", schedule.micro_batches));
  if (schedule.ranks.size() != static_cast<std::size_t>(placement.ranks)) {
    add(fmt::format("{} rows for {} ranks", schedule.ranks.size(), placement.ranks));
  }
  const auto entries = static_cast<std::size_t>(placement.replicas) * placement.stages;
  if (placement.rank.size() != entries) {
    add(fmt::format("{} places for {} stages", placement.rank.size(), entries));
  }
  for (const int rank : placement.rank) {
    if (rank < 0 || rank >= placement.ranks) add(fmt::format("a stage is placed on rank {}", rank));
  }
  return faults;
}

/// What a rank holds while and after it runs its actions, in activations of one stage.
class Held {
 public:
  explicit Held(double deferred_share) : deferred_share_(deferred_share) {}
  /// Returns what is held while the action runs.
  double run(Kind kind) {
    if (kind == Kind::F || kind == Kind::FB) ++live_;
    const double during = live_;
    if (kind == Kind::B || kind == Kind::FB) --live_;
    if (kind == Kind::I) live_ -= 1 - deferred_share_;
    if (kind == Kind::W) live_ -= deferred_share_;
    return during;
  }

 private:
  double deferred_share_, live_ = 0;
};

double share_of_rank(const Schedule& schedule) {
  return static_cast<double>(schedule.placement.ranks) / schedule.placement.stages;
}

/// Each rank's first action that goes over the limit.
std::vector<Fault> over_memory(const Schedule& schedule, const ValidateOptions& options) {
  std::vector<Fault> faults;
  const double share = share_of_rank(schedule);
  for (int rank = 0; rank < schedule.rank_count(); ++rank) {
    const double limit = options.memory_limits.empty()
                             ? options.memory_limit
                             : options.memory_limits[static_cast<std::size_t>(rank)];
    if (limit <= 0) continue;
    Held held(options.deferred_share);
    const auto& row = schedule.ranks[static_cast<std::size_t>(rank)];
    for (std::size_t i = 0; i < row.size(); ++i) {
      const double live = held.run(row[i].kind);
      // Sums of parts of 1 may be off by rounding, n 2^-53 of them.
      if (live * share > limit + 1e-9) {
        faults.push_back(
            {rank, static_cast<int>(i),
             fmt::format("{} activations are live, the limit is {}", live * share, limit)});
        break;
      }
    }
  }
  return faults;
}

}  // namespace

std::vector<double> peak_memory(const Schedule& schedule, double deferred_share) {
  std::vector<double> peaks;
  for (const auto& row : schedule.ranks) {
    Held held(deferred_share);
    double peak = 0;
    for (const Action& action : row) peak = std::max(peak, held.run(action.kind));
    peaks.push_back(peak * share_of_rank(schedule));
  }
  return peaks;
}

std::vector<Fault> validate(const Schedule& schedule, const ValidateOptions& options) {
  if (std::vector<Fault> faults = malformed(schedule); !faults.empty()) return faults;
  std::vector<Fault> faults = Completeness(schedule).faults();
  if (!faults.empty()) return faults;
  check(options.memory_limits.empty() ||
            options.memory_limits.size() == static_cast<std::size_t>(schedule.rank_count()),
        "validate: {} memory limits for {} ranks", options.memory_limits.size(),
        schedule.rank_count());
  faults = over_memory(schedule, options);
  std::vector<Fault> stuck = find_deadlock(schedule, false);
  if (stuck.empty() && options.rendezvous) stuck = find_deadlock(schedule, true);
  faults.insert(faults.end(), stuck.begin(), stuck.end());
  return faults;
}

}  // namespace pipemark
