// Median and its confidence interval by order statistics: no assumption about the distribution.
// Of n sorted samples, P(x_(l) <= median <= x_(u)) = sum_{k=l}^{u-1} C(n, k) / 2^n (l, u from 1);
// the narrowest symmetric pair with at least the asked confidence is taken (Hahn and Meeker 1991,
// section 5.2). Five samples can't give 95 %: then there is no interval, and no number.
#pragma once

#include <vector>

namespace pipemark {

struct MedianInterval {
  double median, low, high;  ///< NaN where there are too few samples
  double confidence;         ///< of the pair taken, >= the one asked for; NaN without a pair
  /// (high - low) / 2 / median; NaN without an interval.
  double relative_half_width() const { return (high - low) / 2 / median; }
};

double median_of(std::vector<double> samples);  ///< NaN for none
MedianInterval median_interval(std::vector<double> samples, double confidence);

}  // namespace pipemark
