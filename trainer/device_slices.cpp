#include "trainer/device_slices.hpp"

#include <charconv>
#include <cstdlib>
#include <numeric>

#include "kernels/arena.hpp"
#include "trainer/clock.hpp"

namespace pipemark {

namespace {
[[noreturn]] void refuse(const std::string& devices, const std::string& why) {
  throw UserError(fmt::format("device.devices = \"{}\": {}", devices, why),
                  "write \"mps:8\" for eight equal slices, or percentages by rank that add up to 100 "
                  "or less, as \"mps:40,30,20,10\"");
}

std::vector<double> parse_numbers(const std::string& devices, const std::string& text) {
  std::vector<double> numbers;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (true) {
    double number = 0;
    const auto [next, error] = std::from_chars(at, end, number);
    if (error != std::errc{} || !(number > 0) || (next != end && *next != ',')) {
      refuse(devices, fmt::format("\"{}\" is no list of positive numbers", text));
    }
    numbers.push_back(number);
    if (next == end) return numbers;
    at = next + 1;
  }
}
}  // namespace

std::vector<double> parse_slices(const std::string& devices) {
  if (devices.empty()) return {};
  if (devices.rfind("mps:", 0) != 0) refuse(devices, "only \"mps:...\" is known");
  std::vector<double> numbers = parse_numbers(devices, devices.substr(4));
  if (numbers.size() == 1) {
    const double count = numbers.front();
    if (count != static_cast<int>(count) || count > 48) {  // the most clients of a device
      refuse(devices, fmt::format("{} is no number of slices from 1 to 48", count));
    }
    return std::vector<double>(static_cast<std::size_t>(count), 100 / count);
  }
  const double sum = std::accumulate(numbers.begin(), numbers.end(), 0.0);
  if (sum > 100.001) refuse(devices, fmt::format("the percentages add up to {}", sum));
  return numbers;
}

void enter_slice(double percent, const std::string& mps_folder) {
  setenv("CUDA_MPS_PIPE_DIRECTORY", mps_folder.c_str(), 1);
  setenv("CUDA_MPS_LOG_DIRECTORY", mps_folder.c_str(), 1);
  setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", fmt::format("{}", percent).c_str(), 1);
}

double measure_speed_under_load(Ops& ops, Group& world) {
  constexpr int kRows = 4096, kIn = 1024, kOut = 4096, kBatch = 20;
  constexpr double kSeconds = 0.1;
  Device& device = ops.device();
  const DType act = ops.activation_dtype();
  const std::size_t bytes = (std::size_t{kRows} * (kIn + kOut) + std::size_t{kIn} * kOut) *
                                size_of(act) + 4 * Arena::kAlignment;
  const std::size_t workspace = ops.workspace_bytes({1, 16, 64, 4}, 128);
  Arena arena(device, MemoryKind::device, bytes + workspace + Arena::kAlignment);
  ops.set_workspace(arena.take(static_cast<std::int64_t>(workspace / 4 + 1), DType::f32, "speed"));
  const Tensor x = arena.take(std::int64_t{kRows} * kIn, act, "speed/x");
  const Tensor w = arena.take(std::int64_t{kIn} * kOut, act, "speed/w");
  const Tensor y = arena.take(std::int64_t{kRows} * kOut, act, "speed/y");
  const Stream stream = device.stream(StreamRole::compute);
  // Not zeros, which a GPU multiplies faster: the bytes 0x3c are 0.0115 in bf16 and in fp32.
  const std::vector<std::byte> pattern(std::max(x.bytes(), w.bytes()), std::byte{0x3c});
  for (const Tensor& t : {x, w}) device.copy(stream, t.data, pattern.data(), t.bytes());
  const auto run = [&] {
    ops.linear_forward(stream, {kRows, kIn, kOut}, x, w, Tensor{}, y);
  };
  run();
  device.synchronize(stream);
  world.barrier();
  const double begin_s = now_s();
  double calls = 0, seconds = 0;
  while (seconds < kSeconds) {
    for (int i = 0; i < kBatch; ++i) run();
    device.synchronize(stream);
    calls += kBatch;
    seconds = now_s() - begin_s;
  }
  return 2.0 * kRows * kIn * kOut * calls / seconds;
}

}  // namespace pipemark
