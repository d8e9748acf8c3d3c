// The schedule IR: who does what, when. Pure data; knows no MPI, no device, no model.
//
// Legend: P ranks, S stages of one replica of the model, M micro-batches of a step, R replicas (2
// in bidirectional schedules). F forward, I input-gradient half, W weight-gradient half, B = I + W
// full backward, FB an overlapped forward of one micro-batch with the full backward of another.
// DeepSeek writes B for the full backward; the zero-bubble papers write B for what is I here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pipemark {

/// What W needs of an activation once I is done, as a part of it, where a memory limit is counted
/// as the zero-bubble papers count it: M_W / M_B = 32 / (34 + 5 a s / h) (Qi et al. 2023, table 1)
/// at a s / h = 8 (heads of 128 channels, context 1024, stored attention matrices). Their ZB-2p
/// needs it: with activations whole until W its bubble rates are below a proven bound.
constexpr double kDeferredShare = 32.0 / 74;

enum class Kind : std::uint8_t { F, B, I, W, FB };

/// One action of one rank. Text form: "2F0" (stage 2, F, micro-batch 0), "3I7", "3W7", and for a
/// pair
/// "(0F5;7B2)". Micro-batches are numbered 0..M-1 over all replicas; which replica a micro-batch
/// runs through is stored here and is the same for all its actions.
struct Action {
  Kind kind = Kind::F;
  std::int8_t replica = 0;
  std::int16_t stage = 0;
  std::int32_t micro_batch = 0;
  // The backward half of FB; unused (0) otherwise.
  std::int8_t replica_b = 0;
  std::int16_t stage_b = 0;
  std::int32_t micro_batch_b = 0;

  bool operator==(const Action&) const = default;
};

/// Which rank holds which stage. `rank[replica * stages + stage]`.
struct Placement {
  int ranks = 0;     ///< P
  int stages = 0;    ///< S
  int replicas = 1;  ///< R
  std::vector<int> rank;

  int rank_of(int replica, int stage) const {
    return rank[static_cast<std::size_t>(replica * stages + stage)];
  }
  /// (replica, stage) pairs that `rank` holds, replica 0 first, stages rising.
  std::vector<std::pair<int, int>> held_by(int rank) const;
  int stages_per_rank() const { return stages * replicas / ranks; }

  static Placement linear(int ranks);              ///< S = P, stage s on rank s
  static Placement looped(int ranks, int chunks);  ///< S = P chunks, stage s on rank s mod P
  static Placement v_shape(int ranks,
                           int chunks = 2);  ///< S = P chunks, up, down, up, ... (chunk by chunk)
  static Placement bidirectional(
      int ranks, int chunks = 1);  ///< R = 2: replica 1's stage s on rank P-1-rank_of(0, s)
};

struct Schedule {
  std::string name;
  int micro_batches = 0;  ///< M, of all replicas together
  Placement placement;
  std::vector<std::vector<Action>> ranks;  ///< ranks[r] is executed in order by rank r

  int rank_count() const { return placement.ranks; }
};

/// The same schedule run by `ranks[0], ranks[1], ...` of `total` ranks: row r moves to ranks[r],
/// the others' rows are empty. For a pipeline that leaves a device out or takes them in another
/// order.
Schedule spread(const Schedule& schedule, const std::vector<int>& ranks, int total);

}  // namespace pipemark
