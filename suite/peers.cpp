#include "suite/peers.hpp"

#include <fstream>
#include <nlohmann/json.hpp>

#include "suite/config.hpp"
#include "suite/environment.hpp"
#include "suite/statistics.hpp"

namespace pipemark {

namespace {
constexpr double kConfidence = 0.95;

struct Peer {
  std::string program, settings, command, like;
  std::vector<double> step_s, losses;
  int warm_up = 0;
  std::int64_t device_bytes = 0;
};

Peer read_peer(const std::string& path) {
  std::ifstream file(path);
  if (!file)
    throw UserError(fmt::format("{}: cannot be read", path), "give the path of a peer's JSON");
  try {
    const auto json = nlohmann::json::parse(file);
    Peer peer;
    json.at("program").get_to(peer.program);
    json.at("settings").get_to(peer.settings);
    json.at("command").get_to(peer.command);
    json.at("like").get_to(peer.like);
    json.at("step_s").get_to(peer.step_s);
    json.at("loss").get_to(peer.losses);
    json.at("warm_up").get_to(peer.warm_up);
    json.at("device_bytes").get_to(peer.device_bytes);
    return peer;
  } catch (const nlohmann::json::exception& error) {
    throw UserError(fmt::format("{}: {}", path, error.what()),
                    "it needs program, settings, command, like, step_s, loss, warm_up and "
                    "device_bytes");
  }
}

/// The columns that say what was run, from a run of ours that did the same.
RunRow same_task(const RunRow& like, const std::string& program) {
  RunRow row;
  row.uuid = new_uuid();
  row.created = utc_now();
  row.role = kPeerRole;
  row.schedule = row.balancer = row.transport = "none";
  row.backend = program;
  row.ranks = row.pipeline = row.data = row.stages = 1;
  row.micro_batches = like.micro_batches;
  row.preset = like.preset;
  row.layers = like.layers;
  row.channels = like.channels;
  row.heads = like.heads;
  row.context = like.context;
  row.vocabulary = like.vocabulary;
  row.parameters = like.parameters;
  row.tokens_per_step = like.tokens_per_step;
  row.steps = like.steps;
  row.seed = like.seed;
  row.evidence = "measured";
  row.ranks_per_core = like.ranks_per_core;
  return row;
}
}  // namespace

RunRecord read_peer_run(const std::string& path) {
  const Peer peer = read_peer(path);
  const RunRecord like = read_record(peer.like).runs.at(0);
  const auto steps = static_cast<std::size_t>(like.row.steps);
  if (like.row.ranks != 1 || peer.step_s.size() != steps ||
      (!peer.losses.empty() && peer.losses.size() != steps)) {
    throw UserError(fmt::format("{}: {} step times and {} losses for the {} steps of {}", path,
                                peer.step_s.size(), peer.losses.size(), steps, peer.like),
                    "a peer runs the same steps on one rank, and gives all losses or none");
  }
  RunRecord run;
  run.configuration = like.configuration;
  run.row = same_task(like.row, peer.program);
  run.row.factors = fmt::format("{}: {}; {}", peer.program, peer.settings, peer.command);
  for (std::size_t i = 0; i < steps; ++i) {
    const auto step = static_cast<std::int64_t>(i);
    const bool warmup = step < peer.warm_up;
    run.samples.push_back({0, step, "step_s", peer.step_s[i], warmup});
    if (peer.losses.empty()) continue;
    run.samples.push_back({0, step, "loss", peer.losses[i], warmup});
    run.losses.push_back({step, peer.losses[i]});
  }
  RunRow& row = run.row;
  row.steps_done = row.steps;
  row.complete = row.valid = true;
  const MedianInterval interval = median_interval(run.values_of("step_s", true), kConfidence);
  row.median_step_s = interval.median;
  row.ci_low_s = interval.low;
  row.ci_high_s = interval.high;
  row.confidence = interval.confidence;
  row.tokens_per_s = static_cast<double>(row.tokens_per_step) / row.median_step_s;
  row.model_flops_per_s =
      row.tokens_per_s * parse_canonical(like.configuration, peer.like).model.flops_per_token();
  if (!peer.losses.empty()) {
    row.first_loss = peer.losses.front();
    row.last_loss = peer.losses.back();
  }
  MemoryRow memory = like.memory.empty() ? MemoryRow{} : like.memory.front();
  memory.arena_bytes = row.peak_arena_bytes = peer.device_bytes;
  memory.peak_resident_bytes = 0;
  memory.peak_live = memory.predicted_peak_live = 0;
  run.memory.push_back(std::move(memory));
  return run;
}

}  // namespace pipemark
