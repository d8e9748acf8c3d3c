// Stage: what the Executor drives. One object holds one stage of one replica on one rank. All
// memory comes from the arena before the first step; every call enqueues on the stream and returns.
//
// A slot is the room for one live micro-batch (its saved activations). The executor hands out slots
// and boundary buffers (a stage's input and the gradient of its output); it keeps them untouched
// from forward() to backward_weight().
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/device.hpp"
#include "kernels/tensor.hpp"
#include "trainer/task.hpp"

namespace pipemark {

class Stage {
 public:
  Stage() = default;
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;
  virtual ~Stage() = default;

  /// Elements of the boundary tensor of one micro-batch: B T C.
  virtual std::int64_t boundary_size() const = 0;
  virtual DType boundary_dtype() const = 0;

  /// `input` is empty on the first stage (tokens come from the batch), `output` on the last (it
  /// computes the loss of the micro-batch). `slot` is in [0, activation slots).
  virtual void forward(Stream stream, int slot, int micro_batch, Tensor input, Tensor output) = 0;
  /// The input-gradient half. `grad_output` is empty on the last stage, `grad_input` on the first.
  /// `weight_slot` is in [0, deferred-weight slots): the room for what backward_weight needs beyond
  /// the activations.
  virtual void backward_input(Stream stream, int slot, int weight_slot, int micro_batch,
                              Tensor grad_output, Tensor grad_input) = 0;
  /// The weight-gradient half of the same micro-batch: adds to the stage's gradients.
  virtual void backward_weight(Stream stream, int slot, int weight_slot, int micro_batch) = 0;
  /// Full backward. Layer by layer where that needs less memory; by default the two halves. The
  /// executor gives it weight_slot -1: nothing is deferred.
  virtual void backward(Stream stream, int slot, int weight_slot, int micro_batch,
                        Tensor grad_output, Tensor grad_input) {
    backward_input(stream, slot, weight_slot, micro_batch, grad_output, grad_input);
    backward_weight(stream, slot, weight_slot, micro_batch);
  }

  /// True where actions wait for messages of their own: then the tasks below pause, and two of them
  /// (one forward, one full backward) may be under way at once on this rank where
  /// can_overlap().
  virtual bool pauses() const { return false; }
  virtual bool can_overlap() const { return true; }
  /// FLOPs of a forward when the load is even; I and W are the same each. 0: not known.
  virtual double forward_flops() const { return 0; }
  /// The calls above as tasks.
  virtual StageTask forward_task(Stream stream, int slot, int micro_batch, Tensor input,
                                 Tensor output) {
    forward(stream, slot, micro_batch, input, output);
    return {};
  }
  virtual StageTask backward_input_task(Stream stream, int slot, int weight_slot, int micro_batch,
                                        Tensor grad_output, Tensor grad_input) {
    backward_input(stream, slot, weight_slot, micro_batch, grad_output, grad_input);
    return {};
  }
  virtual StageTask backward_weight_task(Stream stream, int slot, int weight_slot,
                                         int micro_batch) {
    backward_weight(stream, slot, weight_slot, micro_batch);
    return {};
  }
  virtual StageTask backward_task(Stream stream, int slot, int weight_slot, int micro_batch,
                                  Tensor grad_output, Tensor grad_input) {
    backward(stream, slot, weight_slot, micro_batch, grad_output, grad_input);
    return {};
  }
};

}  // namespace pipemark
