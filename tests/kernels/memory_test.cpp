// Tensor, Arena, HostDevice and check: views stay inside, plans equal use, a full arena says so.
#include <gtest/gtest.h>

#include <cstring>

#include "kernels/arena.hpp"
#include "kernels/host_device.hpp"

namespace pipemark {
namespace {

TEST(CheckTest, ThrowsTheFormattedMessageOnlyWhenBroken) {
  EXPECT_NO_THROW(check(true, "{}", 1));
  try {
    check(false, "{} of {}", 3, 4);
    FAIL() << "no error";
  } catch (const LogicError& error) {
    EXPECT_STREQ(error.what(), "3 of 4");
  }
}

TEST(TensorTest, SlicesCountElementsAndStayInside) {
  float values[8] = {};
  const Tensor tensor{values, 8};
  EXPECT_EQ(tensor.bytes(), 32u);
  EXPECT_EQ(tensor.slice(3, 5).f32(), values + 3);
  EXPECT_EQ((Tensor{values, 8, DType::bf16}.slice(3, 5).data),
            reinterpret_cast<std::byte*>(values) + 6);
  EXPECT_THROW(tensor.slice(4, 5), LogicError);
  EXPECT_THROW(tensor.slice(-1, 1), LogicError);
  EXPECT_THROW(tensor.i32(), LogicError);
  EXPECT_FALSE(static_cast<bool>(Tensor{}));
}

TEST(ArenaTest, APlanIsTheUse) {
  HostDevice device("test");
  const auto take = [](Arena& arena) {
    const Tensor a = arena.take(3, DType::f32, "a"), b = arena.take(100, DType::bf16, "b");
    return std::pair(a, b);
  };
  Arena plan;
  take(plan);
  EXPECT_TRUE(plan.planning());
  EXPECT_EQ(plan.used_bytes(), 2 * Arena::kAlignment);
  Arena arena(device, MemoryKind::device, plan.used_bytes());
  const auto [a, b] = take(arena);
  EXPECT_EQ(arena.used_bytes(), arena.capacity_bytes());
  EXPECT_EQ(static_cast<std::byte*>(b.data) - static_cast<std::byte*>(a.data), 256);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data) % Arena::kAlignment, 0u);
  ASSERT_EQ(arena.entries().size(), 2u);
  EXPECT_EQ(arena.entries()[1].label, "b");
}

TEST(ArenaTest, AFullArenaNamesTheLabelAndTheBytes) {
  HostDevice device("test");
  Arena arena(device, MemoryKind::host, 256);
  try {
    arena.take(65, DType::f32, "block/3/qkv");
    FAIL() << "no error";
  } catch (const EnvironmentError& error) {
    const std::string what = error.what();
    for (const char* part : {"block/3/qkv", "512", "256"}) {
      EXPECT_NE(what.find(part), std::string::npos) << what;
    }
  }
  arena.seal();
  EXPECT_THROW(arena.take(1, DType::f32, "late"), LogicError);
}

TEST(ArenaTest, MovesKeepOneOwner) {
  HostDevice device("test");
  Arena arena(device, MemoryKind::host, 512);
  const Tensor tensor = arena.take(4, DType::f32, "x");
  Arena moved = std::move(arena);
  tensor.f32()[0] = 5;
  EXPECT_EQ(moved.used_bytes(), 256u);
  EXPECT_EQ(tensor.f32()[0], 5);
}

TEST(HostDeviceTest, CopiesFillsAndReadsTheClock) {
  HostDevice device("test");
  EXPECT_TRUE(device.is_host());
  EXPECT_NE(device.description().find("(test)"), std::string::npos);
  constexpr std::size_t kBytes = std::size_t{3} << 20;
  auto* memory = static_cast<unsigned char*>(device.allocate(kBytes, MemoryKind::device));
  const Stream stream = device.stream(StreamRole::compute);
  const Event begin = device.make_event(), end = device.make_event();
  device.record(begin, stream);
  std::memset(memory, 7, kBytes);
  device.fill_zero(stream, memory, kBytes / 2);
  device.copy(stream, memory + kBytes - 4, memory, 4);
  device.record(end, stream);
  device.wait(stream, end);
  device.host_wait(end);
  EXPECT_TRUE(device.done(end));
  EXPECT_GT(device.elapsed_s(begin, end), 0);
  EXPECT_EQ(device.elapsed_s(begin, end), -device.elapsed_s(end, begin));
  EXPECT_EQ(memory[kBytes - 1], 0);
  EXPECT_EQ(memory[kBytes - 5], 7);
  EXPECT_THROW(device.record({}, stream), LogicError);
  device.destroy(begin);
  device.destroy(end);
  device.release(memory, MemoryKind::device);
}

TEST(HostDeviceTest, TooMuchMemoryIsAnErrorThatSaysHowMuch) {
  HostDevice device("test");
  const std::size_t wanted = device.memory_info().total_bytes + 1;
  EXPECT_LE(device.memory_info().free_bytes, device.memory_info().total_bytes);
  try {
    device.allocate(wanted, MemoryKind::device);
    FAIL() << "no error";
  } catch (const EnvironmentError& error) {
    EXPECT_NE(std::string(error.what()).find(std::to_string(wanted)), std::string::npos);
  }
}

}  // namespace
}  // namespace pipemark
