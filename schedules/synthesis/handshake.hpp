// Whether orders can run when sends block: the `rendezvous` model of validate.hpp, on tasks. A rank
// stays at a task until the send of its output has met its receive, and the receive of the k-th
// message between two stages is posted when the receiver reaches the task that needs the one before
// it (the first: at once). No times, O(tasks), no allocation.
#pragma once

#include <vector>

#include "schedules/synthesis/problem.hpp"

namespace pipemark::synthesis {

class Handshake {
 public:
  explicit Handshake(const Problem& problem);
  bool passes(const Orders& orders);

  /// Changes orders that don't pass until they do: where a send is stuck, its receiver's earlier
  /// tasks of that op come forward (`by_receiver`), or the sender's next I does. False when that
  /// leads nowhere; capacities are not looked at.
  bool repair(Orders& orders, bool by_receiver);

 private:
  bool unstick(Orders& orders, bool by_receiver) const;

  const Problem& problem_;
  std::vector<std::vector<int>> neighbours_;  ///< ranks that exchange messages with a rank
  std::vector<int> position_, work_list_;
  std::vector<int> reached_;  ///< by op: tasks of it that the rank has reached
  std::vector<int> ran_;      ///< by op
};

}  // namespace pipemark::synthesis
