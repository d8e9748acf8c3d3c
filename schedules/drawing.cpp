// A schedule's placement from a timeline: a (replica, stage) lies where its forwards ran.
#include "schedules/drawing.hpp"

#include <algorithm>

#include "kernels/check.hpp"

namespace pipemark {

Schedule schedule_of(const Timeline& timeline, std::string name) {
  Schedule schedule;
  schedule.name = std::move(name);
  int last_stage = -1, last_replica = 0, last_micro_batch = -1;
  for (const auto& row : timeline.ranks) {
    std::vector<Action> actions;
    for (const TimedAction& timed : row) {
      const Action& a = timed.action;
      actions.push_back(a);
      last_stage = std::max<int>(last_stage, a.stage);
      last_replica = std::max<int>(last_replica, a.replica);
      last_micro_batch = std::max<int>(last_micro_batch, a.micro_batch);
    }
    schedule.ranks.push_back(std::move(actions));
  }
  Placement& placement = schedule.placement;
  placement.ranks = static_cast<int>(timeline.ranks.size());
  placement.stages = last_stage + 1;
  placement.replicas = last_replica + 1;
  placement.rank.assign(static_cast<std::size_t>(placement.stages * placement.replicas), -1);
  for (std::size_t r = 0; r < schedule.ranks.size(); ++r) {
    for (const Action& a : schedule.ranks[r]) {
      placement.rank[static_cast<std::size_t>(a.replica * placement.stages + a.stage)] =
          static_cast<int>(r);
    }
  }
  for (std::size_t i = 0; i < placement.rank.size(); ++i) {
    check(placement.rank[i] >= 0, "{}: stage {} runs on no rank of the timeline", schedule.name,
          i % static_cast<std::size_t>(placement.stages));
  }
  schedule.micro_batches = last_micro_batch + 1;
  return schedule;
}

}  // namespace pipemark
