#include "trainer/gradient_sync.hpp"

#include <algorithm>
#include <numeric>
#include <set>

namespace pipemark {

std::vector<HolderSet> holder_sets(const Placement& placement) {
  std::vector<HolderSet> sets;
  for (int stage = 0; stage < placement.stages; ++stage) {
    std::vector<int> ranks;
    for (int replica = 0; replica < placement.replicas; ++replica) {
      ranks.push_back(placement.rank_of(replica, stage));
    }
    std::sort(ranks.begin(), ranks.end());
    check(std::adjacent_find(ranks.begin(), ranks.end()) == ranks.end(),
          "holder_sets: a rank holds two replicas of stage {}", stage);
    const auto same = std::find_if(sets.begin(), sets.end(),
                                   [&](const HolderSet& set) { return set.ranks == ranks; });
    if (same != sets.end()) {
      same->stages.push_back(stage);
    } else {
      sets.push_back({ranks, {stage}});
    }
  }
  return sets;
}

std::vector<std::vector<int>> disjoint_rounds(const std::vector<HolderSet>& sets) {
  std::vector<std::vector<int>> rounds;
  std::vector<std::set<int>> taken;
  for (int i = 0; i < static_cast<int>(sets.size()); ++i) {
    const auto& ranks = sets[static_cast<std::size_t>(i)].ranks;
    std::size_t round = 0;
    const auto clashes = [&](const std::set<int>& used) {
      return std::any_of(ranks.begin(), ranks.end(), [&](int r) { return used.count(r) > 0; });
    };
    while (round < rounds.size() && clashes(taken[round])) ++round;
    if (round == rounds.size()) {
      rounds.emplace_back();
      taken.emplace_back();
    }
    rounds[round].push_back(i);
    taken[round].insert(ranks.begin(), ranks.end());
  }
  return rounds;
}

GradientSync::GradientSync(Cluster& cluster, const Grid& grid, const Placement& placement,
                           bool tied, DeviceLinks* links)
    : held_(placement.held_by(grid.pipeline_rank)),
      last_stage_(placement.stages - 1),
      links_(links),
      timeout_s_(cluster.timeout_s()),
      wait_policy_(cluster.wait_policy()) {
  const auto sets = holder_sets(placement);
  for (const auto& round : disjoint_rounds(sets)) add_round(cluster, grid, sets, round);
  if (tied && placement.stages > 1) add_tied(cluster, grid, placement);
}

void GradientSync::add_round(Cluster& cluster, const Grid& grid, const std::vector<HolderSet>& sets,
                             const std::vector<int>& round) {
  const int none = static_cast<int>(sets.size());
  int mine = none;
  for (const int i : round) {
    const auto& ranks = sets[static_cast<std::size_t>(i)].ranks;
    if (std::binary_search(ranks.begin(), ranks.end(), grid.pipeline_rank)) mine = i;
  }
  // A group spans its ranks of every pipeline of the data and expert dimensions.
  Group group = cluster.split(mine, cluster.rank(), "replicas' group");
  Group experts = cluster.split(mine * grid.expert.size() + grid.expert_rank, cluster.rank(),
                                "experts' replicas' group");
  if (mine == none || group.size() == 1) return;
  Sum& sum = sums_.emplace_back(Sum{make_part(std::move(group)), make_part(std::move(experts)), {}});
  for (const int stage : sets[static_cast<std::size_t>(mine)].stages) {
    for (std::size_t k = 0; k < held_.size(); ++k) {
      if (held_[k].second == stage) sum.held.push_back(static_cast<int>(k));
    }
  }
}

void GradientSync::add_tied(Cluster& cluster, const Grid& grid, const Placement& placement) {
  // One pair a pipeline does it, that of replica 0, where replica 1's copies lie on the same two
  // ranks (both bidirectional placements here do that); each holder of both ends sums at home.
  const int first = placement.rank_of(0, 0), last = placement.rank_of(0, last_stage_);
  for (int replica = 1; replica < placement.replicas; ++replica) {
    const int a = placement.rank_of(replica, 0), b = placement.rank_of(replica, last_stage_);
    check((a == last && b == first) || (a == first && b == last),
          "GradientSync: the ends of replica {} are on other ranks than those of replica 0",
          replica);
  }
  if (first == last || placement.replicas > 1) return;
  const bool in = grid.pipeline_rank == first || grid.pipeline_rank == last;
  const int pipeline = grid.data_rank * grid.expert.size() + grid.expert_rank;
  Group group = cluster.split(in ? pipeline : cluster.size(), cluster.rank(), "tied ends");
  if (in) tied_ = std::make_unique<Part>(make_part(std::move(group)));
}

GradientSync::Part GradientSync::make_part(Group group) {
  Part part;
  part.group = std::make_unique<Group>(std::move(group));
  if (links_ != nullptr && part.group->size() > 1) part.device = links_->make_sum(*part.group);
  return part;
}

void GradientSync::run_sum(Device& device, Stream stream, Part& part, int held, Tensor values,
                           const char* what) {
  if (part.group->size() == 1) return;
  if (part.device != nullptr) {
    const auto [number, first] = part.numbers.try_emplace(held, -1);
    if (first) number->second = part.device->prepare(values);
    return part.device->run(stream, number->second, 0, values.size);
  }
  const auto count = static_cast<std::size_t>(values.size);
  if (device.is_host()) {
    part.group->allreduce_sum(std::span<float>(values.f32(), count), what);
    return;
  }
  if (!staging_) {
    staging_memory_ = Arena(device, MemoryKind::host, kStagedElements * sizeof(float));
    staging_ = staging_memory_.take(kStagedElements, DType::f32, "gradients/staging");
  }
  for (std::int64_t first = 0; first < values.size; first += kStagedElements) {
    const Tensor piece = values.slice(first, std::min(kStagedElements, values.size - first));
    device.copy(stream, staging_.data, piece.data, piece.bytes());
    device.synchronize(stream);
    part.group->allreduce_sum(
        std::span<float>(staging_.f32(), static_cast<std::size_t>(piece.size)), what);
    device.copy(stream, piece.data, staging_.data, piece.bytes());
    device.synchronize(stream);
  }
}

/// Both ends here: embedding + head, the order in which the pair's ranks are summed.
void GradientSync::sum_at_home(Device& device, Stream stream, Tensor embedding, Tensor head) {
  if (links_ != nullptr && links_->sum_at_home(stream, embedding, head)) return;
  const auto count = static_cast<std::size_t>(embedding.size);
  std::vector<float> here[2];
  float *a = embedding.f32(), *b = head.f32();
  if (!device.is_host()) {
    for (auto& copy : here) copy.resize(count);
    device.copy(stream, here[0].data(), embedding.data, embedding.bytes());
    device.copy(stream, here[1].data(), head.data, head.bytes());
    device.synchronize(stream);
    a = here[0].data();
    b = here[1].data();
  }
  for (std::size_t i = 0; i < count; ++i) b[i] = a[i] = a[i] + b[i];
  if (!device.is_host()) {
    device.copy(stream, embedding.data, a, embedding.bytes());
    device.copy(stream, head.data, a, head.bytes());
    device.synchronize(stream);
  }
}

void GradientSync::sum_tied(Device& device, Stream stream, const std::vector<HeldGradients>& held) {
  Tensor embedding, head;
  for (std::size_t k = 0; k < held_.size(); ++k) {
    if (held_[k].second == 0) embedding = held[k].tied;
    if (held_[k].second == last_stage_) head = held[k].tied;
  }
  if (tied_ != nullptr) {
    run_sum(device, stream, *tied_, 0, embedding ? embedding : head, "gradients of the tied table");
  } else if (embedding && head) {
    sum_at_home(device, stream, embedding, head);
  }
}

void GradientSync::begin(int k, Tensor all) {
  for (auto& sum_of : sums_) {
    if (std::find(sum_of.held.begin(), sum_of.held.end(), k) == sum_of.held.end()) continue;
    const int tag = held_[static_cast<std::size_t>(k)].second;
    const std::span<float> values(all.f32(), static_cast<std::size_t>(all.size));
    begun_.push_back({k, PendingSum(*sum_of.all.group, values, tag)});
  }
}

bool GradientSync::begun(int k) const {
  return std::any_of(begun_.begin(), begun_.end(), [&](const Begun& b) { return b.held == k; });
}

void GradientSync::run(Device& device, Stream stream, const std::vector<HeldGradients>& held) {
  check(held.size() == held_.size(), "GradientSync::run: {} stages, {} held", held.size(),
        held_.size());
  // All adds before any finish: an add needs what its peers sent at begin() only.
  for (Begun& one : begun_) one.sum.add();
  for (Begun& one : begun_) one.sum.finish();
  for (Sum& sum : sums_) {
    for (const int k : sum.held) {
      if (begun(k)) continue;
      const HeldGradients& of = held[static_cast<std::size_t>(k)];
      run_sum(device, stream, sum.all, k, of.all, "gradients");
      if (of.experts) run_sum(device, stream, sum.experts, k, of.experts, "experts' gradients");
    }
  }
  begun_.clear();
  if (last_stage_ > 0) sum_tied(device, stream, held);
  if (!device.is_host()) wait(device, stream);
}

/// For the sums' end, with the time-out: a peer may never come.
void GradientSync::wait(Device& device, Stream stream) {
  const Event done = device.make_event();
  device.record(done, stream);
  Backoff backoff(wait_policy_);
  const double begin_s = now_s();
  while (!device.done(done)) {
    backoff.pause();
    if (!backoff.look_at_clock() || now_s() - begin_s < timeout_s_) continue;
    std::string groups;
    for (const Sum& sum : sums_) groups += fmt::format(" {} of {}", sum.all.group->name(),
                                                          sum.all.group->size());
    if (tied_ != nullptr) groups += " " + tied_->group->name();
    throw TransportError(fmt::format("waited {:.1f} s for the sums of gradients ({})",
                                     now_s() - begin_s, groups.empty() ? "none" : groups.substr(1)));
  }
  device.destroy(done);
}

}  // namespace pipemark
