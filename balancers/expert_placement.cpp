#include "balancers/expert_placement.hpp"

#include <algorithm>
#include <numeric>

#include "kernels/check.hpp"

namespace pipemark {

ExpertPlacement ExpertPlacement::of(Matrix<int> phy2log, int experts) {
  ExpertPlacement made;
  made.counts = Matrix<int>(phy2log.rows, experts);
  for (int layer = 0; layer < phy2log.rows; ++layer) {
    int* count = made.counts.row(layer);
    for (int p = 0; p < phy2log.columns; ++p) {
      const int expert = phy2log.row(layer)[p];
      if (expert < 0 || expert >= experts) {
        throw UserError(
            fmt::format("layer {}, replica {}: expert {} of {}", layer, p, expert, experts),
            "a placement gives each replica an expert from 0");
      }
      ++count[expert];
    }
    const int* missing = std::find(count, count + experts, 0);
    if (missing != count + experts) {
      throw UserError(fmt::format("layer {}: expert {} has no replica", layer, missing - count),
                      "a placement has at least one replica of each expert");
    }
  }
  made.max_count = *std::max_element(made.counts.values.begin(), made.counts.values.end());
  made.log2phy = Matrix<int>(phy2log.rows, experts * made.max_count, -1);
  std::vector<int> next(static_cast<std::size_t>(experts));
  for (int layer = 0; layer < phy2log.rows; ++layer) {
    std::fill(next.begin(), next.end(), 0);
    for (int p = 0; p < phy2log.columns; ++p) {
      const int expert = phy2log.row(layer)[p];
      made.log2phy.row(layer)[expert * made.max_count + next[static_cast<std::size_t>(expert)]++] =
          p;
    }
  }
  made.phy2log = std::move(phy2log);
  return made;
}

ExpertPlacement ExpertPlacement::plain(int layers, int experts, int replicas) {
  Matrix<int> phy2log(layers, replicas);
  for (int layer = 0; layer < layers; ++layer) {
    for (int p = 0; p < replicas; ++p) phy2log.row(layer)[p] = p % experts;
  }
  return of(std::move(phy2log), experts);
}

ExpertBalance expert_balance(const ExpertPlacement& placement, const Matrix<float>& loads, int gpus,
                             const std::vector<double>& speeds) {
  check(loads.rows == placement.layers() && loads.columns == placement.experts(),
        "loads of {} x {} for a placement of {} x {}", loads.rows, loads.columns,
        placement.layers(), placement.experts());
  check(gpus > 0 && placement.replicas() % gpus == 0, "{} replicas on {} devices",
        placement.replicas(), gpus);
  check(speeds.empty() || speeds.size() == static_cast<std::size_t>(gpus),
        "{} speeds for {} devices", speeds.size(), gpus);
  const int each = placement.replicas() / gpus;
  ExpertBalance balance;
  balance.load = Matrix<double>(placement.layers(), gpus);
  double means = 0;
  for (int layer = 0; layer < placement.layers(); ++layer) {
    double* device = balance.load.row(layer);
    for (int p = 0; p < placement.replicas(); ++p) {
      const int expert = placement.phy2log.row(layer)[p];
      device[p / each] +=
          static_cast<double>(loads.row(layer)[expert]) / placement.counts.row(layer)[expert];
    }
    for (int g = 0; g < gpus && !speeds.empty(); ++g)
      device[g] /= speeds[static_cast<std::size_t>(g)];
    const double mean = std::accumulate(device, device + gpus, 0.0) / gpus;
    const double largest = *std::max_element(device, device + gpus);
    balance.imbalance.push_back(mean > 0 ? largest / mean : 1);
    balance.worst_imbalance = std::max(balance.worst_imbalance, balance.imbalance.back());
    balance.slowest_sum += largest;
    means += mean;
  }
  if (means > 0) balance.time_factor = balance.slowest_sum / means;
  return balance;
}

}  // namespace pipemark
