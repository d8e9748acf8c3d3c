// DeviceSum: sums of tensors that the ranks of a group hold in their devices' memory, in stream
// order: gradients of replicas, of data ranks and of a tied table's two ends.
#pragma once

#include "kernels/device.hpp"

namespace pipemark {

class DeviceSum {
 public:
  DeviceSum() = default;
  DeviceSum(const DeviceSum&) = delete;
  DeviceSum& operator=(const DeviceSum&) = delete;
  virtual ~DeviceSum() = default;

  /// Collective: announces fp32 tensors of one size on all ranks; gives the number run() names them
  /// by.
  virtual int prepare(Tensor values) = 0;
  /// Collective, in the same order on every rank: enqueues the sum of elements [first, first +
  /// count), which every rank gets. Returns at once. All calls of a group go to one stream.
  virtual void run(Stream stream, int number, std::int64_t first, std::int64_t count) = 0;
};

}  // namespace pipemark
