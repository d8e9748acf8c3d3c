// PeerMemory for tests without a GPU: a deferred FakeDevice whose memory is shared between the ranks
// of this machine, and flags that its streams write and wait for when their turn comes.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>

#include "tests/trainer/executor_fakes.hpp"
#include "trainer/peer_memory.hpp"

namespace pipemark::testing {

class FakePeerMemory final : public PeerMemory {
 public:
  explicit FakePeerMemory(FakeDevice& device) : device_(device) {
    device.allocator = [this](std::size_t bytes) { return make(bytes); };
  }
  ~FakePeerMemory() override {
    for (const Block& block : own_) shm_unlink(block.name.c_str());
    for (const Block& block : opened_) munmap(block.base, block.bytes);
  }

  SharedPlace share(const void* memory) override {
    const auto* at = static_cast<const std::byte*>(memory);
    for (const Block& block : own_) {
      if (at < block.base || at >= block.base + block.bytes) continue;
      SharedPlace place;
      std::memcpy(place.handle.data(), block.name.c_str(), block.name.size() + 1);
      place.offset = static_cast<std::uint64_t>(at - block.base);
      return place;
    }
    throw LogicError("FakePeerMemory: not this device's memory");
  }
  void* open(const SharedPlace& place) override {
    const std::string name(reinterpret_cast<const char*>(place.handle.data()));
    for (const Block& block : opened_) {
      if (block.name == name) return block.base + place.offset;
    }
    const int file = shm_open(name.c_str(), O_RDWR, 0600);
    const off_t bytes = lseek(file, 0, SEEK_END);
    opened_.push_back(map(name, file, static_cast<std::size_t>(bytes)));
    return opened_.back().base + place.offset;
  }

  void write_flag(Stream stream, std::uint32_t* flag, std::uint32_t value) override {
    device_.enqueue(stream, [=] { std::atomic_ref(*flag).store(value); });
  }
  void wait_flag(Stream stream, const std::uint32_t* flag, std::uint32_t value) override {
    device_.hold(stream, [=, this] { return reached(read_flag(flag), value); });
  }
  std::uint32_t read_flag(const std::uint32_t* flag) override {
    return std::atomic_ref(*const_cast<std::uint32_t*>(flag)).load();
  }
  void sum_ordered(Stream stream, std::span<float* const> parts, std::int64_t first,
                   std::int64_t count) override {
    const std::vector<float*> all(parts.begin(), parts.end());
    device_.enqueue(stream, [=] {
      for (std::int64_t i = first; i < first + count; ++i) {
        float sum = all[0][i];
        for (std::size_t p = 1; p < all.size(); ++p) sum += all[p][i];
        for (float* part : all) part[i] = sum;
      }
    });
  }

 private:
  struct Block {
    std::string name;
    std::byte* base = nullptr;
    std::size_t bytes = 0;
  };
  static Block map(const std::string& name, int file, std::size_t bytes) {
    void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    check(base != MAP_FAILED, "FakePeerMemory: {} of {} bytes can't be mapped", name, bytes);
    return {name, static_cast<std::byte*>(base), bytes};
  }
  void* make(std::size_t bytes) {
    static int count = 0;
    const std::string name = fmt::format("/pipemark-test-{}-{}", getpid(), count++);
    const int file = shm_open(name.c_str(), O_CREAT | O_RDWR, 0600);
    const std::size_t rounded = (bytes + 4095) / 4096 * 4096;
    check(file >= 0 && ftruncate(file, static_cast<off_t>(rounded)) == 0, "no shared memory");
    own_.push_back(map(name, file, rounded));
    return own_.back().base;
  }

  FakeDevice& device_;
  std::vector<Block> own_, opened_;
};

}  // namespace pipemark::testing
