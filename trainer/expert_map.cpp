#include "trainer/expert_map.hpp"

#include <numeric>

namespace pipemark {

ExpertMap::ExpertMap(int experts, int ranks, std::vector<int> expert_of)
    : ranks_(ranks),
      expert_of_(std::move(expert_of)),
      places_of_(static_cast<std::size_t>(experts)) {
  check(ranks >= 1 && places() % ranks == 0, "ExpertMap: {} places on {} ranks", places(), ranks);
  for (int place = 0; place < places(); ++place) {
    const int expert = expert_of_[static_cast<std::size_t>(place)];
    check(expert >= 0 && expert < experts, "ExpertMap: place {} holds expert {} of {}", place,
          expert, experts);
    places_of_[static_cast<std::size_t>(expert)].push_back(place);
  }
  for (int expert = 0; expert < experts; ++expert) {
    check(!places_of(expert).empty(), "ExpertMap: expert {} has no place", expert);
  }
}

ExpertMap ExpertMap::in_order(int experts, int ranks, int places) {
  std::vector<int> expert_of(static_cast<std::size_t>(places));
  for (int place = 0; place < places; ++place) {
    expert_of[static_cast<std::size_t>(place)] = place % experts;
  }
  return {experts, ranks, std::move(expert_of)};
}

DispatchPlan plan_dispatch(std::span<const std::int32_t> chosen, const RouterShape& shape,
                           const ExpertMap& map, std::int64_t capacity, int first) {
  const std::size_t count = chosen.size();
  const auto E = static_cast<std::size_t>(shape.experts);
  const auto by_sequence = static_cast<std::size_t>(shape.tokens) * shape.top_k;
  DispatchPlan plan;
  plan.counts.assign(count / by_sequence * E, 0);
  plan.sent.assign(static_cast<std::size_t>(map.places()), 0);
  plan.place.assign(count, -1);
  std::vector<std::int32_t> taken(E, 0), target(count, -1);
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t expert = chosen[i];
    check(expert >= 0 && expert < shape.experts, "plan_dispatch: expert {} of {}", expert,
          shape.experts);
    ++plan.counts[i / by_sequence * E + static_cast<std::size_t>(expert)];
    std::int32_t& of_expert = taken[static_cast<std::size_t>(expert)];
    if (capacity > 0 && of_expert >= capacity) continue;
    const std::vector<int>& places = map.places_of(expert);
    target[i] = places[static_cast<std::size_t>(of_expert++ + first) % places.size()];
    ++plan.sent[static_cast<std::size_t>(target[i])];
  }
  std::vector<std::int32_t> next(plan.sent.size());
  std::exclusive_scan(plan.sent.begin(), plan.sent.end(), next.begin(), 0);
  plan.index.resize(static_cast<std::size_t>(next.back() + plan.sent.back()));
  for (std::size_t i = 0; i < count; ++i) {
    if (target[i] < 0) continue;
    plan.place[i] = next[static_cast<std::size_t>(target[i])]++;
    plan.index[static_cast<std::size_t>(plan.place[i])] =
        static_cast<std::int32_t>(i / static_cast<std::size_t>(shape.top_k));
  }
  return plan;
}

}  // namespace pipemark
