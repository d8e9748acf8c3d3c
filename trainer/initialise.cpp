#include "trainer/initialise.hpp"

#include <algorithm>

#include "trainer/random.hpp"

namespace pipemark {

void initialise(const ParameterSpec& spec, std::uint64_t seed, std::span<float> values) {
  check(static_cast<std::int64_t>(values.size()) == spec.size, "initialise {}: {} values for {}",
        spec.name, values.size(), spec.size);
  std::fill(values.begin(), values.end(), spec.initial == Initial::one ? 1.0f : 0.0f);
  if (spec.initial != Initial::normal) return;
  const CounterRandom random(seed, static_cast<std::uint64_t>(spec.model_index));
  const auto count = static_cast<std::size_t>(spec.logical_size);
  for (std::size_t i = 0; i < count; i += 2) {
    const auto [even, odd] = random.normal_pair(i / 2);
    values[i] = static_cast<float>(spec.deviation * even);
    if (i + 1 < count) values[i + 1] = static_cast<float>(spec.deviation * odd);
  }
}

}  // namespace pipemark
