// Cluster: the MPI job. Starts and ends MPI, knows where the ranks are, cuts the world into groups,
// and gives each group collectives whose sums have a fixed order and whose waits have an end.
//
// A grid of ranks is data x pipeline x expert: world rank = (data * P + pipeline) * E + expert.
// Point-to-point of boundary tensors is TransportMpi's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "trainer/clock.hpp"

namespace pipemark {

/// A communicator. All members are collective over it, in the same order on every rank; each throws
/// TransportError naming rank, operation and group after the time-out.
class Group {
 public:
  Group();
  Group(Group&&) noexcept;
  Group& operator=(Group&&) noexcept;
  ~Group();

  int rank() const;
  int size() const;
  int world_rank(int rank) const;   ///< of a rank of this group
  const std::string& name() const;  ///< for messages: "pipeline group"

  void barrier();
  /// In place. Every element is summed in rank order 0, 1, ..., so the result depends on the grid
  /// only, and is the same on every rank. Scratch grows in the first call.
  void allreduce_sum(std::span<float> values, const char* what = "values");
  void allreduce_sum(std::span<double> values, const char* what = "values");
  double allreduce_sum(double value, const char* what = "value");
  double allreduce_max(double value, const char* what = "value");
  double allreduce_min(double value, const char* what = "value");
  void broadcast(std::span<std::byte> bytes, int root);
  std::string broadcast(const std::string& text, int root);
  /// One entry a rank on rank 0, empty elsewhere.
  std::vector<std::string> gather(const std::string& text);
  std::vector<std::vector<double>> gather(std::span<const double> values);
  /// One message of exchange(): to or from `peer`; both sides give it the same tag.
  struct Part {
    int peer = 0, tag = 0;
    std::span<float> values;
    bool send = false;
  };
  /// All of them at once; every rank's parts must meet their counterparts.
  void exchange(std::span<const Part> parts, const char* what);
  /// The same on every rank.
  std::vector<std::string> all_gather(const std::string& text);

  struct Impl;  ///< holds the communicator; trainer/mpi_check.hpp
  const Impl& impl() const { return *impl_; }

 private:
  friend class Cluster;
  friend class PendingSum;
  explicit Group(std::unique_ptr<Impl> impl);
  template <class T>
  void ordered_sum(std::span<T> values, const char* what);
  std::unique_ptr<Impl> impl_;
};

/// This rank's place in the grid and its groups (each through this rank).
struct Grid {
  int pipeline_rank = 0, data_rank = 0, expert_rank = 0;
  Group pipeline, data, expert;
};

/// What to add to this rank's now_s() to read rank 0's clock, at most `error_s` off.
struct ClockOffset {
  double offset_s = 0, error_s = 0;
};

class Cluster {
 public:
  /// Initialises MPI unless it is (then it also finalises it). `timeout_s` bounds every wait.
  explicit Cluster(double timeout_s = 60);
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;
  /// Finalises MPI, except after a failure: then a peer may never come, and the job is left to
  /// abort_job() or to the launcher.
  ~Cluster();

  Group& world() { return world_; }
  int rank() const { return world_.rank(); }
  int size() const { return world_.size(); }
  const std::string& host() const { return host_; }
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }  ///< ranks on this host
  int node_count() const { return node_count_; }
  /// Hardware threads that this host's ranks may use (affinity and cgroup quota), never 0.
  int local_cores() const { return local_cores_; }
  /// Most ranks a hardware thread over all hosts; above 1 the job is oversubscribed and timings
  /// that are not paced are invalid. The same on every rank.
  double ranks_per_core() const { return ranks_per_core_; }
  bool oversubscribed() const { return ranks_per_core_ > 1; }
  WaitPolicy wait_policy() const {
    return oversubscribed() ? WaitPolicy::shared_core : WaitPolicy::own_core;
  }
  std::string mpi_library() const;  ///< "Open MPI v4.1.4", for the record

  double timeout_s() const { return timeout_s_; }
  /// Also of the groups made from now on.
  void set_timeout(double timeout_s);

  /// Collective. Throws UserError when the product is not the number of ranks.
  Grid make_grid(int pipeline, int data, int expert = 1);
  /// Collective over the world: ranks of the same color form a group, ordered by key.
  Group split(int color, int key, const std::string& name);

  /// Collective, measured once: ranks on rank 0's machine share its clock (offset 0), others
  /// ping-pong with rank 0 and keep the shortest round trip.
  ClockOffset clock_offset();
  /// Collective. The ping-pong alone, also on one machine.
  ClockOffset measure_clock_offset(int round_trips = 64);

  /// Ends the job: `error: message` and `hint: ...` once a host on standard error, then every
  /// rank is stopped with the exit code. For a failure of one rank that others don't know of.
  [[noreturn]] void abort_job(int exit_code, const std::string& message,
                              const std::string& hint = {});

 private:
  void find_hosts();

  bool owns_mpi_ = false;
  double timeout_s_;
  Group world_;
  std::string host_;
  int local_rank_ = 0, local_size_ = 1, node_count_ = 1, local_cores_ = 1;
  double ranks_per_core_ = 1;
  std::unique_ptr<ClockOffset> clock_;
  int* abort_flag_ = nullptr;  ///< shared by the ranks of a host: who speaks
};

}  // namespace pipemark
