// Group: collectives by nonblocking calls that are polled, so that a peer that never comes ends in
// a message and not in a hang.
//
// The ordered sum of n ranks, block by block: each rank owns 1/n of the block, receives the others'
// parts of it, adds them in rank order 0, 1, ..., n-1, and sends the result to all. It moves
// 2 (n-1)/n of the bytes a rank, as a ring does, and its order does not depend on where ranks run.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>

#include "trainer/cluster_mpi.hpp"

namespace pipemark {
namespace {

std::atomic<bool> failed{false};

/// Elements that a rank owns of a block: 64 Ki of fp32 stay in a core's cache with those of its
/// peers.
constexpr std::size_t kOwnedElements = 64 * 1024;

constexpr int kScatterTag = 1, kGatherTag = 2, kExchangeTag = 3;

template <class T>
MPI_Datatype mpi_type();
template <>
MPI_Datatype mpi_type<float>() {
  return MPI_FLOAT;
}
template <>
MPI_Datatype mpi_type<double>() {
  return MPI_DOUBLE;
}

}  // namespace

bool mpi_failed() { return failed; }
void set_mpi_failed() { failed = true; }

void check_mpi(int code, const char* call, const char* file, int line) {
  if (code == MPI_SUCCESS) return;
  set_mpi_failed();
  char text[MPI_MAX_ERROR_STRING] = "unknown MPI error";
  int length = 0, rank = -1;
  MPI_Error_string(code, text, &length);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  throw TransportError(
      fmt::format("{} failed on rank {}: {} ({}:{})", call, rank, text, file, line));
}

Group::Impl::~Impl() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (comm != MPI_COMM_NULL && comm != MPI_COMM_WORLD && finalized == 0 && !failed) {
    MPI_Comm_free(&comm);
  }
}

void Group::Impl::wait(std::span<MPI_Request> pending, const std::string& what,
                       std::span<const int> peers) {
  Backoff backoff(wait_policy);
  const double begin_s = now_s();
  for (;;) {
    int all_done = 0;
    PIPEMARK_MPI_CHECK(MPI_Testall(static_cast<int>(pending.size()), pending.data(), &all_done,
                                   MPI_STATUSES_IGNORE));
    if (all_done != 0) return;
    backoff.pause();
    if (backoff.look_at_clock() && now_s() - begin_s > timeout_s) break;
  }
  set_mpi_failed();
  std::string missing;
  for (std::size_t i = 0; i < peers.size(); ++i) {
    int done = 0;
    MPI_Request_get_status(pending[i], &done, MPI_STATUS_IGNORE);
    if (done == 0) {
      missing = fmt::format(" for rank {}", world_ranks[static_cast<std::size_t>(peers[i])]);
      break;
    }
  }
  throw TransportError(fmt::format("rank {} waited {:.1f} s in {}{} ({} of {})",
                                   world_ranks[static_cast<std::size_t>(rank)], now_s() - begin_s,
                                   what, missing, name, size));
}

Group::Group() : impl_(std::make_unique<Impl>()) { impl_->world_ranks = {0}; }
Group::Group(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Group::Group(Group&&) noexcept = default;
Group& Group::operator=(Group&&) noexcept = default;
Group::~Group() = default;

int Group::rank() const { return impl_->rank; }
int Group::size() const { return impl_->size; }
const std::string& Group::name() const { return impl_->name; }
int Group::world_rank(int rank) const {
  check(rank >= 0 && rank < impl_->size, "Group::world_rank: rank {} of {}", rank, impl_->size);
  return impl_->world_ranks[static_cast<std::size_t>(rank)];
}

void Group::barrier() {
  if (impl_->size == 1) return;
  MPI_Request request;
  PIPEMARK_MPI_CHECK(MPI_Ibarrier(impl_->comm, &request));
  impl_->wait({&request, 1}, "a barrier");
}

template <class T>
void Group::ordered_sum(std::span<T> values, const char* what) {
  Impl& g = *impl_;
  if (g.size == 1 || values.empty()) return;
  const auto n = static_cast<std::size_t>(g.size), me = static_cast<std::size_t>(g.rank);
  const std::size_t largest = std::min(kOwnedElements, (values.size() + n - 1) / n);
  g.scratch.resize(std::max(g.scratch.size(), n * largest * sizeof(T)));
  g.requests.resize(std::max(g.requests.size(), 2 * (n - 1)));
  T* scratch = reinterpret_cast<T*>(g.scratch.data());
  const std::string name = std::string("the sum of ") + what;
  std::vector<int> peers;  // receives first, in the order of requests
  for (std::size_t p = 0; p < n; ++p) {
    if (p != me) peers.push_back(static_cast<int>(p));
  }
  for (std::size_t begin = 0; begin < values.size(); begin += n * largest) {
    const std::size_t count = std::min(n * largest, values.size() - begin);
    const std::size_t part = (count + n - 1) / n;
    T* block = values.data() + begin;
    auto first = [&](std::size_t rank) { return std::min(rank * part, count); };
    auto length = [&](std::size_t rank) {
      return static_cast<int>(std::min(part, count - first(rank)));
    };
    const auto exchange = [&](auto receive_at, auto receive_length, auto send_at, auto send_length,
                              int tag) {
      for (std::size_t i = 0; i < n - 1; ++i) {
        const int peer = peers[i];
        const auto p = static_cast<std::size_t>(peer);
        PIPEMARK_MPI_CHECK(MPI_Irecv(receive_at(p), receive_length(p), mpi_type<T>(), peer, tag,
                                     g.comm, &g.requests[i]));
        PIPEMARK_MPI_CHECK(MPI_Isend(send_at(p), send_length(p), mpi_type<T>(), peer, tag, g.comm,
                                     &g.requests[n - 1 + i]));
      }
      g.wait({g.requests.data(), 2 * (n - 1)}, name, peers);
    };
    const auto mine = [&](std::size_t) { return block + first(me); };
    const auto mine_length = [&](std::size_t) { return length(me); };
    const auto theirs = [&](std::size_t p) { return block + first(p); };
    exchange([&](std::size_t p) { return scratch + p * largest; }, mine_length, theirs, length,
             kScatterTag);
    T* own = block + first(me);
    for (int i = 0; i < length(me); ++i) {
      T sum = me == 0 ? own[i] : scratch[i];
      for (std::size_t p = 1; p < n; ++p) sum += p == me ? own[i] : scratch[p * largest + i];
      own[i] = sum;
    }
    exchange(theirs, length, mine, mine_length, kGatherTag);
  }
}

void Group::allreduce_sum(std::span<float> values, const char* what) { ordered_sum(values, what); }
void Group::allreduce_sum(std::span<double> values, const char* what) { ordered_sum(values, what); }
double Group::allreduce_sum(double value, const char* what) {
  ordered_sum(std::span<double>(&value, 1), what);
  return value;
}

void Group::exchange(std::span<const Part> parts, const char* what) {
  std::vector<MPI_Request> requests(parts.size());
  std::vector<int> peers;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const Part& part = parts[i];
    const int count = static_cast<int>(part.values.size());
    const int tag = kExchangeTag + part.tag;
    PIPEMARK_MPI_CHECK(part.send ? MPI_Isend(part.values.data(), count, MPI_FLOAT, part.peer, tag,
                                             impl_->comm, &requests[i])
                                 : MPI_Irecv(part.values.data(), count, MPI_FLOAT, part.peer, tag,
                                             impl_->comm, &requests[i]));
    peers.push_back(part.peer);
  }
  if (!parts.empty()) impl_->wait(requests, std::string("the exchange of ") + what, peers);
}

double Group::allreduce_max(double value, const char* what) {
  if (impl_->size == 1) return value;
  double result = value;
  MPI_Request request;
  PIPEMARK_MPI_CHECK(
      MPI_Iallreduce(&value, &result, 1, MPI_DOUBLE, MPI_MAX, impl_->comm, &request));
  impl_->wait({&request, 1}, std::string("the maximum of ") + what);
  return result;
}

double Group::allreduce_min(double value, const char* what) { return -allreduce_max(-value, what); }

void Group::broadcast(std::span<std::byte> bytes, int root) {
  if (impl_->size == 1) return;
  check(bytes.size() <= 0x7fffffff, "Group::broadcast: {} bytes", bytes.size());
  MPI_Request request;
  PIPEMARK_MPI_CHECK(MPI_Ibcast(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, root,
                                impl_->comm, &request));
  impl_->wait({&request, 1}, fmt::format("a broadcast from rank {}", world_rank(root)));
}

std::string Group::broadcast(const std::string& text, int root) {
  std::uint64_t size = text.size();
  broadcast(std::as_writable_bytes(std::span(&size, 1)), root);
  std::string out = text;
  out.resize(size);
  broadcast(std::as_writable_bytes(std::span(out.data(), out.size())), root);
  return out;
}

namespace {

/// Byte strings of all ranks on every rank (`all`) or on rank 0.
std::vector<std::string> gather_bytes(Group::Impl& g, std::span<const std::byte> own, bool all) {
  const auto n = static_cast<std::size_t>(g.size);
  std::vector<int> counts(n), offsets(n);
  int count = static_cast<int>(own.size());
  MPI_Request request;
  PIPEMARK_MPI_CHECK(
      MPI_Iallgather(&count, 1, MPI_INT, counts.data(), 1, MPI_INT, g.comm, &request));
  g.wait({&request, 1}, "a gather of sizes");
  std::exclusive_scan(counts.begin(), counts.end(), offsets.begin(), 0);
  const bool here = all || g.rank == 0;
  const auto total = static_cast<std::size_t>(offsets.back() + counts.back());
  std::vector<char> bytes(here ? total : 0);
  PIPEMARK_MPI_CHECK(all ? MPI_Iallgatherv(own.data(), count, MPI_BYTE, bytes.data(), counts.data(),
                                           offsets.data(), MPI_BYTE, g.comm, &request)
                         : MPI_Igatherv(own.data(), count, MPI_BYTE, bytes.data(), counts.data(),
                                        offsets.data(), MPI_BYTE, 0, g.comm, &request));
  g.wait({&request, 1}, "a gather");
  std::vector<std::string> out;
  if (!here) return out;
  for (std::size_t r = 0; r < n; ++r) {
    out.emplace_back(bytes.data() + offsets[r], static_cast<std::size_t>(counts[r]));
  }
  return out;
}

}  // namespace

std::vector<std::string> Group::gather(const std::string& text) {
  if (impl_->size == 1) return {text};
  return gather_bytes(*impl_, std::as_bytes(std::span(text.data(), text.size())), false);
}

std::vector<std::string> Group::all_gather(const std::string& text) {
  if (impl_->size == 1) return {text};
  return gather_bytes(*impl_, std::as_bytes(std::span(text.data(), text.size())), true);
}

std::vector<std::vector<double>> Group::gather(std::span<const double> values) {
  if (impl_->size == 1) return {std::vector<double>(values.begin(), values.end())};
  std::vector<std::vector<double>> out;
  for (const std::string& bytes : gather_bytes(*impl_, std::as_bytes(values), false)) {
    std::vector<double>& row = out.emplace_back(bytes.size() / sizeof(double));
    if (!row.empty()) std::memcpy(row.data(), bytes.data(), bytes.size());
  }
  return out;
}

}  // namespace pipemark
