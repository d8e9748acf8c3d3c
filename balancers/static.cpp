// Static balancers. partition_by_weight is the classic chain partition: cost[k][n] = min over j of
// max(cost[k-1][j], sum of weights j..n-1), O(stages layers^2).
#include "balancers/static.hpp"

#include <algorithm>
#include <limits>

#include "kernels/check.hpp"

namespace pipemark {

int Partition::stage_of(int layer) const {
  const auto after = std::upper_bound(first.begin(), first.end(), layer);
  check(layer >= 0 && after != first.end(), "Partition::stage_of: layer {} of {}", layer, layers());
  return static_cast<int>(after - first.begin()) - 1;
}

StageCost stage_time(const std::vector<LayerCost>& layers, int first, int last, StageCost start) {
  for (int l = first; l < last; ++l) {
    const LayerCost& layer = layers[static_cast<std::size_t>(l)];
    start.forward += layer.forward_s;
    start.input_grad += layer.input_grad_s;
    start.weight_grad += layer.weight_grad_s;
  }
  return start;
}

namespace {
void check_sizes(int layers, int stages) {
  if (stages < 1 || layers < stages) {
    throw UserError(
        fmt::format("the model has {} layers (embedding, blocks, head) for {} stages", layers,
                    stages),
        "use fewer ranks or chunks, or raise model.layers: a stage needs at least one layer");
  }
}
}  // namespace

Partition partition_even(int layers, int stages) {
  check_sizes(layers, stages);
  // With a block or more for each stage the blocks are dealt; else every layer counts as one.
  const bool deal_blocks = layers - 2 >= stages;
  const int dealt = deal_blocks ? layers - 2 : layers;
  Partition partition;
  partition.first.push_back(0);
  int next = deal_blocks ? 1 : 0;
  for (int s = 0; s < stages; ++s) {
    next += dealt / stages + (s < dealt % stages ? 1 : 0);
    partition.first.push_back(next);
  }
  partition.first.back() = layers;
  return partition;
}

Partition partition_by_weight(const std::vector<double>& weights, int stages) {
  check_sizes(static_cast<int>(weights.size()), stages);
  return partition_by_weight(weights, std::vector<double>(static_cast<std::size_t>(stages), 1.0));
}

Partition partition_by_weight(const std::vector<double>& weights,
                              const std::vector<double>& speeds) {
  const int layers = static_cast<int>(weights.size());
  const int stages = static_cast<int>(speeds.size());
  check_sizes(layers, stages);
  std::vector<double> prefix(weights.size() + 1, 0.0);
  for (std::size_t i = 0; i < weights.size(); ++i) prefix[i + 1] = prefix[i] + weights[i];

  const double infinity = std::numeric_limits<double>::infinity();
  const auto width = static_cast<std::size_t>(layers) + 1;
  std::vector<double> cost((static_cast<std::size_t>(stages) + 1) * width, infinity);
  std::vector<int> cut(cost.size(), 0);
  const auto at = [&](int k, int n) {
    return static_cast<std::size_t>(k) * width + static_cast<std::size_t>(n);
  };
  cost[at(0, 0)] = 0;
  for (int k = 1; k <= stages; ++k) {
    for (int n = k; n <= layers - (stages - k); ++n) {
      for (int j = k - 1; j < n; ++j) {
        const double weight =
            prefix[static_cast<std::size_t>(n)] - prefix[static_cast<std::size_t>(j)];
        const double largest =
            std::max(cost[at(k - 1, j)], weight / speeds[static_cast<std::size_t>(k) - 1]);
        if (largest < cost[at(k, n)]) {
          cost[at(k, n)] = largest;
          cut[at(k, n)] = j;
        }
      }
    }
  }
  Partition partition;
  partition.first.assign(static_cast<std::size_t>(stages) + 1, 0);
  for (int k = stages, n = layers; k >= 1; --k) {
    partition.first[static_cast<std::size_t>(k)] = n;
    n = cut[at(k, n)];
  }
  return partition;
}

}  // namespace pipemark
