// Tensor: a non-owning view of contiguous elements in a device's memory. Shapes are a call's
// business (each Ops contract states them); memory is the arena's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/check.hpp"

namespace pipemark {

enum class DType : std::uint8_t { f32, bf16, i32 };

constexpr std::size_t size_of(DType dtype) { return dtype == DType::bf16 ? 2 : 4; }

struct Tensor {
  void* data = nullptr;
  std::int64_t size = 0;  ///< elements
  DType dtype = DType::f32;

  std::size_t bytes() const { return static_cast<std::size_t>(size) * size_of(dtype); }
  explicit operator bool() const { return data != nullptr; }
  /// Elements [offset, offset + count).
  Tensor slice(std::int64_t offset, std::int64_t count) const {
    check(offset >= 0 && count >= 0 && offset + count <= size, "Tensor::slice [{}, {}) of {}",
          offset, offset + count, size);
    return {static_cast<std::byte*>(data) + static_cast<std::size_t>(offset) * size_of(dtype),
            count, dtype};
  }
  float* f32() const {
    check(dtype == DType::f32, "Tensor::f32: the tensor is not fp32");
    return static_cast<float*>(data);
  }
  std::int32_t* i32() const {
    check(dtype == DType::i32, "Tensor::i32: the tensor is not int32");
    return static_cast<std::int32_t*>(data);
  }
};

}  // namespace pipemark
