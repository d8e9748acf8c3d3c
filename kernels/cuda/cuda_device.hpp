// CudaDevice: memory, streams, events and copies of one NVIDIA GPU. Three non-blocking streams (one
// a role; send and receive have the higher priority so that a message never queues behind a
// kernel's remaining blocks). Events carry times. Calls may come from any thread: each makes the
// device current first.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <string>

#include "kernels/device.hpp"

namespace pipemark::cuda {

class CudaDevice final : public Device {
 public:
  /// Throws EnvironmentError when there is no driver, no such device, or no code for it in this
  /// build.
  explicit CudaDevice(int index);
  ~CudaDevice() override;

  std::string description() const override { return properties_.name; }
  bool is_host() const override { return false; }
  void* allocate(std::size_t bytes, MemoryKind kind) override;
  void release(void* memory, MemoryKind kind) noexcept override;
  MemoryInfo memory_info() const override;
  Stream stream(StreamRole role) override;
  Event make_event() override;
  void destroy(Event event) noexcept override;
  void record(Event event, Stream stream) override;
  void wait(Stream stream, Event event) override;
  bool done(Event event) override;
  void host_wait(Event event) override;
  double elapsed_s(Event from, Event to) override;
  void copy(Stream stream, void* dst, const void* src, std::size_t bytes) override;
  void fill_zero(Stream stream, void* dst, std::size_t bytes) override;
  void synchronize(Stream stream) override;

  int index() const { return index_; }
  const cudaDeviceProp& properties() const { return properties_; }
  void make_current() const;

 private:
  int index_ = 0;
  cudaDeviceProp properties_{};
  std::array<cudaStream_t, 3> streams_{};
};

inline cudaStream_t raw(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }
inline cudaEvent_t raw(Event event) { return static_cast<cudaEvent_t>(event.handle); }

}  // namespace pipemark::cuda
