// Device: memory, streams, events and copies of one device. Work is enqueued on a stream and the
// call returns; the host waits only in synchronize() and host_wait(). The host backends run each
// call at once, so their streams are always idle and their events are clock readings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/tensor.hpp"

namespace pipemark {

struct Stream {
  void* handle = nullptr;
};
struct Event {
  void* handle = nullptr;
};

/// compute runs the actions; send and receive carry boundary tensors beside it.
enum class StreamRole : std::uint8_t { compute, send, receive };

/// device: where kernels read; host: page-locked where that matters, for staging messages and
/// losses.
enum class MemoryKind : std::uint8_t { device, host };

class Device {
 public:
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  virtual ~Device() = default;

  /// For the record, e.g. "NVIDIA H200" or "AMD EPYC (Kokkos Serial)".
  virtual std::string description() const = 0;
  /// True where device memory is host memory (MPI may read it directly).
  virtual bool is_host() const = 0;

  /// At least 256-byte aligned. Called by Arena only. Throws EnvironmentError with the bytes asked
  /// for and the bytes free.
  virtual void* allocate(std::size_t bytes, MemoryKind kind) = 0;
  virtual void release(void* memory, MemoryKind kind) noexcept = 0;
  /// {free, total} bytes of device memory now.
  struct MemoryInfo {
    std::size_t free_bytes, total_bytes;
  };
  virtual MemoryInfo memory_info() const = 0;

  virtual Stream stream(StreamRole role) = 0;
  virtual Event make_event() = 0;
  virtual void destroy(Event event) noexcept = 0;
  virtual void record(Event event, Stream stream) = 0;
  /// Work enqueued on `stream` from here on starts after `event`; the host does not wait.
  virtual void wait(Stream stream, Event event) = 0;
  virtual bool done(Event event) = 0;
  virtual void host_wait(Event event) = 0;
  /// Seconds from `from` to `to`; both must be done.
  virtual double elapsed_s(Event from, Event to) = 0;

  /// Any direction; `dst` and `src` may each be device or host memory.
  virtual void copy(Stream stream, void* dst, const void* src, std::size_t bytes) = 0;
  virtual void fill_zero(Stream stream, void* dst, std::size_t bytes) = 0;
  virtual void synchronize(Stream stream) = 0;
};

}  // namespace pipemark
