// IpcSum: the ordered sum over ranks of one machine. Each rank adds its share of the elements, in the
// order of the ranks and straight from all ranks' memory, and writes the result to all of them:
//
//   ready := n to all | wait for all | sum own share | done := n to all | wait for all
//
// so every rank has the same bits, which depend on the group's order only. Bytes over a link: 4 (n -
// 1) / n an element each way.
#pragma once

#include <vector>

#include "kernels/arena.hpp"
#include "trainer/device_sum.hpp"
#include "trainer/peer_memory.hpp"

namespace pipemark {

class Group;

class IpcSum final : public DeviceSum {
 public:
  /// Collective over the group, whose ranks are on one machine; all must outlive the sum.
  IpcSum(Group& group, Device& device, PeerMemory& memory);

  int prepare(Tensor values) override;
  void run(Stream stream, int number, std::int64_t first, std::int64_t count) override;

 private:
  void meet(Stream stream, int phase);

  Group& group_;
  PeerMemory& memory_;
  Arena flags_memory_;
  std::vector<std::uint32_t*> flags_;  ///< by rank: [phase][from rank]
  std::uint32_t count_ = 0;
  struct Parts {
    std::vector<float*> of;  ///< by rank
    std::int64_t size;
  };
  std::vector<Parts> tensors_;
};

}  // namespace pipemark
