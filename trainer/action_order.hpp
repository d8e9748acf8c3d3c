// ActionOrder: one order in time of the actions of all ranks. An executor takes over the buffer of a
// sent message only once, in this order, its receiver has made room for it; so whatever the messages'
// sizes and speeds, no ring of ranks waits for each other's buffers.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "schedules/schedule.hpp"

namespace pipemark {

class ActionOrder {
 public:
  /// The times at which a schedule's actions start when each half of a backward and each forward take
  /// the same time and messages none.
  explicit ActionOrder(const Schedule& schedule);
  /// `starts[rank][k]`: of the k-th action of rows[rank], rising in each row and from each action to
  /// those that need it.
  ActionOrder(const std::vector<std::vector<Action>>& rows,
              std::vector<std::vector<double>> starts);

  double start(int rank, std::size_t action) const {
    return starts_[static_cast<std::size_t>(rank)][action];
  }
  /// When the action that reads that input (an activation or a gradient) starts: it has been received
  /// by then, in whatever order a transport copies.
  double read(bool gradient, int replica, int stage, int micro_batch) const;

 private:
  void add_readers(const std::vector<std::vector<Action>>& rows);
  static std::uint64_t key(bool gradient, int replica, int stage, int micro_batch);
  struct Reader {
    std::size_t rank, action;
  };
  std::vector<std::vector<double>> starts_;
  std::unordered_map<std::uint64_t, Reader> readers_;
};

}  // namespace pipemark
