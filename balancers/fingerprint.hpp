// What is known of a device: rates from a data sheet, or measured by `pipemark fingerprint`. Data
// sheets give peaks, so times made from them are lower bounds.
#pragma once

#include <string>
#include <vector>

namespace pipemark {

/// A matrix product y[rows, out] = x[rows, in] w[out, in]^T as it was measured.
struct GemmRate {
  std::string precision;  ///< "fp32", "bf16"
  double rows = 0, in = 0, out = 0;
  double flops_per_s = 0;
  double flops() const { return 2 * rows * in * out; }
};

/// An operation that is no matrix product, by the bytes of its contract (kernels/op_cost.hpp).
struct OpRate {
  std::string op;  ///< "layer_norm", "gelu", "attention_forward", ...
  double bytes_per_s = 0;
  double flops_per_s = 0;  ///< attention: what bounds it instead; 0: bytes do
};

struct Peak {
  std::string precision;
  double flops_per_s = 0;
};

struct Fingerprint {
  std::string name, source;
  bool measured = false;
  double memory_bytes = 0;  ///< 0: not given
  double memory_bytes_per_s = 0;
  double link_latency_s = 0, link_bytes_per_s = 0;  ///< one way; 0: not given
  std::vector<Peak> peaks;                          ///< dense
  std::vector<GemmRate> gemms;
  std::vector<OpRate> ops;

  /// 0 where the precision is not given.
  double peak(const std::string& precision) const;
  /// Seconds of a product: measured rates interpolated over log FLOPs between the nearest measured
  /// sizes; without any, at the peak or the memory's rate, whichever is slower.
  double gemm_s(const std::string& precision, double rows, double in, double out,
                double bytes) const;
  /// Seconds of an operation at its own rate; without one at the memory's.
  double op_s(const std::string& op, double flops, double bytes) const;
};

}  // namespace pipemark
