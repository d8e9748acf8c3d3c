// HostDevice's memory (2 MiB pages where they pay), clock events and the machine's own words about
// itself (/proc/cpuinfo, /proc/meminfo; absent entries leave a plain description).
#include "kernels/host_device.hpp"

#include <sys/mman.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>

namespace pipemark {
namespace {

constexpr std::size_t kSmallAlignment = 256;
constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

struct HostEvent {
  double time_s = 0;
};

HostEvent& host_event(Event event) {
  check(event.handle != nullptr, "HostDevice: an empty event");
  return *static_cast<HostEvent*>(event.handle);
}

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "host processor";
}

}  // namespace

HostDevice::HostDevice(std::string backend)
    : description_(fmt::format("{} ({})", processor_name(), backend)) {}

void* HostDevice::allocate(std::size_t bytes, MemoryKind) {
  const std::size_t alignment = bytes >= kHugePageBytes ? kHugePageBytes : kSmallAlignment;
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  const MemoryInfo info = memory_info();
  void* memory = bytes <= info.total_bytes ? std::aligned_alloc(alignment, rounded) : nullptr;
  if (memory == nullptr) {
    throw EnvironmentError(fmt::format("{} bytes of host memory were asked for and {} of {} bytes "
                                       "are free",
                                       bytes, info.free_bytes, info.total_bytes),
                           "use fewer ranks on this machine, a smaller model or micro-batch");
  }
  if (alignment == kHugePageBytes) madvise(memory, rounded, MADV_HUGEPAGE);  // advice: may fail
  return memory;
}

void HostDevice::release(void* memory, MemoryKind) noexcept { std::free(memory); }

Device::MemoryInfo HostDevice::memory_info() const {
  MemoryInfo info{0, 0};
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  for (std::size_t kib = 0; file >> key >> kib; std::getline(file, unit)) {
    if (key == "MemTotal:") info.total_bytes = kib * 1024;
    if (key == "MemAvailable:") info.free_bytes = kib * 1024;
  }
  check(info.total_bytes > 0, "HostDevice: /proc/meminfo has no MemTotal");
  return info;
}

Event HostDevice::make_event() { return {new HostEvent}; }

void HostDevice::destroy(Event event) noexcept { delete static_cast<HostEvent*>(event.handle); }

void HostDevice::record(Event event, Stream) { host_event(event).time_s = now_s(); }

double HostDevice::elapsed_s(Event from, Event to) {
  return host_event(to).time_s - host_event(from).time_s;
}

void HostDevice::copy(Stream, void* dst, const void* src, std::size_t bytes) {
  if (bytes > 0) std::memmove(dst, src, bytes);
}

void HostDevice::fill_zero(Stream, void* dst, std::size_t bytes) {
  if (bytes > 0) std::memset(dst, 0, bytes);
}

}  // namespace pipemark
