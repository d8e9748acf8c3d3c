#include "trainer/cluster_sum.hpp"

#include <algorithm>
#include <vector>

#include "trainer/cluster_mpi.hpp"

namespace pipemark {

namespace {
/// Beyond the tags of Group's own collectives.
constexpr int kFirstTag = 16, kTags = 4096;
}  // namespace

struct PendingSum::State {
  Group::Impl& group;
  std::span<float> values;
  int tag;
  std::size_t part;
  std::vector<float> parts;  ///< [rank][part]: the others' values of this rank's part
  std::vector<int> peers;
  std::vector<MPI_Request> requests;  ///< receives first, in the order of peers

  std::size_t first(std::size_t rank) const { return std::min(rank * part, values.size()); }
  int length(std::size_t rank) const {
    return static_cast<int>(std::min(part, values.size() - first(rank)));
  }
  void post(bool receive, std::size_t i, float* data, int count, int with_tag) {
    const int peer = peers[i];
    MPI_Request& request = requests[receive ? i : peers.size() + i];
    PIPEMARK_MPI_CHECK(
        receive ? MPI_Irecv(data, count, MPI_FLOAT, peer, with_tag, group.comm, &request)
                : MPI_Isend(data, count, MPI_FLOAT, peer, with_tag, group.comm, &request));
  }
  void wait() { group.wait(requests, "the overlapped sum of gradients", peers); }
};

PendingSum::PendingSum(Group& group, std::span<float> values, int tag) {
  Group::Impl& g = *group.impl_;
  check(tag >= 0 && tag < kTags, "PendingSum: tag {}", tag);
  const auto n = static_cast<std::size_t>(g.size), me = static_cast<std::size_t>(g.rank);
  state_.reset(new State{g, values, kFirstTag + 2 * tag, (values.size() + n - 1) / n, {}, {}, {}});
  State& s = *state_;
  s.parts.resize(n * s.part);
  for (std::size_t p = 0; p < n; ++p) {
    if (p != me) s.peers.push_back(static_cast<int>(p));
  }
  s.requests.assign(2 * s.peers.size(), MPI_REQUEST_NULL);
  for (std::size_t i = 0; i < s.peers.size(); ++i) {
    const auto p = static_cast<std::size_t>(s.peers[i]);
    s.post(true, i, s.parts.data() + p * s.part, s.length(me), s.tag);
    s.post(false, i, values.data() + s.first(p), s.length(p), s.tag);
  }
}

PendingSum::PendingSum(PendingSum&&) noexcept = default;
PendingSum::~PendingSum() = default;

void PendingSum::add() {
  State& s = *state_;
  s.wait();
  const auto n = static_cast<std::size_t>(s.group.size),
             me = static_cast<std::size_t>(s.group.rank);
  float* own = s.values.data() + s.first(me);
  for (int i = 0; i < s.length(me); ++i) {
    float sum = me == 0 ? own[i] : s.parts[static_cast<std::size_t>(i)];
    for (std::size_t p = 1; p < n; ++p) {
      sum += p == me ? own[i] : s.parts[p * s.part + static_cast<std::size_t>(i)];
    }
    own[i] = sum;
  }
  for (std::size_t i = 0; i < s.peers.size(); ++i) {
    const auto p = static_cast<std::size_t>(s.peers[i]);
    s.post(true, i, s.values.data() + s.first(p), s.length(p), s.tag + 1);
    s.post(false, i, own, s.length(me), s.tag + 1);
  }
}

void PendingSum::finish() { state_->wait(); }

}  // namespace pipemark
