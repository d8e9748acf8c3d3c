#include "trainer/transport_ipc_sum.hpp"

#include <algorithm>

#include "trainer/cluster.hpp"

namespace pipemark {

namespace {
constexpr std::int64_t kFlags = 512 * 1024;  // a whole page of device memory
}

IpcSum::IpcSum(Group& group, Device& device, PeerMemory& memory)
    : group_(group),
      memory_(memory),
      flags_memory_(device, MemoryKind::device, kFlags * sizeof(std::uint32_t)) {
  const Tensor flags = flags_memory_.take(kFlags, DType::i32, "transport/sum flags");
  flags_ = shared_flags(group_, device, memory_, flags);
}

int IpcSum::prepare(Tensor values) {
  Parts& parts = tensors_.emplace_back();
  for (void* at : shared_places(group_, memory_, values.data)) {
    parts.of.push_back(static_cast<float*>(at));
  }
  parts.size = values.size;
  const double largest = group_.allreduce_max(static_cast<double>(values.size), "a sum's size");
  check(largest == static_cast<double>(values.size), "IpcSum: {} elements here, {} elsewhere",
        values.size, largest);
  return static_cast<int>(tensors_.size()) - 1;
}

void IpcSum::meet(Stream stream, int phase) {
  const int n = group_.size(), me = group_.rank();
  const auto flag = [&](int on, int from) {
    return flags_[static_cast<std::size_t>(on)] + phase * n + from;
  };
  for (int rank = 0; rank < n; ++rank) {
    if (rank != me) memory_.write_flag(stream, flag(rank, me), count_);
  }
  for (int rank = 0; rank < n; ++rank) {
    if (rank != me) memory_.wait_flag(stream, flag(me, rank), count_);
  }
}

void IpcSum::run(Stream stream, int number, std::int64_t first, std::int64_t count) {
  const Parts& parts = tensors_[static_cast<std::size_t>(number)];
  check(first >= 0 && first % 4 == 0 && first + count <= parts.size,
        "IpcSum: elements [{}, {}) of {}", first, first + count, parts.size);
  ++count_;
  meet(stream, 0);
  const std::int64_t n = group_.size();
  const std::int64_t share = ((count + n - 1) / n + 3) / 4 * 4;  // 16-byte vectors
  const std::int64_t begin = std::min(share * group_.rank(), count);
  memory_.sum_ordered(stream, parts.of, first + begin, std::min(share, count - begin));
  meet(stream, 1);
}

}  // namespace pipemark
