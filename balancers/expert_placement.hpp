// Where the replicas of a mixture's experts stand, and how even that is.
//
// Legend: L layers, E logical experts, R replicas (physical experts) a layer, dealt to G devices
// (GPUs) in runs of R / G: replica p stands on device p / (R / G). Load is any unit, tokens mostly;
// the router deals an expert's load evenly to its replicas.
#pragma once

#include <vector>

namespace pipemark {

/// Rows are layers.
template <class T>
struct Matrix {
  int rows = 0, columns = 0;
  std::vector<T> values;

  Matrix() = default;
  Matrix(int r, int c, T value = {})
      : rows(r),
        columns(c),
        values(static_cast<std::size_t>(r) * static_cast<std::size_t>(c), value) {}
  T* row(int r) { return values.data() + static_cast<std::size_t>(r) * columns; }
  const T* row(int r) const { return values.data() + static_cast<std::size_t>(r) * columns; }
  bool operator==(const Matrix&) const = default;
};

struct ExpertPlacement {
  Matrix<int> phy2log;  ///< [L, R]: the expert of each replica
  Matrix<int> counts;   ///< [L, E]: replicas of each expert
  int max_count = 0;    ///< X, the largest of counts
  /// [L, E X]: the replicas of each expert, -1 after the last.
  Matrix<int> log2phy;

  int layers() const { return phy2log.rows; }
  int replicas() const { return phy2log.columns; }
  int experts() const { return counts.columns; }

  /// Counts and log2phy of a phy2log, each expert's replicas in rising order. UserError where an
  /// entry is no expert or an expert has no replica.
  static ExpertPlacement of(Matrix<int> phy2log, int experts);
  /// Expert e on replicas of a plain layout: replica p is expert p mod E.
  static ExpertPlacement plain(int layers, int experts, int replicas);
};

struct ExpertBalance {
  Matrix<double> load;            ///< [L, G]: load / speed of each device
  std::vector<double> imbalance;  ///< by layer: max / mean over devices
  double worst_imbalance = 1;
  /// Layers run one after the other and each waits for its slowest device, so the experts' part of
  /// a step takes sum over layers of the maximum; here as a multiple of the sum of the means.
  double time_factor = 1;
  double slowest_sum = 0;  ///< the sum of the maxima itself, in the load's unit
};

/// `speeds` by device, 1 where a unit of load takes a unit of time; empty: all 1.
ExpertBalance expert_balance(const ExpertPlacement& placement, const Matrix<float>& loads, int gpus,
                             const std::vector<double>& speeds = {});

}  // namespace pipemark
