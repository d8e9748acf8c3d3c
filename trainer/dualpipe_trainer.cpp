#include "trainer/dualpipe_trainer.hpp"

#include <utility>

#include "balancers/static.hpp"
#include "trainer/cluster.hpp"
#include "trainer/run_plan.hpp"
#include "trainer/trainer.hpp"

namespace pipemark {

EPLBScheduler::EPLBScheduler(std::map<int, Node> cluster_info)
    : cluster_info_(std::move(cluster_info)) {}

Partition EPLBScheduler::place(const std::vector<LayerCost>& layers, int ranks) const {
  if (uniform()) return partition_even(static_cast<int>(layers.size()), ranks);
  std::vector<double> speeds;
  for (int rank = 0; rank < ranks; ++rank) {
    const auto node = cluster_info_.find(rank);
    if (node == cluster_info_.end() || !(node->second.flops > 0)) {
      throw UserError(
          fmt::format("EPLBScheduler: cluster_info has no positive flops for node {}", rank),
          fmt::format("give one entry {{node id, {{.flops, .mem_bandwidth}}}} for each of 0..{}",
                      ranks - 1));
    }
    speeds.push_back(node->second.flops);
  }
  // Stage s runs on ranks s and P-1-s.
  std::vector<double> stage_speeds;
  for (int s = 0; s < ranks; ++s) {
    stage_speeds.push_back(
        (speeds[static_cast<std::size_t>(s)] + speeds[static_cast<std::size_t>(ranks - 1 - s)]) /
        2);
  }
  std::vector<double> weights;
  for (const auto& layer : layers) weights.push_back(static_cast<double>(layer.parameters));
  return partition_by_weight(weights, stage_speeds);
}

DualPipeTrainer::DualPipeTrainer(const ModelConfig& model, const DualPipe::Config& config,
                                 EPLBScheduler scheduler)
    : scheduler_(std::move(scheduler)) {
  run_.model = model;
  run_.parallel.pipeline = config.stages;
  run_.train.micro_batches = config.micro_batches > 0 ? config.micro_batches : 4 * config.stages;
  run_.train.batch = run_.train.micro_batches * config.micro_batch_size;
  run_.schedule.name = "dualpipe";
}

DualPipeTrainer& DualPipeTrainer::data(const std::string& path, const std::string& format) {
  run_.data.train = path;
  run_.data.format = format;
  return *this;
}

DualPipeTrainer& DualPipeTrainer::steps(int count) {
  run_.train.steps = count;
  return *this;
}

DualPipeTrainer& DualPipeTrainer::learning_rate(double rate) {
  run_.train.learning_rate = rate;
  return *this;
}

DualPipeTrainer& DualPipeTrainer::seed(std::uint64_t value) {
  run_.train.seed = value;
  return *this;
}

TrainReport DualPipeTrainer::fit() {
  Cluster cluster(run_.train.wait_timeout_s);
  RunConfig run = run_;
  run.balancer.partition =
      scheduler_.place(layer_parameter_costs(run.model), run.parallel.pipeline).first;
  run.balancer.name = "elastic";
  return Trainer(cluster, run).fit();
}

}  // namespace pipemark
