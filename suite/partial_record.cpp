#include "suite/partial_record.hpp"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "suite/commands.hpp"

namespace pipemark {

namespace {
sigset_t ending_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}
}  // namespace

PartialRecord::PartialRecord() {
  const sigset_t set = ending_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

PartialRecord::~PartialRecord() {
  stop();
  const sigset_t set = ending_signals();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void PartialRecord::start(Writer write, double period_s) {
  write_ = std::move(write);
  thread_ = std::thread([this, period_s] { work(period_s); });
}

void PartialRecord::update(const TrainReport& report) {
  const std::lock_guard lock(mutex_);
  latest_ = report;
  changed_ = true;
}

void PartialRecord::write_latest(const std::string& failure) {
  const std::lock_guard lock(mutex_);
  if (!latest_ || (!changed_ && failure.empty())) return;
  TrainReport report = *latest_;
  report.complete = false;
  report.failure = failure.empty() ? "the run had not ended when this was written" : failure;
  changed_ = false;
  write_(report);
}

void PartialRecord::work(double period_s) {
  // Wakes often enough to end soon; the first record is written as soon as there is a step.
  constexpr double kTick = 0.05;
  const sigset_t set = ending_signals();
  const timespec tick{0, static_cast<long>(kTick * 1e9)};
  double since = period_s;
  while (true) {
    const int signal = sigtimedwait(&set, nullptr, &tick);
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;
    }
    since += kTick;
    try {
      if (signal > 0) {
        write_latest("the job was ended by signal " + std::to_string(signal) +
                     ": a rank died, or it was cancelled");
        _exit(kEnvironmentFault);
      }
      if (since >= period_s) {
        bool written = false;
        {
          const std::lock_guard lock(mutex_);
          written = latest_.has_value();
        }
        write_latest("");
        if (written) since = 0;
      }
    } catch (const std::exception& error) {
      print_error(error.what(), "the record could not be kept up to date");
      if (signal > 0) _exit(kEnvironmentFault);
    }
  }
}

void PartialRecord::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void PartialRecord::finish(const TrainReport& report) {
  stop();
  write_(report);
}

void PartialRecord::fail(const std::string& failure) {
  stop();
  write_latest(failure);
}

}  // namespace pipemark
