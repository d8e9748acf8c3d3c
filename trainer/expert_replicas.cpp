#include "trainer/expert_replicas.hpp"

#include <algorithm>
#include <deque>

namespace pipemark {

namespace {

/// A part of a flat fp32 buffer as host memory: itself on a host device, else a copy.
class HostView {
 public:
  HostView(Device& device, Stream stream, Tensor tensor)
      : device_(device), stream_(stream), tensor_(tensor) {
    if (device.is_host()) return;
    copy_.resize(static_cast<std::size_t>(tensor.size));
    device.copy(stream, copy_.data(), tensor.data, tensor.bytes());
    device.synchronize(stream);
  }
  std::span<float> values() {
    return copy_.empty() ? std::span<float>(tensor_.f32(), static_cast<std::size_t>(tensor_.size))
                         : std::span<float>(copy_);
  }
  void write(std::span<const float> from) {
    if (from.data() == tensor_.data) return;  // exchanged in place
    device_.copy(stream_, tensor_.data, from.data(), tensor_.bytes());
    device_.synchronize(stream_);
  }

 private:
  Device& device_;
  Stream stream_;
  Tensor tensor_;
  std::vector<float> copy_;
};

/// The four tensors of a place of this rank in one of the flat buffers.
Tensor expert_of(const GptStage& stage, const Tensor& flat, int block, int slot) {
  const int first = stage.expert_tensor(block, slot);
  return stage.parameters().span(flat, first, first + kExpertTensors - 1);
}

void add_to(std::span<float> sum, std::span<const float> values) {
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += values[i];
}

/// One block's sums: others' gradients to the primary place, their sum back.
class ReplicaSum {
 public:
  ReplicaSum(Group& group, Ops& ops, Stream stream, GptStage& stage, int block)
      : group_(group),
        ops_(ops),
        stream_(stream),
        stage_(stage),
        block_(block),
        map_(stage.expert_map(block)) {}

  void run() {
    gather();
    for (int expert = 0; expert < map_.experts(); ++expert) add(expert);
    scatter();
  }

 private:
  bool here(int place) const { return place / map_.slots() == group_.rank(); }
  HostView& gradient(int place) {
    HostView*& view = views_[static_cast<std::size_t>(place)];
    if (view == nullptr) {
      store_.emplace_back(
          ops_.device(), stream_,
          expert_of(stage_, stage_.parameters().gradients, block_, place % map_.slots()));
      view = &store_.back();
    }
    return *view;
  }
  /// f(primary place, another place) of every expert with several.
  template <class F>
  void for_replicas(F&& f) {
    for (int expert = 0; expert < map_.experts(); ++expert) {
      const std::vector<int>& places = map_.places_of(expert);
      for (std::size_t i = 1; i < places.size(); ++i) f(places.front(), places[i]);
    }
  }

  void gather() {
    views_.assign(static_cast<std::size_t>(map_.places()), nullptr);
    came_.resize(static_cast<std::size_t>(map_.places()));
    std::vector<Group::Part> parts;
    for_replicas([&](int primary, int place) {
      if (here(place) == here(primary)) return;
      if (here(place)) {
        parts.push_back({primary / map_.slots(), place, gradient(place).values(), true});
      } else if (here(primary)) {
        std::vector<float>& room = came_[static_cast<std::size_t>(place)];
        room.resize(gradient(primary).values().size());
        parts.push_back({place / map_.slots(), place, room, false});
      }
    });
    group_.exchange(parts, "replicas' gradients");
  }

  void add(int expert) {
    const std::vector<int>& places = map_.places_of(expert);
    if (places.size() == 1 || !here(places.front())) return;
    const std::span<float> sum = gradient(places.front()).values();
    for (std::size_t i = 1; i < places.size(); ++i) {
      add_to(sum, here(places[i]) ? gradient(places[i]).values()
                                  : std::span<float>(came_[static_cast<std::size_t>(places[i])]));
    }
  }

  void scatter() {
    std::vector<Group::Part> parts;
    for_replicas([&](int primary, int place) {
      if (here(place) == here(primary)) return;
      if (here(primary)) {
        parts.push_back({place / map_.slots(), place, gradient(primary).values(), true});
      } else if (here(place)) {
        parts.push_back({primary / map_.slots(), place, gradient(place).values(), false});
      }
    });
    group_.exchange(parts, "replicas' sums");
    for_replicas([&](int primary, int place) {
      if (here(place)) {
        gradient(place).write(here(primary) ? gradient(primary).values()
                                            : gradient(place).values());
      }
      if (here(primary)) gradient(primary).write(gradient(primary).values());
    });
  }

  Group& group_;
  Ops& ops_;
  Stream stream_;
  GptStage& stage_;
  int block_;
  const ExpertMap& map_;
  std::deque<HostView> store_;
  std::vector<HostView*> views_;          ///< by place
  std::vector<std::vector<float>> came_;  ///< by place, on the primary's rank
};

/// Where the expert of `place` in the new map comes from: a place of this rank if there is one.
int source_of(const ExpertMap& from, const ExpertMap& to, int place) {
  const std::vector<int>& places = from.places_of(to.expert_of(place));
  const int rank = place / to.slots();
  const auto near = std::find_if(places.begin(), places.end(),
                                 [&](int source) { return source / from.slots() == rank; });
  return near != places.end() ? *near : places.front();
}

}  // namespace

void sum_replicas(Group& group, Ops& ops, Stream stream, GptStage& stage) {
  for (int block = 0; block < stage.moe_blocks(); ++block) {
    ReplicaSum(group, ops, stream, stage, block).run();
  }
}

std::int64_t move_experts(Group& group, Ops& ops, Stream stream, GptStage& stage, int block,
                          const ExpertMap& map) {
  ExpertMap& now = stage.expert_map(block);
  check(map.places() == now.places() && map.ranks() == now.ranks(),
        "move_experts: {} places on {} ranks become {} on {}", now.places(), now.ranks(),
        map.places(), map.ranks());
  const Parameters& parameters = stage.parameters();
  const int slots = map.slots();
  std::int64_t received = 0;
  for (const Tensor& flat : {parameters.master, parameters.m, parameters.v}) {
    std::deque<HostView> views;
    std::deque<std::vector<float>> came;  // all sources are read before any place is written
    std::vector<Group::Part> parts;
    std::vector<std::pair<HostView*, std::vector<float>*>> writes;
    for (int place = 0; place < map.places(); ++place) {
      if (map.expert_of(place) == now.expert_of(place)) continue;
      const int source = source_of(now, map, place);
      const int to = place / slots, from = source / slots;
      if (from == group.rank()) {
        views.emplace_back(ops.device(), stream, expert_of(stage, flat, block, source % slots));
        if (to != from) parts.push_back({to, place, views.back().values(), true});
      }
      if (to != group.rank()) continue;
      if (from == to) {
        const auto values = views.back().values();
        came.emplace_back(values.begin(), values.end());
      } else {
        came.emplace_back(static_cast<std::size_t>(expert_of(stage, flat, block, 0).size));
        parts.push_back({from, place, came.back(), false});
        received += static_cast<std::int64_t>(came.back().size() * sizeof(float));
      }
      views.emplace_back(ops.device(), stream, expert_of(stage, flat, block, place % slots));
      writes.emplace_back(&views.back(), &came.back());
    }
    group.exchange(parts, "moved experts");
    for (const auto& [view, values] : writes) view->write(*values);
  }
  if (parameters.weights.data != parameters.master.data) {
    ops.convert(stream, parameters.master, parameters.weights, parameters.size);
  }
  now = map;
  stage.rename_experts(block);
  return received;
}

}  // namespace pipemark
