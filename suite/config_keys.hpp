// The table of keys: each dotted key with the member of a RunConfig it fills.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "trainer/config.hpp"

namespace pipemark {

struct ConfigKey {
  std::string name;
  std::variant<int*, std::uint64_t*, double*, bool*, std::string*, std::vector<int>*> member;
};

inline std::vector<ConfigKey> config_keys(RunConfig& c) {
  return {
      {"model.preset", &c.model.preset},
      {"model.layers", &c.model.layers},
      {"model.channels", &c.model.channels},
      {"model.heads", &c.model.heads},
      {"model.context", &c.model.context},
      {"model.vocabulary", &c.model.vocabulary},
      {"model.tied", &c.model.tied},
      {"model.experts", &c.model.experts},
      {"model.top_k", &c.model.top_k},
      {"model.expert_hidden", &c.model.expert_hidden},
      {"model.router", &c.model.router},
      {"model.bias_speed", &c.model.bias_speed},
      {"model.auxiliary_scale", &c.model.auxiliary_scale},
      {"model.capacity_factor", &c.model.capacity_factor},
      {"model.expert_room", &c.model.expert_room},
      {"model.router_skew", &c.model.router_skew},
      {"data.train", &c.data.train},
      {"data.format", &c.data.format},
      {"data.validation_fraction", &c.data.validation_fraction},
      {"train.steps", &c.train.steps},
      {"train.batch", &c.train.batch},
      {"train.micro_batches", &c.train.micro_batches},
      {"train.learning_rate", &c.train.learning_rate},
      {"train.warmup_steps", &c.train.warmup_steps},
      {"train.final_learning_rate_fraction", &c.train.final_learning_rate_fraction},
      {"train.weight_decay", &c.train.weight_decay},
      {"train.beta1", &c.train.beta1},
      {"train.beta2", &c.train.beta2},
      {"train.epsilon", &c.train.epsilon},
      {"train.clip", &c.train.clip},
      {"train.seed", &c.train.seed},
      {"train.checkpointing", &c.train.checkpointing},
      {"train.validation_batches", &c.train.validation_batches},
      {"train.wait_timeout_s", &c.train.wait_timeout_s},
      {"parallel.pipeline", &c.parallel.pipeline},
      {"parallel.data", &c.parallel.data},
      {"parallel.expert", &c.parallel.expert},
      {"parallel.redundant_experts", &c.parallel.redundant_experts},
      {"schedule.name", &c.schedule.name},
      {"schedule.chunks", &c.schedule.chunks},
      {"schedule.memory_limit", &c.schedule.memory_limit},
      {"schedule.overlap", &c.schedule.overlap},
      {"balancer.name", &c.balancer.name},
      {"balancer.partition", &c.balancer.partition},
      {"balancer.experts", &c.balancer.experts},
      {"balancer.expert_interval", &c.balancer.expert_interval},
      {"balancer.rl_model_update_freq", &c.balancer.rl_model_update_freq},
      {"balancer.gradient_synchronization", &c.balancer.gradient_synchronization},
      {"device.backend", &c.device.backend},
      {"device.pace", &c.device.pace},
      {"device.devices", &c.device.devices},
      {"device.transport", &c.device.transport},
      {"device.nccl_channels", &c.device.nccl_channels},
      {"output.file", &c.output.file},
  };
}

}  // namespace pipemark
