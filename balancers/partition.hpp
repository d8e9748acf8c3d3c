// Partition: which contiguous layers form each stage. Layers are embedding, blocks, head, in order.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "schedules/cost_model.hpp"

namespace pipemark {

struct Partition {
  /// Stage s holds layers [first[s], first[s + 1]); first[0] = 0, first[S] = number of layers.
  std::vector<int> first;

  int stages() const { return static_cast<int>(first.size()) - 1; }
  int layers() const { return first.empty() ? 0 : first.back(); }
  int stage_of(int layer) const;
  bool operator==(const Partition&) const = default;
};

/// What a balancer knows of one layer. Times are seconds of one micro-batch on one device.
struct LayerCost {
  std::string name;  ///< "embedding", "block/3", "head"
  std::int64_t parameters = 0;
  double forward_s = 0, input_grad_s = 0, weight_grad_s = 0;
  double total_s() const { return forward_s + input_grad_s + weight_grad_s; }
};

/// F, I and W of layers [first, last), added to `start`.
StageCost stage_time(const std::vector<LayerCost>& layers, int first, int last,
                     StageCost start = {0, 0, 0});

}  // namespace pipemark
