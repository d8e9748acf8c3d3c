// GradientSync: which ranks hold the same stage, and the sums of their gradients at a step's end.
//
//   1. holders   a stage's gradients over its replicas (bidirectional schedules) and the data
//                dimension: every holder gets the sum
//                (a rank of the expert dimension has data of its own, so the sum is over that
//                too); experts' gradients over those that hold the same experts
//   2. tied      the embedding's part + the head's part of a tied table, on all holders of either
//
// Every sum runs in rank order, so it depends on the grid only and all holders get the same bits.
#pragma once

#include <memory>
#include <vector>

#include "kernels/ops.hpp"
#include "schedules/schedule.hpp"
#include "trainer/cluster.hpp"

namespace pipemark {

/// Which ranks of a pipeline hold a set of stages. A pure function of the placement.
struct HolderSet {
  std::vector<int> ranks;   ///< pipeline ranks, rising
  std::vector<int> stages;  ///< held by just these ranks, rising
};
/// In the order of their first stage; a stage held once makes a set of one rank.
std::vector<HolderSet> holder_sets(const Placement& placement);

/// Sets that share no rank, so that one split of the world makes all their groups: rounds of
/// indices into `sets`.
std::vector<std::vector<int>> disjoint_rounds(const std::vector<HolderSet>& sets);

class GradientSync {
 public:
  /// What is summed: the flat fp32 gradients of the k-th held stage, and the tied table's part of
  /// them (empty where the stage has none or the table is not shared with another stage).
  struct HeldGradients {
    Tensor all;
    Tensor tied;
    Tensor experts = {};  ///< then `all` is without them
  };

  /// Collective over the world.
  GradientSync(Cluster& cluster, const Grid& grid, const Placement& placement, bool tied);
  /// Collective. `held[k]` is the k-th of placement.held_by(pipeline rank). On a device that is not
  /// the host the gradients pass through host memory that is made in the first call.
  void run(Device& device, Stream stream, const std::vector<HeldGradients>& held);

 private:
  struct Sum {
    Group group;
    Group experts;          ///< the part of `group` with this rank's experts
    std::vector<int> held;  ///< this rank's stages in it, in the order of the stages
  };
  void add_round(Cluster& cluster, const Grid& grid, const std::vector<HolderSet>& sets,
                 const std::vector<int>& round);
  void add_tied(Cluster& cluster, const Grid& grid, const Placement& placement);
  void sum(Device& device, Stream stream, Group& group, Tensor values, const char* what);
  void sum_tied(Device& device, Stream stream, const std::vector<HeldGradients>& held);

  std::vector<Sum> sums_;
  std::vector<std::pair<int, int>> held_;  ///< (replica, stage)
  int last_stage_ = 0;
  std::unique_ptr<Group> tied_group_;  ///< null where this rank needs no message for it
  std::vector<float> staging_, other_;
};

}  // namespace pipemark
