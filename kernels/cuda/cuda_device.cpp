// CudaDevice: see cuda_device.hpp. The constructor is the one place that meets a machine without a
// driver, without a device or with one that this build has no code for, and says so.
#include "kernels/cuda/cuda_device.hpp"

#include <algorithm>

#include "kernels/cuda/cuda_check.hpp"
#include "kernels/cuda/launch.hpp"

namespace pipemark::cuda {
namespace {

int count_devices() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  static_cast<void>(cudaGetLastError());  // the error is not sticky; leave none behind
  throw EnvironmentError(
      fmt::format("no CUDA driver/device found: {}",
                  error == cudaSuccess ? "the driver lists no device" : cudaGetErrorString(error)),
      "check nvidia-smi and CUDA_VISIBLE_DEVICES, or use backend = \"kokkos\"");
}

}  // namespace

CudaDevice::CudaDevice(int index) : index_(index) {
  const int count = count_devices();
  if (index < 0 || index >= count) {
    throw EnvironmentError(fmt::format("CUDA device {} does not exist: this process sees {} "
                                       "(0 to {})",
                                       index, count, count - 1),
                           "start no more ranks on a node than it has GPUs, or set "
                           "CUDA_VISIBLE_DEVICES");
  }
  make_current();
  PIPEMARK_CUDA(cudaGetDeviceProperties(&properties_, index));
  if (!has_code_for_device()) {
    static_cast<void>(cudaGetLastError());
    throw EnvironmentError(
        fmt::format("this build has no code for {} (sm_{}{}); bf16 needs sm_80 or newer",
                    properties_.name, properties_.major, properties_.minor),
        fmt::format("configure with -DCMAKE_CUDA_ARCHITECTURES={}{}",
                    std::max(8, properties_.major), properties_.major < 8 ? 0 : properties_.minor));
  }
  int lowest = 0;
  int highest = 0;
  PIPEMARK_CUDA(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  for (std::size_t role = 0; role < streams_.size(); ++role) {
    const bool compute = role == static_cast<std::size_t>(StreamRole::compute);
    PIPEMARK_CUDA(cudaStreamCreateWithPriority(&streams_[role], cudaStreamNonBlocking,
                                               compute ? lowest : highest));
  }
}

CudaDevice::~CudaDevice() {
  for (cudaStream_t stream : streams_) {
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
}

void CudaDevice::make_current() const {
  thread_local int current = -1;
  if (current != index_) {
    PIPEMARK_CUDA(cudaSetDevice(index_));
    current = index_;
  }
}

void* CudaDevice::allocate(std::size_t bytes, MemoryKind kind) {
  make_current();
  void* memory = nullptr;
  const std::size_t asked = std::max<std::size_t>(bytes, 1);
  const cudaError_t error = kind == MemoryKind::device
                                ? cudaMalloc(&memory, asked)
                                : cudaHostAlloc(&memory, asked, cudaHostAllocPortable);
  if (error == cudaSuccess) return memory;
  static_cast<void>(cudaGetLastError());
  if (kind == MemoryKind::host) {
    throw EnvironmentError(fmt::format("{} bytes of page-locked host memory refused: {}", bytes,
                                       cudaGetErrorString(error)),
                           "raise the memory limit of the job (ulimit -l, Slurm's --mem)");
  }
  const MemoryInfo info = memory_info();
  throw EnvironmentError(fmt::format("out of memory on {}: asked for {} bytes, {} of {} are free",
                                     properties_.name, bytes, info.free_bytes, info.total_bytes),
                         "use more stages, a smaller micro-batch or activation checkpointing");
}

void CudaDevice::release(void* memory, MemoryKind kind) noexcept {
  if (memory == nullptr) return;
  static_cast<void>(kind == MemoryKind::device ? cudaFree(memory) : cudaFreeHost(memory));
}

Device::MemoryInfo CudaDevice::memory_info() const {
  make_current();
  MemoryInfo info{};
  PIPEMARK_CUDA(cudaMemGetInfo(&info.free_bytes, &info.total_bytes));
  return info;
}

Stream CudaDevice::stream(StreamRole role) {
  make_current();
  return {streams_[static_cast<std::size_t>(role)]};
}

Event CudaDevice::make_event() {
  make_current();
  cudaEvent_t event = nullptr;
  PIPEMARK_CUDA(cudaEventCreateWithFlags(&event, cudaEventDefault));
  return {event};
}

void CudaDevice::destroy(Event event) noexcept {
  if (event.handle != nullptr) static_cast<void>(cudaEventDestroy(raw(event)));
}

void CudaDevice::record(Event event, Stream stream) {
  PIPEMARK_CUDA(cudaEventRecord(raw(event), raw(stream)));
}

void CudaDevice::wait(Stream stream, Event event) {
  PIPEMARK_CUDA(cudaStreamWaitEvent(raw(stream), raw(event), 0));
}

bool CudaDevice::done(Event event) {
  const cudaError_t error = cudaEventQuery(raw(event));
  if (error == cudaErrorNotReady) return false;
  PIPEMARK_CUDA(error);
  return true;
}

void CudaDevice::host_wait(Event event) { PIPEMARK_CUDA(cudaEventSynchronize(raw(event))); }

double CudaDevice::elapsed_s(Event from, Event to) {
  float elapsed_ms = 0;
  PIPEMARK_CUDA(cudaEventElapsedTime(&elapsed_ms, raw(from), raw(to)));
  return static_cast<double>(elapsed_ms) * 1e-3;
}

void CudaDevice::copy(Stream stream, void* dst, const void* src, std::size_t bytes) {
  PIPEMARK_CUDA(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, raw(stream)));
}

void CudaDevice::fill_zero(Stream stream, void* dst, std::size_t bytes) {
  PIPEMARK_CUDA(cudaMemsetAsync(dst, 0, bytes, raw(stream)));
}

void CudaDevice::synchronize(Stream stream) { PIPEMARK_CUDA(cudaStreamSynchronize(raw(stream))); }

}  // namespace pipemark::cuda
