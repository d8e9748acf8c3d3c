// Arena: one allocation, cut from the front, never freed piecewise. Two passes share one code path:
// a planning arena (no memory) adds up what a plan takes, then the real one of just that size hands
// it out, so the prediction is the use. After seal() a take() is a defect and throws.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "kernels/device.hpp"

namespace pipemark {

class Arena {
 public:
  static constexpr std::size_t kAlignment = 256;

  /// A planning arena: take() returns null data and adds up.
  Arena() = default;
  /// A real arena of `bytes` in `device`'s memory; `device` must outlive it.
  Arena(Device& device, MemoryKind kind, std::size_t bytes);
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena();

  /// `count` elements under `label` (a path such as "block/3/qkv"). A real arena throws
  /// EnvironmentError with the label, the bytes asked for and the bytes left when it is full.
  Tensor take(std::int64_t count, DType dtype, const std::string& label);
  void seal() { sealed_ = true; }
  bool planning() const { return base_ == nullptr; }
  std::size_t used_bytes() const { return used_; }
  std::size_t capacity_bytes() const { return capacity_; }

  struct Entry {
    std::string label;
    std::size_t bytes;
  };
  /// What was taken, in order, for the memory report.
  const std::vector<Entry>& entries() const { return entries_; }

 private:
  Device* device_ = nullptr;
  MemoryKind kind_ = MemoryKind::device;
  std::byte* base_ = nullptr;
  std::size_t capacity_ = 0;
  std::size_t used_ = 0;
  bool sealed_ = false;
  std::vector<Entry> entries_;
};

}  // namespace pipemark
