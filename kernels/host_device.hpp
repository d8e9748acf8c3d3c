// HostDevice: the host's memory as a Device, one thread a rank. Every call runs at once, so streams
// carry nothing, events are readings of the steady clock, and both waits return immediately.
// Large blocks are aligned to 2 MiB and offered to the kernel as huge pages.
#pragma once

#include <string>

#include "kernels/device.hpp"

namespace pipemark {

class HostDevice final : public Device {
 public:
  /// `backend` goes into the description: "AMD EPYC (Kokkos Serial)".
  explicit HostDevice(std::string backend);

  std::string description() const override { return description_; }
  bool is_host() const override { return true; }
  void* allocate(std::size_t bytes, MemoryKind kind) override;
  void release(void* memory, MemoryKind kind) noexcept override;
  MemoryInfo memory_info() const override;

  Stream stream(StreamRole) override { return {}; }
  Event make_event() override;
  void destroy(Event event) noexcept override;
  void record(Event event, Stream) override;
  void wait(Stream, Event) override {}
  bool done(Event) override { return true; }
  void host_wait(Event) override {}
  double elapsed_s(Event from, Event to) override;

  void copy(Stream, void* dst, const void* src, std::size_t bytes) override;
  void fill_zero(Stream, void* dst, std::size_t bytes) override;
  void synchronize(Stream) override {}

 private:
  std::string description_;
};

}  // namespace pipemark
