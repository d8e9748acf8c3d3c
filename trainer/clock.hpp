// The host's clock and how a wait passes its time. One clock for everything that is measured
// (CLOCK_MONOTONIC: all processes of a machine share it), and one way to poll: spin, then yield,
// then sleep where ranks must share cores.
#pragma once

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <cstdint>

namespace pipemark {

/// Seconds since the machine's start; a double holds 0.2 ns of a year.
inline double now_s() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

inline void sleep_s(double seconds) {
  if (seconds <= 0) return;
  timespec t{static_cast<time_t>(seconds), 0};
  t.tv_nsec = static_cast<long>((seconds - static_cast<double>(t.tv_sec)) * 1e9);
  clock_nanosleep(CLOCK_MONOTONIC, 0, &t, nullptr);
}

/// own_core: a rank has a core of its own, so a wait polls at once. shared_core: ranks share cores
/// or are paced, so a wait leaves the core to others after a few polls.
enum class WaitPolicy : std::uint8_t { own_core, shared_core };

/// Call pause() after each poll that found nothing.
class Backoff {
 public:
  static constexpr int kSpins = 200;   ///< polls before the core is yielded
  static constexpr int kYields = 100;  ///< polls with a yield before sleeping, shared_core
  /// A sleeping wait's first period; it grows with the wait, so that many waiting ranks do not take
  /// the cores by polling.
  static constexpr double kSleepS = 50e-6, kLongestSleepS = 250e-6;

  explicit Backoff(WaitPolicy policy) : policy_(policy) {}
  void pause() {
    ++polls_;
    if (policy_ == WaitPolicy::own_core) {
      if (polls_ > kSpins) sched_yield();
    } else if (polls_ > kYields) {
      sleep_s(std::min(kLongestSleepS, kSleepS * (1 + (polls_ - kYields) / 16)));
    } else {
      sched_yield();
    }
  }
  /// True every 64th poll: when to look at the clock for a time-out.
  bool look_at_clock() const { return (polls_ & 63) == 0; }

 private:
  WaitPolicy policy_;
  int polls_ = 0;
};

}  // namespace pipemark
