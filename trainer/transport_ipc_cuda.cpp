// PeerMemory by CUDA IPC: allocations are opened by their handles, flags are written and awaited by
// stream memory operations. The driver's entry points are asked of the runtime, so that the program
// starts on machines that have no driver.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cuda/cuda_check.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/peer_sum.hpp"
#include "trainer/peer_memory.hpp"

namespace pipemark {
namespace {

using cuda::raw;

template <class Function>
Function driver_function(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &found, 12000,
                                                             cudaEnableDefault, &result);
  if (error != cudaSuccess || result != cudaDriverEntryPointSuccess || found == nullptr) {
    throw EnvironmentError(fmt::format("the CUDA driver has no {}", name),
                           "update the driver, or set device.transport = \"mpi\"");
  }
  return reinterpret_cast<Function>(found);
}

void check_driver(CUresult result, const char* call) {
  if (result == CUDA_SUCCESS) return;
  throw EnvironmentError(fmt::format("CUDA driver: {} failed with error {}", call,
                                     static_cast<int>(result)),
                         "set device.transport = \"mpi\"");
}

class CudaPeerMemory final : public PeerMemory {
 public:
  explicit CudaPeerMemory(cuda::CudaDevice& device) : device_(device) {
    device_.make_current();
    address_range_ = driver_function<decltype(address_range_)>("cuMemGetAddressRange");
    write_value_ = driver_function<decltype(write_value_)>("cuStreamWriteValue32");
    wait_value_ = driver_function<decltype(wait_value_)>("cuStreamWaitValue32");
  }

  ~CudaPeerMemory() override {
    if (looking_ != nullptr) static_cast<void>(cudaStreamDestroy(looking_));
    for (const Opened& opened : opened_) static_cast<void>(cudaIpcCloseMemHandle(opened.base));
  }

  SharedPlace share(const void* memory) override {
    CUdeviceptr base = 0;
    std::size_t bytes = 0;
    const auto address = reinterpret_cast<CUdeviceptr>(memory);
    check_driver(address_range_(&base, &bytes, address), "cuMemGetAddressRange");
    cudaIpcMemHandle_t handle;
    PIPEMARK_CUDA(cudaIpcGetMemHandle(&handle, reinterpret_cast<void*>(base)));
    SharedPlace place;
    static_assert(sizeof handle == sizeof place.handle);
    std::memcpy(place.handle.data(), &handle, sizeof handle);
    place.offset = address - base;
    return place;
  }

  void* open(const SharedPlace& place) override {
    auto found = std::find_if(opened_.begin(), opened_.end(), [&](const Opened& opened) {
      return opened.handle == place.handle;
    });
    if (found == opened_.end()) {
      device_.make_current();
      cudaIpcMemHandle_t handle;
      std::memcpy(&handle, place.handle.data(), sizeof handle);
      void* base = nullptr;
      PIPEMARK_CUDA(cudaIpcOpenMemHandle(&base, handle, cudaIpcMemLazyEnablePeerAccess));
      found = opened_.insert(opened_.end(), {place.handle, base});
    }
    return static_cast<std::byte*>(found->base) + place.offset;
  }

  void write_flag(Stream stream, std::uint32_t* flag, std::uint32_t value) override {
    check_driver(write_value_(raw(stream), reinterpret_cast<CUdeviceptr>(flag), value,
                              CU_STREAM_WRITE_VALUE_DEFAULT),
                 "cuStreamWriteValue32");
  }
  void wait_flag(Stream stream, const std::uint32_t* flag, std::uint32_t value) override {
    check_driver(wait_value_(raw(stream), reinterpret_cast<CUdeviceptr>(flag), value,
                             CU_STREAM_WAIT_VALUE_GEQ),
                 "cuStreamWaitValue32");
  }
  std::uint32_t read_flag(const std::uint32_t* flag) override {
    std::uint32_t value = 0;
    if (looking_ == nullptr) looking_ = make_stream();
    PIPEMARK_CUDA(cudaMemcpyAsync(&value, flag, sizeof value, cudaMemcpyDeviceToHost, looking_));
    PIPEMARK_CUDA(cudaStreamSynchronize(looking_));
    return value;
  }

  void sum_ordered(Stream stream, std::span<float* const> parts, std::int64_t first,
                   std::int64_t count) override {
    cuda::peer_sum(raw(stream), parts, first, count);
  }

 private:
  using Handle = decltype(SharedPlace::handle);
  struct Opened {
    Handle handle;
    void* base;
  };

  static cudaStream_t make_stream() {
    int lowest = 0, highest = 0;
    cudaStream_t stream = nullptr;
    PIPEMARK_CUDA(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
    PIPEMARK_CUDA(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, highest));
    return stream;
  }

  cuda::CudaDevice& device_;
  CUresult (*address_range_)(CUdeviceptr*, std::size_t*, CUdeviceptr) = nullptr;
  CUresult (*write_value_)(CUstream, CUdeviceptr, cuuint32_t, unsigned int) = nullptr;
  CUresult (*wait_value_)(CUstream, CUdeviceptr, cuuint32_t, unsigned int) = nullptr;
  cudaStream_t looking_ = nullptr;
  std::vector<Opened> opened_;
};

}  // namespace

std::unique_ptr<PeerMemory> make_cuda_peer_memory(Device& device) {
  auto* cuda_device = dynamic_cast<cuda::CudaDevice*>(&device);
  check(cuda_device != nullptr, "make_cuda_peer_memory of {}", device.description());
  return std::make_unique<CudaPeerMemory>(*cuda_device);
}

}  // namespace pipemark
