// StageTask: an action of a stage as a coroutine, so that it can stop where its experts' rows are
// on their way and another action can use the device. A stage that waits for nothing of its own
// runs to its end at the first resume().
//
//   co_await Worked{flops}     this much was done since the last pause (a place to hold a paced
//   rank) co_await Arrival{pending}  goes on once pending.ready() co_await other_task        runs
//   it here; its pauses are this task's
//
// Whoever drives a task resumes it only when ready(); an exception leaves from resume().
#pragma once

#include <coroutine>
#include <exception>
#include <utility>

namespace pipemark {

/// Something that a task waits for. `wait` returns when it is ready, or throws after a time-out.
class Pending {
 public:
  Pending() = default;
  Pending(const Pending&) = delete;
  Pending& operator=(const Pending&) = delete;
  virtual ~Pending() = default;
  /// Makes progress.
  virtual bool ready() = 0;
  virtual void wait() = 0;
  /// When it became ready, in now_s().
  virtual double ready_s() const { return 0; }
};

class [[nodiscard]] StageTask {
 public:
  struct promise_type;
  using Handle = std::coroutine_handle<promise_type>;

  /// Of the outermost task of a chain.
  struct promise_type {
    promise_type* root = this;
    Handle innermost, caller;  ///< innermost: the root's; caller: who awaits this task
    Pending* pending = nullptr;
    bool stops_at_work = false;
    double flops = 0;
    std::exception_ptr error;

    StageTask get_return_object() { return StageTask(Handle::from_promise(*this)); }
    std::suspend_always initial_suspend() const noexcept { return {}; }
    struct Return {
      bool await_ready() const noexcept { return false; }
      std::coroutine_handle<> await_suspend(Handle self) const noexcept {
        const promise_type& promise = self.promise();
        if (!promise.caller) return std::noop_coroutine();
        promise.root->innermost = promise.caller;
        return promise.caller;
      }
      void await_resume() const noexcept {}
    };
    Return final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    void unhandled_exception() noexcept { error = std::current_exception(); }
  };

  /// A task that is over.
  StageTask() = default;
  StageTask(StageTask&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
  StageTask& operator=(StageTask&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~StageTask() {
    if (handle_) handle_.destroy();
  }

  bool done() const { return !handle_ || handle_.done(); }
  /// May be resumed, or is done.
  bool ready() const { return done() || pending() == nullptr || pending()->ready(); }
  Pending* pending() const { return handle_ ? handle_.promise().pending : nullptr; }
  /// Runs to the next pause. Not when done().
  void resume() {
    promise_type& promise = handle_.promise();
    if (!promise.innermost) promise.innermost = handle_;
    promise.pending = nullptr;
    promise.innermost.resume();
    if (handle_.done() && promise.error) std::rethrow_exception(promise.error);
  }
  /// From the first resume() on, the task pauses at each Worked.
  void stop_at_work() {
    if (handle_) handle_.promise().stops_at_work = true;
  }
  /// FLOPs reported since the last call.
  double take_flops() { return handle_ ? std::exchange(handle_.promise().flops, 0) : 0; }
  /// To the end, waiting in between.
  void finish() {
    while (!done()) {
      if (pending() != nullptr) pending()->wait();
      resume();
    }
  }

  /// co_await a task inside another one.
  bool await_ready() const { return done(); }
  Handle await_suspend(Handle caller) {
    promise_type& promise = handle_.promise();
    promise.root = caller.promise().root;
    promise.caller = caller;
    promise.root->innermost = handle_;
    return handle_;
  }
  void await_resume() const {
    if (handle_ && handle_.promise().error) std::rethrow_exception(handle_.promise().error);
  }

 private:
  explicit StageTask(Handle handle) : handle_(handle) {}
  Handle handle_;
};

struct Worked {
  double flops;
  bool await_ready() const { return false; }
  bool await_suspend(StageTask::Handle self) const {
    StageTask::promise_type& root = *self.promise().root;
    root.flops += flops;
    return root.stops_at_work;
  }
  void await_resume() const {}
};

struct Arrival {
  Pending& pending;
  bool await_ready() const { return pending.ready(); }
  void await_suspend(StageTask::Handle self) const { self.promise().root->pending = &pending; }
  void await_resume() const {}
};

}  // namespace pipemark
