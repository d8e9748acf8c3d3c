// The library's front door for a user's C++ program: a GPT trained under DualPipe, its layers
// placed by a scheduler that knows the cluster.
//
//   DualPipe::Config config{.stages = 4, .micro_batch_size = 4};
//   EPLBScheduler scheduler({{0, {.flops = 1e12, .mem_bandwidth = 1e11}}, ...});
//   TrainReport report = DualPipeTrainer(model, config, scheduler).data("text.txt").fit();
//
// The program runs under mpirun with config.stages x data ranks. Everything else (another schedule,
// a record) is Trainer's and suite/'s.
#pragma once

#include <map>
#include <string>

#include "trainer/config.hpp"
#include "trainer/report.hpp"

namespace pipemark {

/// DualPipe's own settings (DeepSeek-V3 technical report, section 3.2.1).
struct DualPipe {
  struct Config {
    int stages = 2;            ///< pipeline ranks, even
    int micro_batch_size = 1;  ///< sequences of one micro-batch
    int micro_batches = 0;     ///< of a step, even and at least 2 stages; 0: 4 stages
  };
};

/// Elastic pipeline load balancing (balancers/elastic): layers are placed before the first step in
/// proportion to what is known of the nodes (a bidirectional pipeline puts stages s and S-1-s on the
/// same two ranks, so their mean speed counts), and moved in the running job where that changes.
class EPLBScheduler {
 public:
  struct Node {
    double flops = 0;          ///< FLOP/s
    double mem_bandwidth = 0;  ///< bytes/s
  };
  /// node id (the pipeline rank, 0..P-1) -> node. Empty: all nodes are alike.
  explicit EPLBScheduler(std::map<int, Node> cluster_info = {});

  /// Layers for stages of DualPipe over `ranks` ranks: the exact contiguous partition with the
  /// smallest largest weight / speed. Throws UserError when a rank is missing or not positive.
  Partition place(const std::vector<LayerCost>& layers, int ranks) const;
  bool uniform() const { return cluster_info_.empty(); }

 private:
  std::map<int, Node> cluster_info_;
};

class DualPipeTrainer {
 public:
  DualPipeTrainer(const ModelConfig& model, const DualPipe::Config& config,
                  EPLBScheduler scheduler);

  /// Text ("bytes") or tokens ("uint16") to train on.
  DualPipeTrainer& data(const std::string& path, const std::string& format = "bytes");
  DualPipeTrainer& steps(int count);
  DualPipeTrainer& learning_rate(double rate);
  DualPipeTrainer& seed(std::uint64_t value);

  /// Starts MPI when the program has not. Collective; the report is whole on rank 0. Throws
  /// UserError on every rank where something does not fit.
  TrainReport fit();
  /// What fit() will run, for a look or a change before it.
  RunConfig& run_config() { return run_; }

 private:
  RunConfig run_;
  EPLBScheduler scheduler_;
};

}  // namespace pipemark
