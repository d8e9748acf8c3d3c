// PeerMemory: device memory that several processes of one machine can reach, and 32-bit flags in it
// that streams write and wait for. What TransportIpc and IpcSum are made of: CUDA's is
// make_cuda_peer_memory(); the tests' is shared host memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/device.hpp"

namespace pipemark {

class Group;

/// A place in a rank's memory, to be opened by another process. Travels as bytes.
struct SharedPlace {
  std::array<std::byte, 64> handle{};  ///< of the whole allocation
  std::uint64_t offset = 0;            ///< in it
};

class PeerMemory {
 public:
  PeerMemory() = default;
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;
  virtual ~PeerMemory() = default;

  /// `memory` lies in an allocation of this rank's device that outlives its use by peers.
  virtual SharedPlace share(const void* memory) = 0;
  /// Another process's place as this process sees it. An allocation is mapped once and kept.
  virtual void* open(const SharedPlace& place) = 0;

  /// Enqueues `*flag = value`, a peer's or an own flag; what the stream did before is visible to
  /// whoever sees the value.
  virtual void write_flag(Stream stream, std::uint32_t* flag, std::uint32_t value) = 0;
  /// Holds the stream up until an own flag has reached `value` (cyclic: it may wrap).
  virtual void wait_flag(Stream stream, const std::uint32_t* flag, std::uint32_t value) = 0;
  /// An own flag now, whatever the streams do.
  virtual std::uint32_t read_flag(const std::uint32_t* flag) = 0;

  /// Enqueues, for elements [first, first + count): the sum of all parts in their order,
  /// ((p[0] + p[1]) + p[2]) ..., written to all of them.
  virtual void sum_ordered(Stream stream, std::span<float* const> parts, std::int64_t first,
                           std::int64_t count) = 0;
};

/// True where `flag` has reached `value`, both counted cyclically.
inline bool reached(std::uint32_t flag, std::uint32_t value) {
  return static_cast<std::int32_t>(flag - value) >= 0;
}

/// Where the `own` of each rank lies as this process sees it, by rank. Collective; the ranks are on
/// one machine.
std::vector<void*> shared_places(Group& group, PeerMemory& memory, void* own);
/// The same of flags, which are 0 when the call returns on any rank.
std::vector<std::uint32_t*> shared_flags(Group& group, Device& device, PeerMemory& memory,
                                         const Tensor& own);

/// `device` is a CudaDevice. Throws EnvironmentError where the build or the driver lacks what it
/// needs.
std::unique_ptr<PeerMemory> make_cuda_peer_memory(Device& device);

}  // namespace pipemark
