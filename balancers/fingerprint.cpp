#include "balancers/fingerprint.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/check.hpp"

namespace pipemark {

double Fingerprint::peak(const std::string& precision) const {
  for (const Peak& peak : peaks) {
    if (peak.precision == precision) return peak.flops_per_s;
  }
  return 0;
}

double Fingerprint::gemm_s(const std::string& precision, double rows, double in, double out,
                           double bytes) const {
  const double flops = 2 * rows * in * out;
  if (flops <= 0) return 0;
  const GemmRate *below = nullptr, *above = nullptr;
  for (const GemmRate& rate : gemms) {
    if (rate.precision != precision) continue;
    const bool smaller = rate.flops() <= flops;
    if (smaller && (below == nullptr || rate.flops() > below->flops())) below = &rate;
    if (!smaller && (above == nullptr || rate.flops() < above->flops())) above = &rate;
  }
  if (below != nullptr && above != nullptr) {
    const double part =
        std::log(flops / below->flops()) / std::log(above->flops() / below->flops());
    return flops / (below->flops_per_s + part * (above->flops_per_s - below->flops_per_s));
  }
  if (below != nullptr || above != nullptr) {
    return flops / (below != nullptr ? below : above)->flops_per_s;
  }
  const double at_peak = peak(precision);
  if (!(at_peak > 0)) {
    throw UserError(fmt::format("{} has no rate for {}", name, precision),
                    "name a precision that its fingerprint gives, or measure it");
  }
  return std::max(flops / at_peak, memory_bytes_per_s > 0 ? bytes / memory_bytes_per_s : 0);
}

double Fingerprint::op_s(const std::string& op, double flops, double bytes) const {
  for (const OpRate& rate : ops) {
    if (rate.op != op) continue;
    return rate.flops_per_s > 0 ? flops / rate.flops_per_s : bytes / rate.bytes_per_s;
  }
  return memory_bytes_per_s > 0 ? bytes / memory_bytes_per_s : 0;
}

}  // namespace pipemark
