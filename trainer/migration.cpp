#include "trainer/migration.hpp"

#include <algorithm>

namespace pipemark {

namespace {
/// Moves whose messages are under way at once: enough to fill a link, few enough for staging.
constexpr std::size_t kWindow = 32;
/// master, m, v and, where they are memory of their own, the working weights.
constexpr int kBuffers = 4;

/// The rank and replica of the old plan that `rank` of `replica` takes a layer from.
std::pair<int, int> source_of(const Placement& placement, int stage, int replica, int rank) {
  for (int r = 0; r < placement.replicas; ++r) {
    if (placement.rank_of(r, stage) == rank) return {rank, r};
  }
  const int r = std::min(replica, placement.replicas - 1);
  return {placement.rank_of(r, stage), r};
}

GptStage& stage_of(const HeldStages& held, int rank, int replica, int stage) {
  const auto list = held.plan.schedule.placement.held_by(rank);
  const auto at = std::find(list.begin(), list.end(), std::pair(replica, stage));
  check(at != list.end(), "migration: rank {} does not hold stage {} of replica {}", rank, stage,
        replica);
  return *held.stages[static_cast<std::size_t>(at - list.begin())];
}

/// The tensor's parts in a stage's flat buffers; the working weights are left out where they are
/// the master's memory.
std::vector<Tensor> parts_of(GptStage& stage, const ParameterSpec& spec) {
  Parameters& parameters = stage.parameters();
  const ParamRange range =
      parameters.ranges()[static_cast<std::size_t>(parameters.find(spec.name))];
  std::vector<Tensor> parts;
  for (const Tensor& flat : {parameters.master, parameters.m, parameters.v, parameters.weights}) {
    if (parts.size() == 3 && flat.data == parameters.master.data) break;
    parts.push_back(flat.slice(range.offset, range.size));
  }
  return parts;
}

void zero(Device& device, Stream stream, Parameters& parameters) {
  for (const Tensor& flat :
       {parameters.master, parameters.weights, parameters.gradients, parameters.m, parameters.v}) {
    device.fill_zero(stream, flat.data, flat.bytes());
  }
}

bool local(const Move& move) { return move.from_rank == move.to_rank; }
}  // namespace

std::vector<Move> list_moves(const ModelConfig& model, const RunPlan& from, const RunPlan& to) {
  std::vector<Move> moves;
  const Placement& placement = to.schedule.placement;
  for (int replica = 0; replica < placement.replicas; ++replica) {
    for (int stage = 0; stage < placement.stages; ++stage) {
      const int rank = placement.rank_of(replica, stage);
      const LayerRange layers = to.layers_of(stage);
      const bool whole = layers.first == 0 && layers.last == model.layers + 2;
      for (int layer = layers.first; layer < layers.last; ++layer) {
        const int old_stage = from.partition.stage_of(layer);
        const auto [source, old_replica] =
            source_of(from.schedule.placement, old_stage, replica, rank);
        const auto specs = layer_parameters(model, layer);
        for (std::size_t t = 0; t < specs.size(); ++t) {
          if (specs[t].tied_copy && whole) continue;  // the stage has the table once
          moves.push_back(
              {layer, static_cast<int>(t), source, old_stage, rank, stage, old_replica, replica});
        }
      }
    }
  }
  return moves;
}

std::int64_t migrate(const ModelConfig& model, Device& device, Stream stream, Transport* transport,
                     int rank, const HeldStages& from, const HeldStages& to) {
  for (const auto& stage : to.stages) zero(device, stream, stage->parameters());
  const std::vector<Move> moves = list_moves(model, from.plan, to.plan);
  std::int64_t sent_bytes = 0;
  const WaitContext context{-1, "parameters of a moved layer", -1, -1};
  struct Message {
    MessageId id;
    bool receive;
  };
  for (std::size_t begin = 0; begin < moves.size(); begin += kWindow) {
    std::vector<Message> messages;
    const std::size_t end = std::min(moves.size(), begin + kWindow);
    for (std::size_t i = begin; i < end; ++i) {
      const Move& move = moves[i];
      if (move.from_rank != rank && move.to_rank != rank) continue;
      const ParameterSpec spec =
          layer_parameters(model, move.layer)[static_cast<std::size_t>(move.tensor)];
      std::vector<Tensor> source, target;
      if (move.from_rank == rank) {
        source = parts_of(stage_of(from, rank, move.from_replica, move.from_stage), spec);
      }
      if (move.to_rank == rank) {
        target = parts_of(stage_of(to, rank, move.to_replica, move.to_stage), spec);
      }
      for (std::size_t b = 0; b < std::max(source.size(), target.size()); ++b) {
        const int tag = static_cast<int>((i - begin) * kBuffers + b);
        if (local(move)) {
          device.copy(stream, target[b].data, source[b].data, source[b].bytes());
        } else if (move.to_rank == rank) {
          messages.push_back({transport->post_receive(target[b], move.from_rank, tag), true});
        } else {
          messages.push_back({transport->post_send(source[b], move.to_rank, tag, stream), false});
          sent_bytes += static_cast<std::int64_t>(source[b].bytes());
        }
      }
    }
    for (const Message& message : messages) {
      if (message.receive) {
        transport->wait_received(message.id, stream, context);
      } else {
        transport->wait_sent(message.id, stream, context);
      }
    }
  }
  device.synchronize(stream);
  return sent_bytes;
}

}  // namespace pipemark
