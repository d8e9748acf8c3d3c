// What a run is: plain values, filled by suite/ from TOML and the command line, or by a C++
// program.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace pipemark {

/// GPT-2 style: pre-LayerNorm, learned positions, GELU, tied embedding and head.
struct ModelConfig {
  std::string preset = "tiny";
  int layers = 4;
  int channels = 64;
  int heads = 4;
  int context = 64;      ///< T
  int vocabulary = 256;  ///< V
  bool tied = true;

  int experts = 0;        ///< of each block's mixture of experts; 0: a dense MLP
  int top_k = 2;          ///< experts that a token goes to
  int expert_hidden = 0;  ///< width of an expert; 0: 4 channels
  /// "bias": the loss-free bias (Wang et al., 2024; DeepSeek-V3, section 2.1.2): after a step each
  /// expert's bias moves by bias_speed against its load. "auxiliary": the sequence-wise balance
  /// loss (DeepSeek-V3, equations 17 to 20) times auxiliary_scale, meaned over sequences, is
  /// trained too.
  std::string router = "bias";
  double bias_speed = 0.001, auxiliary_scale = 0.01;
  /// An expert takes at most capacity_factor N k / E rows of a rank's micro-batch; 0: dropless.
  double capacity_factor = 0;
  /// Dropless: room for received rows, times N k; 0: the worst case (layers/moe_block.hpp).
  double expert_room = 0;
  /// For experiments on balancing, not for training: > 0 replaces the choice of experts by draws
  /// from a Zipf law of this exponent (the i-th expert of a drawn order as often as i^-skew).
  double router_skew = 0;

  bool has_experts() const { return experts > 0; }
  int hidden_of_expert() const { return expert_hidden > 0 ? expert_hidden : 4 * channels; }
  /// V rounded up to a multiple of 128 when it is above 1024 (50257 -> 50304), else V.
  int vocabulary_padded() const;
  /// Parameters, tied weights counted once, padding not counted, each expert once.
  std::int64_t parameters() const;
  /// 6 N + 6 L C T, N without the position and (when untied) embedding tables' look-ups, and of the
  /// experts top_k; see the source.
  double flops_per_token() const;
  /// "tiny", "gpt2-124m", "350m", "774m", "1558m". Throws UserError with the nearest known name.
  static ModelConfig from_preset(const std::string& name);
  static const std::vector<std::string>& preset_names();
};

struct DataConfig {
  std::string train;             ///< path
  std::string format = "bytes";  ///< "bytes" or "uint16"
  double validation_fraction = 0.1;
};

struct TrainConfig {
  int steps = 100;
  int batch = 32;         ///< sequences a step, over all micro-batches and data ranks
  int micro_batches = 8;  ///< of one pipeline
  double learning_rate = 3e-4;
  int warmup_steps = 10;
  double final_learning_rate_fraction = 0.1;  ///< cosine ends here
  double weight_decay = 0.1, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double clip = 1.0;  ///< global gradient norm; 0: no clipping
  std::uint64_t seed = 1;
  std::string checkpointing =
      "none";                  ///< activation checkpointing: "none", "full", or stages "0,2"
  int validation_batches = 8;  ///< batches of the validation split at the end; 0: none
  double wait_timeout_s = 60;  ///< a wait longer than this ends the job with whom it waited for
};

struct ParallelConfig {
  int pipeline = 1, data = 1, expert = 1;
  int redundant_experts = 0;  ///< places for replicas, of an expert group
  int ranks() const { return pipeline * data * expert; }
};

struct ScheduleConfig {
  std::string name = "1f1b";
  int chunks = 0;  ///< 0: the schedule's default
  /// zb-auto: most activations a rank may hold, times 1F1B's (P micro-batches of 1/P of the model).
  double memory_limit = 0;
  /// An FB pair's halves share the device: one computes while the other's expert rows are under
  /// way. false: F, then B.
  bool overlap = true;
};

struct BalancerConfig {
  std::string name = "static-even";
  /// Where it is not empty: the partition itself (Partition::first), whatever the name.
  std::vector<int> partition;
  /// Placement of experts and their replicas: "none" (in order) or "eplb", made from the measured
  /// loads every expert_interval steps.
  std::string experts = "none";
  int expert_interval = 10;
  // Of "elastic":
  int rl_model_update_freq = 20;  ///< steps between updates of its policy on line; 0: none
  /// When the gradients of replicas are summed: "step" (at its end), "bucket" (as soon as a stage's
  /// are whole, beside what is left of the step) or "off" (never: shows what goes wrong).
  std::string gradient_synchronization = "step";
};

struct DeviceConfig {
  /// Of all ranks, or a list by pipeline rank: "cuda,cuda,kokkos".
  std::string backend = "kokkos";
  std::string pace;  ///< path of a profile; empty: measured
  /// Slices of one GPU by CUDA MPS: "mps:8" (equal) or percentages by local rank, "mps:40,30,20,10".
  std::string devices;
  /// "auto" (by what the ranks' devices can), "mpi", "ipc" or "nccl".
  std::string transport = "auto";
  int nccl_channels = 2;  ///< most multiprocessors a NCCL message may take on either side
};

struct OutputConfig {
  std::string file = "run.h5";
};

struct RunConfig {
  ModelConfig model;
  DataConfig data;
  TrainConfig train;
  ParallelConfig parallel;
  ScheduleConfig schedule;
  BalancerConfig balancer;
  DeviceConfig device;
  OutputConfig output;
};

/// UserError naming the key, the value and what would be right.
void check_model(const ModelConfig& model);
/// The same; also that the batch divides into micro-batches, data and expert ranks.
void check_train(const TrainConfig& train, const ParallelConfig& parallel);
/// The same, of what experts need of the other tables.
void check_experts(const RunConfig& config);

}  // namespace pipemark
