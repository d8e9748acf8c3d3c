#include "trainer/peer_memory.hpp"

#include <cstring>
#include <string>

#include "trainer/cluster.hpp"

namespace pipemark {

std::vector<void*> shared_places(Group& group, PeerMemory& memory, void* own) {
  const SharedPlace place = memory.share(own);
  const auto all =
      group.all_gather(std::string(reinterpret_cast<const char*>(&place), sizeof place));
  std::vector<void*> places;
  for (int rank = 0; rank < group.size(); ++rank) {
    SharedPlace theirs;
    std::memcpy(&theirs, all[static_cast<std::size_t>(rank)].data(), sizeof theirs);
    places.push_back(rank == group.rank() ? own : memory.open(theirs));
  }
  return places;
}

std::vector<std::uint32_t*> shared_flags(Group& group, Device& device, PeerMemory& memory,
                                         const Tensor& own) {
  const Stream stream = device.stream(StreamRole::compute);
  device.fill_zero(stream, own.data, own.bytes());
  device.synchronize(stream);
  std::vector<std::uint32_t*> flags;
  for (void* at : shared_places(group, memory, own.data)) {
    flags.push_back(static_cast<std::uint32_t*>(at));
  }
  return flags;
}

}  // namespace pipemark
