// Running a case: deterministic inputs, rounded to the backend's types before the reference sees
// them, and the comparison.
#include "kernels/bench/op_case.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "kernels/reference.hpp"

namespace pipemark {
namespace {

/// Round to nearest even.
std::uint16_t to_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float from_bf16(std::uint16_t value) {
  const std::uint32_t bits = std::uint32_t{value} << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

DType dtype_of(const TensorSpec& spec, DType activation) {
  if (spec.storage == Storage::int32) return DType::i32;
  return spec.storage == Storage::fp32 ? DType::f32 : activation;
}

std::vector<float> filled(const TensorSpec& spec, std::uint32_t seed, DType dtype) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(spec.count));
  for (float& value : values) {
    if (dtype == DType::i32) {
      value = static_cast<float>(engine() % static_cast<std::uint32_t>(spec.scale));
    } else {
      value = static_cast<float>(spec.mean + spec.scale * normal(engine));
      if (dtype == DType::bf16) value = from_bf16(to_bf16(value));
    }
  }
  return values;
}

/// The values as `dtype` at `memory`.
void encode(const std::vector<float>& values, DType dtype, void* memory) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::f32) static_cast<float*>(memory)[i] = values[i];
    if (dtype == DType::bf16) static_cast<std::uint16_t*>(memory)[i] = to_bf16(values[i]);
    if (dtype == DType::i32) static_cast<std::int32_t*>(memory)[i] = static_cast<int>(values[i]);
  }
}

std::vector<float> decode(const void* memory, DType dtype, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::f32) values[i] = static_cast<const float*>(memory)[i];
    if (dtype == DType::bf16) values[i] = from_bf16(static_cast<const std::uint16_t*>(memory)[i]);
    if (dtype == DType::i32) {
      values[i] = static_cast<float>(static_cast<const std::int32_t*>(memory)[i]);
    }
  }
  return values;
}

std::size_t rounded(std::size_t bytes) {
  return (bytes + Arena::kAlignment - 1) / Arena::kAlignment * Arena::kAlignment;
}

}  // namespace

double error_bound(const OpCase& op, DType activation) {
  const double stored = activation == DType::bf16 ? kUnitRoundoffBf16 : kUnitRoundoffFp32;
  return kSafety * op.condition * (stored + kUnitRoundoffFp32 * std::sqrt(op.terms));
}

double relative_error(const std::vector<float>& got, const std::vector<float>& right) {
  check(got.size() == right.size(), "relative_error: {} against {} values", got.size(),
        right.size());
  double largest = 0, squares = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(double{got[i]} - right[i]);
    if (!(difference <= 1e300)) return INFINITY;  // NaN or infinite
    largest = std::max(largest, difference);
    squares += double{right[i]} * right[i];
  }
  const double rms = std::sqrt(squares / static_cast<double>(std::max<std::size_t>(1, got.size())));
  return largest == 0 ? 0 : largest / rms;
}

CaseRun::CaseRun(const OpCase& op, Ops& backend) : op_(op), ops_(backend) {
  const DType activation = ops_.activation_dtype();
  std::size_t bytes = 0, largest = Arena::kAlignment;
  std::vector<Tensor> host;
  std::vector<std::vector<std::uint32_t>> memory;  // the reference's tensors: 4-byte elements
  for (std::size_t i = 0; i < op_.tensors.size(); ++i) {
    const TensorSpec& spec = op_.tensors[i];
    const DType dtype = dtype_of(spec, activation);
    inputs_.push_back(filled(spec, static_cast<std::uint32_t>(i + 1), dtype));
    const DType wide = dtype == DType::i32 ? DType::i32 : DType::f32;
    memory.emplace_back(inputs_.back().size());
    encode(inputs_.back(), wide, memory.back().data());
    host.push_back({memory.back().data(), spec.count, wide});
    const std::size_t size = rounded(inputs_.back().size() * size_of(dtype));
    bytes += size;
    largest = std::max(largest, size);
  }
  const auto reference = make_reference_ops();
  if (op_.prepare) {
    op_.prepare(*reference, host);
    for (std::size_t i = 0; i < host.size(); ++i) {
      inputs_[i] = decode(host[i].data, host[i].dtype, host[i].size);
      if (dtype_of(op_.tensors[i], activation) == DType::bf16) {
        for (float& value : inputs_[i]) value = from_bf16(to_bf16(value));
        encode(inputs_[i], DType::f32, host[i].data);
      }
    }
  }
  op_.call(*reference, host);
  for (const Tensor& tensor : host)
    expected_.push_back(decode(tensor.data, tensor.dtype, tensor.size));

  const std::size_t workspace =
      op_.attention.heads > 0 || op_.vocabulary_padded > 0
          ? ops_.workspace_bytes(
                op_.attention.heads > 0 ? op_.attention : AttentionShape{1, 1, 1, 1},
                op_.vocabulary_padded)
          : ops_.workspace_bytes(AttentionShape{1, 1, 1, 1}, 1);
  arena_ = Arena(ops_.device(), MemoryKind::device, bytes + rounded(workspace));
  staging_ = Arena(ops_.device(), MemoryKind::host, largest);
  stage_ = staging_.take(static_cast<std::int64_t>(largest / sizeof(float)), DType::f32, "staging");
  for (const TensorSpec& spec : op_.tensors) {
    tensors_.push_back(arena_.take(spec.count, dtype_of(spec, activation), spec.label));
  }
  ops_.set_workspace(
      arena_.take(static_cast<std::int64_t>(workspace / sizeof(float)), DType::f32, "workspace"));
  for (std::size_t i = 0; i < tensors_.size(); ++i) upload(i, inputs_[i]);
}

void CaseRun::upload(std::size_t index, const std::vector<float>& values) {
  const Stream stream = ops_.device().stream(StreamRole::compute);
  encode(values, tensors_[index].dtype, stage_.data);
  ops_.device().copy(stream, tensors_[index].data, stage_.data, tensors_[index].bytes());
  ops_.device().synchronize(stream);
}

void CaseRun::reset() {
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    if (op_.tensors[i].role == Role::in_out) upload(i, inputs_[i]);
  }
}

void CaseRun::call() { op_.call(ops_, tensors_); }

std::vector<float> CaseRun::download(std::size_t index) {
  const Stream stream = ops_.device().stream(StreamRole::compute);
  ops_.device().synchronize(stream);
  ops_.device().copy(stream, stage_.data, tensors_[index].data, tensors_[index].bytes());
  ops_.device().synchronize(stream);
  return decode(stage_.data, tensors_[index].dtype, tensors_[index].size);
}

double CaseRun::error(std::string* where) {
  reset();
  call();
  double largest = -1;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    if (op_.tensors[i].role == Role::input) continue;
    const double error = relative_error(download(i), expected_[i]);
    if (error > largest) {
      largest = error;
      if (where != nullptr) *where = op_.tensors[i].label;
    }
  }
  return largest;
}

}  // namespace pipemark
