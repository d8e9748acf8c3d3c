// GptChain: a whole GPT as stages of one process, joined by hand, to judge GptStage without
// transport and schedule. Orders of a step: all F then all B; all F, all I, all W; or one
// micro-batch after the other, in turn by B and by I, W.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/arena.hpp"
#include "kernels/ops.hpp"
#include "trainer/gpt_stage.hpp"
#include "trainer/optimizer.hpp"

namespace pipemark {

enum class Order { full, split, one_by_one };

struct ChainConfig {
  ModelConfig model;
  TrainConfig train;       ///< batch and micro_batches; seed; optimizer
  std::vector<int> first;  ///< stage s holds layers [first[s], first[s + 1])
  Order order = Order::full;
  bool checkpointing = false;
};

class GptChain {
 public:
  GptChain(Ops& ops, const ChainConfig& config) : ops_(ops), config_(config) {
    Arena planning;
    build(planning);
    arena_ = Arena(ops.device(), MemoryKind::device, planning.used_bytes());
    build(arena_);
    arena_.seal();
    planned_bytes_ = planning.used_bytes();
    stream_ = ops.device().stream(StreamRole::compute);
    for (auto& stage : stages_) stage->parameters().initialise(config.train.seed);
  }

  std::size_t planned_bytes() const { return planned_bytes_; }
  const Arena& arena() const { return arena_; }
  GptStage& stage(int s) { return *stages_[static_cast<std::size_t>(s)]; }
  Stream stream() const { return stream_; }

  /// Forward and backward of all micro-batches; gradients whole afterwards. Returns the mean loss.
  double gradients_of(std::span<const std::int32_t> tokens, std::span<const std::int32_t> targets) {
    begin(tokens, targets);
    const int M = config_.train.micro_batches;
    if (config_.order == Order::one_by_one) {
      for (int m = 0; m < M; ++m) {
        forward(m, 0);
        if (m % 2 == 0) {
          backward(m, 0);
        } else {
          backward_input(m, 0, 0);
          backward_weight(m, 0, 0);
        }
      }
    } else {
      for (int m = 0; m < M; ++m) forward(m, m);
      for (int m = 0; m < M; ++m) {
        config_.order == Order::full ? backward(m, m) : backward_input(m, m, m);
      }
      for (int m = 0; m < M && config_.order == Order::split; ++m) backward_weight(m, m, m);
    }
    sum_tied();
    return mean_loss();
  }

  /// Mean loss without any gradient.
  double evaluate(std::span<const std::int32_t> tokens, std::span<const std::int32_t> targets) {
    for (auto& stage : stages_) {
      stage->set_batch(stream_, tokens, targets);
      stage->set_evaluation(true);
    }
    for (int m = 0; m < config_.train.micro_batches; ++m) forward(m, 0);
    for (auto& stage : stages_) stage->set_evaluation(false);
    return mean_loss();
  }

  /// One AdamW step on the gradients; returns their norm.
  double apply(std::int64_t step) {
    const int tensors = static_cast<int>(model_parameters(config_.model).size());
    std::vector<double> squared(static_cast<std::size_t>(tensors), 0.0);
    for (auto& optimizer : optimizers_) {
      const std::vector<double> part = optimizer->squared_norms(stream_, tensors);
      for (std::size_t i = 0; i < part.size(); ++i) squared[i] += part[i];
    }
    const double norm = total_norm(squared);
    for (auto& optimizer : optimizers_) optimizer->apply(stream_, norm, step);
    return norm;
  }

  /// The same of a chain of one stage, clipped on the device.
  float apply_alone(std::int64_t step) {
    Optimizer& optimizer = *optimizers_.front();
    optimizer.clip_alone(stream_);
    optimizer.apply_clipped(stream_, step);
    float norm = 0;
    ops_.device().copy(stream_, &norm, optimizer.norm().data, sizeof norm);
    ops_.device().synchronize(stream_);
    return norm;
  }

  std::vector<NamedTensor> read(Tensor Parameters::*what) {
    std::vector<NamedTensor> all;
    for (auto& stage : stages_) {
      const Parameters& parameters = stage->parameters();
      std::vector<NamedTensor> part = parameters.read(stream_, parameters.*what);
      for (std::size_t i = 0; i < part.size(); ++i) {
        if (!parameters.list()[i].tied_copy) all.push_back(std::move(part[i]));
      }
    }
    return all;
  }
  std::vector<NamedTensor> gradients() { return read(&Parameters::gradients); }
  std::vector<NamedTensor> weights() { return read(&Parameters::master); }

  void begin(std::span<const std::int32_t> tokens, std::span<const std::int32_t> targets) {
    for (auto& stage : stages_) {
      stage->set_batch(stream_, tokens, targets);
      stage->zero_gradients(stream_);
    }
  }
  void forward(int m, int slot) {
    for (int s = 0; s < count(); ++s) {
      stage(s).forward(stream_, slot, m, activation(s, slot), activation(s + 1, slot));
    }
  }
  void backward(int m, int slot) {
    for (int s = count(); s-- > 0;) {
      stage(s).backward(stream_, slot, -1, m, gradient(s + 1, slot), gradient(s, slot));
    }
  }
  void backward_input(int m, int slot, int weight_slot) {
    for (int s = count(); s-- > 0;) {
      stage(s).backward_input(stream_, slot, weight_slot, m, gradient(s + 1, slot),
                              gradient(s, slot));
    }
  }
  void backward_weight(int m, int slot, int weight_slot) {
    for (int s = count(); s-- > 0;) stage(s).backward_weight(stream_, slot, weight_slot, m);
  }

 private:
  int count() const { return static_cast<int>(config_.first.size()) - 1; }

  void build(Arena& arena) {
    stages_.clear();
    optimizers_.clear();
    activations_.clear();
    gradients_.clear();
    const int M = config_.train.micro_batches;
    const int sequences = config_.train.batch / M;
    scratch_ = GptScratch::take(ops_, config_.model, sequences, arena);
    const MicroBatchShape shape{
        sequences, M, static_cast<std::int64_t>(config_.train.batch) * config_.model.context};
    StageSlots slots{config_.order == Order::one_by_one ? 1 : M, 0};
    if (config_.order != Order::full) slots.weights = slots.activations;
    for (int s = 0; s < count(); ++s) {
      const auto at = static_cast<std::size_t>(s);
      stages_.push_back(std::make_unique<GptStage>(
          ops_, config_.model, LayerRange{config_.first[at], config_.first[at + 1]}, shape, slots,
          config_.checkpointing, scratch_, arena));
      optimizers_.push_back(
          std::make_unique<Optimizer>(ops_, stages_.back()->parameters(), config_.train, arena));
    }
    const std::int64_t size = stages_.front()->boundary_size();
    slots_ = slots.activations;
    for (int i = 0; i < (count() - 1) * slots_; ++i) {
      activations_.push_back(arena.take(size, ops_.activation_dtype(), "boundary/activation"));
      gradients_.push_back(arena.take(size, ops_.activation_dtype(), "boundary/gradient"));
    }
  }

  /// Boundary b lies before stage b; the pipeline's ends have none.
  Tensor boundary(const std::vector<Tensor>& all, int b, int slot) const {
    if (b == 0 || b == count()) return {};
    return all[static_cast<std::size_t>((b - 1) * slots_ + slot)];
  }
  Tensor activation(int b, int slot) const { return boundary(activations_, b, slot); }
  Tensor gradient(int b, int slot) const { return boundary(gradients_, b, slot); }

  void sum_tied() {
    for (auto& stage : stages_) stage->finish_gradients(stream_);
    const Tensor embedding = stages_.front()->tied_gradient();
    const Tensor head = stages_.back()->tied_gradient();
    ASSERT_EQ(static_cast<bool>(embedding), static_cast<bool>(head));
    if (!embedding) return;
    ops_.accumulate(stream_, head, embedding, embedding.size);
    ops_.device().copy(stream_, head.data, embedding.data, embedding.bytes());
  }
  double mean_loss() {
    double sum = 0;
    for (const float loss : stages_.back()->read_losses(stream_)) sum += loss;
    return sum / config_.train.micro_batches;
  }

  Ops& ops_;
  ChainConfig config_;
  Arena arena_;
  Stream stream_;
  std::size_t planned_bytes_ = 0;
  GptScratch scratch_;
  std::vector<std::unique_ptr<GptStage>> stages_;
  std::vector<std::unique_ptr<Optimizer>> optimizers_;
  std::vector<Tensor> activations_, gradients_;
  int slots_ = 1;
};

}  // namespace pipemark
