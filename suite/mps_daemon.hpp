// MpsDaemon: NVIDIA's control daemon of the Multi-Process Service in a private folder, for as long as
// this process lives. A guardian process holds it: when the owner is gone, by whatever end, the pipe
// between them closes, and the guardian stops the daemon and removes the folder.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

namespace pipemark {

class MpsDaemon {
 public:
  /// Returns when the daemon takes commands. Throws EnvironmentError when its program is missing or
  /// does not start.
  MpsDaemon();
  MpsDaemon(const MpsDaemon&) = delete;
  MpsDaemon& operator=(const MpsDaemon&) = delete;
  /// Lets the guardian stop the daemon.
  ~MpsDaemon();

  /// The same, and waits until daemon and folder are gone: for an owner that is no client of it.
  void stop();
  const std::string& folder() const { return folder_; }

 private:
  std::string folder_;
  int pipe_ = -1;
  pid_t guardian_ = 0;
};

/// A daemon of a process that started this one (a sweep), or empty.
std::string inherited_mps_folder();
/// Tells the processes that this one starts of its daemon.
void announce_mps_folder(const std::string& folder);

}  // namespace pipemark
