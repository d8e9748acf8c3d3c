#include "kernels/arena.hpp"

#include <utility>

namespace pipemark {

Arena::Arena(Device& device, MemoryKind kind, std::size_t bytes)
    : device_(&device), kind_(kind), capacity_(bytes) {
  base_ = static_cast<std::byte*>(device.allocate(bytes == 0 ? kAlignment : bytes, kind));
}

Arena::Arena(Arena&& other) noexcept { *this = std::move(other); }

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(kind_, other.kind_);
  std::swap(base_, other.base_);
  std::swap(capacity_, other.capacity_);
  std::swap(used_, other.used_);
  std::swap(sealed_, other.sealed_);
  std::swap(entries_, other.entries_);
  return *this;
}

Arena::~Arena() {
  if (base_ != nullptr) device_->release(base_, kind_);
}

Tensor Arena::take(std::int64_t count, DType dtype, const std::string& label) {
  check(!sealed_, "Arena::take(\"{}\") after the first step", label);
  check(count >= 0, "Arena::take(\"{}\"): {} elements", label, count);
  const std::size_t wanted = static_cast<std::size_t>(count) * size_of(dtype);
  const std::size_t bytes = (wanted + kAlignment - 1) / kAlignment * kAlignment;
  if (!planning() && used_ + bytes > capacity_) {
    throw EnvironmentError(fmt::format("arena of {} bytes: \"{}\" needs {} bytes and {} are left",
                                       capacity_, label, bytes, capacity_ - used_),
                           "lower train.batch, raise train.micro_batches or use checkpointing");
  }
  Tensor tensor{planning() ? nullptr : base_ + used_, count, dtype};
  used_ += bytes;
  entries_.push_back({label, bytes});
  return tensor;
}

}  // namespace pipemark
