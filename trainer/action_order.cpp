#include "trainer/action_order.hpp"

#include "kernels/check.hpp"
#include "schedules/simulate.hpp"

namespace pipemark {

ActionOrder::ActionOrder(const Schedule& schedule) {
  const Placement& placement = schedule.placement;
  const CostModel ones = CostModel::uniform(placement.ranks, placement.stages, {1, 1, 1}, 0);
  for (const auto& row : simulate(schedule, ones, true).timeline.ranks) {
    auto& starts = starts_.emplace_back();
    for (const TimedAction& timed : row) starts.push_back(timed.start_s);
  }
  add_readers(schedule.ranks);
}

ActionOrder::ActionOrder(const std::vector<std::vector<Action>>& rows,
                         std::vector<std::vector<double>> starts)
    : starts_(std::move(starts)) {
  add_readers(rows);
}

void ActionOrder::add_readers(const std::vector<std::vector<Action>>& rows) {
  for (std::size_t rank = 0; rank < rows.size(); ++rank) {
    for (std::size_t k = 0; k < rows[rank].size(); ++k) {
      const Action& a = rows[rank][k];
      if (a.kind == Kind::W) continue;
      const bool gradient = a.kind == Kind::B || a.kind == Kind::I;
      readers_[key(gradient, a.replica, a.stage, a.micro_batch)] = {rank, k};
      if (a.kind == Kind::FB) {
        readers_[key(true, a.replica_b, a.stage_b, a.micro_batch_b)] = {rank, k};
      }
    }
  }
}

std::uint64_t ActionOrder::key(bool gradient, int replica, int stage, int micro_batch) {
  return static_cast<std::uint64_t>(micro_batch) << 20 | static_cast<std::uint64_t>(stage) << 4 |
         static_cast<std::uint64_t>(replica) << 1 | (gradient ? 1u : 0u);
}

double ActionOrder::read(bool gradient, int replica, int stage, int micro_batch) const {
  const auto found = readers_.find(key(gradient, replica, stage, micro_batch));
  check(found != readers_.end(), "ActionOrder: nobody reads stage {}, micro-batch {}", stage,
        micro_batch);
  return starts_[found->second.rank][found->second.action];
}

}  // namespace pipemark
