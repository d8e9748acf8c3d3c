// Fakes for the executor's tests: a device that is host memory but, if asked, does its work late
// and in pieces (like a GPU: streams, events, nothing done before somebody looks), and a stage
// whose every input, slot and order can be told right from wrong.
#pragma once

#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device.hpp"
#include "schedules/catalogue.hpp"
#include "trainer/clock.hpp"
#include "trainer/executor.hpp"
#include "trainer/stage.hpp"

namespace pipemark::testing {

class FakeDevice final : public Device {
 public:
  /// `deferred`: is_host() is false and each look at an event moves each stream by one operation.
  explicit FakeDevice(bool deferred = false) : deferred_(deferred) {}

  std::string description() const override { return deferred_ ? "deferred fake" : "host fake"; }
  bool is_host() const override { return !deferred_; }
  void* allocate(std::size_t bytes, MemoryKind) override {
    ++allocations;
    void* memory = allocator ? allocator(bytes) : std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    std::memset(memory, 0xff, bytes);
    return memory;
  }
  void release(void* memory, MemoryKind) noexcept override {
    if (!allocator) std::free(memory);
  }
  MemoryInfo memory_info() const override { return {0, 0}; }

  Stream stream(StreamRole role) override { return {&queues_[static_cast<std::size_t>(role)]}; }
  Event make_event() override {
    events_.push_back(std::make_unique<FakeEvent>());
    return {events_.back().get()};
  }
  void destroy(Event) noexcept override {}
  void record(Event event, Stream stream) override {
    FakeEvent* e = of(event);
    const int generation = ++e->issued;
    enqueue(stream, [e, generation] {
      e->reached = generation;
      e->time_s = now_s();
    });
  }
  void wait(Stream stream, Event event) override {
    FakeEvent* e = of(event);
    push(stream, {[] {}, e, e->issued});
  }
  bool done(Event event) override {
    tick();
    return of(event)->reached == of(event)->issued;
  }
  void host_wait(Event event) override {
    while (!done(event)) continue;
  }
  double elapsed_s(Event from, Event to) override { return of(to)->time_s - of(from)->time_s; }
  void copy(Stream stream, void* dst, const void* src, std::size_t bytes) override {
    enqueue(stream, [=] { std::memcpy(dst, src, bytes); });
  }
  void fill_zero(Stream stream, void* dst, std::size_t bytes) override {
    enqueue(stream, [=] { std::memset(dst, 0, bytes); });
  }
  void synchronize(Stream stream) override {
    while (!static_cast<Queue*>(stream.handle)->empty()) tick();
  }

  void enqueue(Stream stream, std::function<void()> work) { push(stream, {std::move(work)}); }
  /// Holds the stream up until `may_pass` (deferred only).
  void hold(Stream stream, std::function<bool()> may_pass) {
    push(stream, {[] {}, nullptr, 0, std::move(may_pass)});
  }
  int allocations = 0;
  /// Memory that is never released, instead of the heap's.
  std::function<void*(std::size_t)> allocator;

 private:
  struct FakeEvent {
    int issued = 0, reached = 0;
    double time_s = 0;
  };
  struct Operation {
    std::function<void()> work;
    FakeEvent* after = nullptr;
    int generation = 0;
    std::function<bool()> may_pass{};
  };
  using Queue = std::deque<Operation>;
  static FakeEvent* of(Event event) { return static_cast<FakeEvent*>(event.handle); }
  void push(Stream stream, Operation operation) {
    if (!deferred_) return operation.work();
    static_cast<Queue*>(stream.handle)->push_back(std::move(operation));
  }
  void tick() {
    for (Queue& queue : queues_) {
      if (queue.empty()) continue;
      const Operation& front = queue.front();
      if (front.after != nullptr && front.after->reached < front.generation) continue;
      if (front.may_pass && !front.may_pass()) continue;
      const std::function<void()> work = front.work;
      queue.pop_front();
      work();
    }
  }

  bool deferred_;
  Queue queues_[3];
  std::vector<std::unique_ptr<FakeEvent>> events_;
};

/// F adds stage + 1 to its input, a backward takes stage + 1 from its gradient; micro-batch, step
/// and element are in the values, so a stale, early or misplaced buffer shows.
class CheckedStage final : public Stage {
 public:
  CheckedStage(FakeDevice& device, int stage, int stages, std::int64_t size, int slots,
               int weight_slots)
      : device_(device),
        stage_(stage),
        stages_(stages),
        size_(size),
        slots_(static_cast<std::size_t>(slots)),
        weight_slots_(static_cast<std::size_t>(weight_slots), -1) {}

  std::int64_t boundary_size() const override { return size_; }
  DType boundary_dtype() const override { return DType::f32; }

  void forward(Stream stream, int slot, int m, Tensor input, Tensor output) override {
    device_.enqueue(stream, [=, this, step = step] {
      Slot& s = at(slot);
      if (keeps) {
        expect(s.micro_batch == -1, "F into a slot in use", m);
        s = {m, input, {}, -1};
      }
      expect((stage_ == 0) == !input, "F: input", m);
      expect((stage_ == stages_ - 1) == !output, "F: output", m);
      expect_values(input, activation(stage_, m, step), m, "F reads a wrong input");
      fill(output, activation(stage_ + 1, m, step));
      ++forwards;
      pass_time();
    });
  }
  void backward_input(Stream stream, int slot, int weight_slot, int m, Tensor grad_output,
                      Tensor grad_input) override {
    device_.enqueue(stream, [=, this, step = step] {
      int& deferred = weight_slots_.at(static_cast<std::size_t>(weight_slot));
      expect(deferred == -1, "I into a weight slot in use", m);
      deferred = m;
      at(slot).weight_slot = weight_slot;
      input_half(slot, m, grad_output, grad_input, step);
    });
  }
  void backward_weight(Stream stream, int slot, int weight_slot, int m) override {
    device_.enqueue(stream, [=, this, step = step] {
      int& deferred = weight_slots_.at(static_cast<std::size_t>(weight_slot));
      expect(deferred == m && at(slot).weight_slot == weight_slot, "W of a wrong weight slot", m);
      deferred = -1;
      weight_half(slot, m, step);
    });
  }
  void backward(Stream stream, int slot, int weight_slot, int m, Tensor grad_output,
                Tensor grad_input) override {
    device_.enqueue(stream, [=, this, step = step] {
      expect(weight_slot == -1, "B with a weight slot", m);
      input_half(slot, m, grad_output, grad_input, step);
      weight_half(slot, m, step);
    });
  }

  std::vector<std::string> faults;
  int forwards = 0, backwards = 0;
  std::int64_t step = 0;  ///< set before each step
  bool keeps = true;      ///< false: validation
  double work_s = 0;      ///< real compute of each call
  std::function<void()> before_call;

 private:
  struct Slot {
    int micro_batch = -1;
    Tensor input, grad_output;
    int weight_slot = -1;
  };
  Slot& at(int slot) { return slots_.at(static_cast<std::size_t>(slot)); }
  void expect(bool good, const char* what, int m) {
    if (!good) faults.push_back(fmt::format("stage {}, micro-batch {}: {}", stage_, m, what));
  }
  static float activation(int stage, int m, std::int64_t step) {
    return static_cast<float>(1000 * step + 16 * m + stage * (stage + 1) / 2);
  }
  /// Of the stage's output.
  static float gradient(int stage, int m, std::int64_t step) {
    return -5 - activation(stage + 1, m, step);
  }
  static void fill(Tensor t, float value) {
    for (std::int64_t i = 0; t && i < t.size; ++i) t.f32()[i] = value + static_cast<float>(i % 7);
  }
  void expect_values(Tensor t, float value, int m, const char* what) {
    for (std::int64_t i = 0; t && i < t.size; ++i) {
      if (t.f32()[i] != value + static_cast<float>(i % 7)) return expect(false, what, m);
    }
  }
  void input_half(int slot, int m, Tensor grad_output, Tensor grad_input, std::int64_t step) {
    expect(at(slot).micro_batch == m, "I or B of a wrong slot", m);
    expect((stage_ == stages_ - 1) == !grad_output, "B: gradient of the output", m);
    expect((stage_ == 0) == !grad_input, "B: gradient of the input", m);
    expect_values(grad_output, gradient(stage_, m, step), m, "B reads a wrong gradient");
    fill(grad_input, gradient(stage_ - 1, m, step));
    at(slot).grad_output = grad_output;
    pass_time();
  }
  void weight_half(int slot, int m, std::int64_t step) {
    expect(at(slot).micro_batch == m, "W of a wrong slot", m);
    expect_values(at(slot).input, activation(stage_, m, step), m, "the input changed before W");
    expect_values(at(slot).grad_output, gradient(stage_, m, step), m,
                  "a gradient changed before W");
    at(slot) = {};
    ++backwards;
    pass_time();
  }
  void pass_time() {
    if (before_call) before_call();
    for (const double end_s = now_s() + work_s; work_s > 0 && now_s() < end_s;) continue;
  }

  FakeDevice& device_;
  int stage_, stages_;
  std::int64_t size_;
  std::vector<Slot> slots_;
  std::vector<int> weight_slots_;
};

inline ScheduleRequest request_of(int ranks, int micro_batches) {
  ScheduleRequest request;
  request.ranks = ranks;
  request.micro_batches = micro_batches;
  return request;
}

/// One rank's executor over checked stages.
struct Rig {
  Rig(const Schedule& schedule, int rank, FakeDevice& device, Transport* transport,
      std::int64_t size, Pacer* pacer = nullptr)
      : plan(plan_step(schedule, rank)),
        forward(plan_forward(schedule.placement, schedule.micro_batches, rank)) {
    Arena planning;
    take_boundary_buffers(planning, {&plan, &forward}, size, DType::f32);
    arena = Arena(device, MemoryKind::device, std::max<std::size_t>(planning.used_bytes(), 256));
    std::vector<Tensor> buffers = take_boundary_buffers(arena, {&plan, &forward}, size, DType::f32);
    std::vector<Stage*> pointers;
    for (const HeldStage& held : plan.held) {
      stages.push_back(std::make_unique<CheckedStage>(device, held.stage, plan.stages, size,
                                                      held.activation_slots, held.weight_slots));
      pointers.push_back(stages.back().get());
    }
    executor = std::make_unique<Executor>(plan, pointers, buffers, device, transport, pacer);
  }
  void run(std::int64_t step) {
    for (auto& stage : stages) stage->step = step;
    executor->run_step(step, times);
  }
  std::vector<std::string> faults() const {
    std::vector<std::string> all;
    for (const auto& stage : stages) {
      all.insert(all.end(), stage->faults.begin(), stage->faults.end());
    }
    return all;
  }

  ExecutorPlan plan, forward;
  Arena arena;
  std::vector<std::unique_ptr<CheckedStage>> stages;
  std::unique_ptr<Executor> executor;
  ActionTimes times;
};

}  // namespace pipemark::testing
