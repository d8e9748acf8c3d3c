// PartialRecord: keeps a truthful record of a run while it goes on. A thread writes the latest
// report every few seconds with complete = false and, when the job is being ended by a signal (a
// rank died and the launcher ends the rest, a batch system cancels), writes once more with that as
// the failure and leaves. Made before MPI is started, so that all threads have the signals blocked.
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "trainer/report.hpp"

namespace pipemark {

class PartialRecord {
 public:
  PartialRecord();
  ~PartialRecord();
  PartialRecord(const PartialRecord&) = delete;
  PartialRecord& operator=(const PartialRecord&) = delete;

  using Writer = std::function<void(const TrainReport&)>;
  /// Starts to write; `write` may be called from the thread, one call at a time.
  void start(Writer write, double period_s = 2);
  void update(const TrainReport& report);
  /// Ends the thread and writes `report` as it is.
  void finish(const TrainReport& report);
  /// Ends the thread and writes the latest report as ended by `failure`; nothing if none came.
  void fail(const std::string& failure);

 private:
  void work(double period_s);
  void write_latest(const std::string& failure);
  void stop();

  std::mutex mutex_;
  Writer write_;
  std::optional<TrainReport> latest_;
  bool changed_ = false, stopping_ = false;
  std::thread thread_;
};

}  // namespace pipemark
