// verify: recomputes every derived number of a result file from the samples and timelines stored
// beside it, and judges the rules of evidence and validity again. Says what is wrong and where.
#pragma once

#include <string>
#include <vector>

#include "suite/results.hpp"

namespace pipemark {

/// "/runs[3].bubble_ratio is 0.2 but /timeline/3 gives 0.3"; empty when all is right.
std::vector<std::string> verify_record(const Record& record);

/// The largest |loss - reference| / |reference| over the steps, each divided by its bound
/// tolerance x (1 + step): rounding differences of the order of sums grow with the steps. Above 1
/// the losses differ. Infinite where the steps don't match.
double reference_loss_error(const std::vector<LossRow>& losses,
                            const std::vector<LossRow>& reference, double tolerance);

}  // namespace pipemark
