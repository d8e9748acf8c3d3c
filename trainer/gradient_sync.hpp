// GradientSync: which ranks hold the same stage, and the sums of their gradients at a step's end.
//
//   1. holders   a stage's gradients over its replicas (bidirectional schedules) and the data
//                dimension: every holder gets the sum
//                (a rank of the expert dimension has data of its own, so the sum is over that
//                too); experts' gradients over those that hold the same experts
//   2. tied      the embedding's part + the head's part of a tied table, on all holders of either
//
// Every sum runs in rank order, so it depends on the grid only and all holders get the same bits. It
// runs on the device where a DeviceSum is made for its group, else through host memory by MPI.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "kernels/arena.hpp"
#include "kernels/ops.hpp"
#include "schedules/schedule.hpp"
#include "trainer/cluster.hpp"
#include "trainer/cluster_sum.hpp"
#include "trainer/device_links.hpp"

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

  /// Collective over the world. `links` null: sums go by MPI.
  GradientSync(Cluster& cluster, const Grid& grid, const Placement& placement, bool tied,
               DeviceLinks* links = nullptr);
  /// Starts the sum of the k-th held stage while the ranks go on computing; once a step, on a host
  /// device. run() ends what was begun. Every holder of a stage must begin it, or none.
  void begin(int k, Tensor all);
  bool begun(int k) const;
  /// Collective. `held[k]` is the k-th of placement.held_by(pipeline rank), the same tensors in each
  /// call. By MPI the gradients of a device that is not the host pass through host memory that is
  /// made in the first call.
  void run(Device& device, Stream stream, const std::vector<HeldGradients>& held);

 private:
  /// A group and its sums on the device, where it has them.
  struct Part {
    std::unique_ptr<Group> group;
    std::unique_ptr<DeviceSum> device;
    std::map<int, int> numbers;  ///< of the device's sums, by the held stage
  };
  struct Sum {
    Part all;
    Part experts;           ///< the part of the group with this rank's experts
    std::vector<int> held;  ///< this rank's stages in it, in the order of the stages
  };
  void add_round(Cluster& cluster, const Grid& grid, const std::vector<HolderSet>& sets,
                 const std::vector<int>& round);
  void add_tied(Cluster& cluster, const Grid& grid, const Placement& placement);
  Part make_part(Group group);
  void run_sum(Device& device, Stream stream, Part& part, int held, Tensor values,
               const char* what);
  void sum_at_home(Device& device, Stream stream, Tensor embedding, Tensor head);
  void wait(Device& device, Stream stream);
  void sum_tied(Device& device, Stream stream, const std::vector<HeldGradients>& held);

  std::vector<Sum> sums_;
  struct Begun {
    int held;
    PendingSum sum;
  };
  std::vector<Begun> begun_;
  std::vector<std::pair<int, int>> held_;  ///< (replica, stage)
  int last_stage_ = 0;
  std::unique_ptr<Part> tied_;  ///< null where this rank needs no message for it
  DeviceLinks* links_;
  double timeout_s_;
  WaitPolicy wait_policy_;
  static constexpr std::int64_t kStagedElements = 4 * 1024 * 1024;
  Arena staging_memory_;
  Tensor staging_;
};

}  // namespace pipemark
