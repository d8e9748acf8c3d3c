#include "suite/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace pipemark {

namespace {
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

double sorted_median(const std::vector<double>& sorted) {
  const std::size_t n = sorted.size();
  if (n == 0) return kNone;
  return n % 2 == 1 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}
}  // namespace

double median_of(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  return sorted_median(samples);
}

MedianInterval median_interval(std::vector<double> samples, double confidence) {
  std::sort(samples.begin(), samples.end());
  const auto n = static_cast<int>(samples.size());
  MedianInterval interval{sorted_median(samples), kNone, kNone, kNone};
  // Widen from the middle: the pair (l, n + 1 - l) misses the median with twice the lower tail.
  double tail = 0;  // sum_{k < l} C(n, k) / 2^n
  for (int l = 1; 2 * l <= n; ++l) {
    const int k = l - 1;
    tail += std::exp(std::lgamma(n + 1.0) - std::lgamma(k + 1.0) - std::lgamma(n - k + 1.0) -
                     n * std::log(2.0));
    if (1 - 2 * tail < confidence) break;
    interval.low = samples[static_cast<std::size_t>(l - 1)];
    interval.high = samples[static_cast<std::size_t>(n - l)];
    interval.confidence = 1 - 2 * tail;
  }
  return interval;
}

}  // namespace pipemark
