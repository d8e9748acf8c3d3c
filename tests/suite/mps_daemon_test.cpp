// MpsDaemon with a stand-in for NVIDIA's control program: it starts, is stopped, and is stopped too
// when its owner is killed; a missing or failing program is told. Slices' texts.
#include "suite/mps_daemon.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "kernels/check.hpp"
#include "trainer/clock.hpp"
#include "trainer/device_slices.hpp"

namespace pipemark {
namespace {
namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Puts a program of this text before all others.
void install(const std::string& text) {
  const std::string folder = ::testing::TempDir() + "fake-mps";
  fs::create_directories(folder);
  const std::string program = folder + "/nvidia-cuda-mps-control";
  fs::remove(program);
  if (!text.empty()) {
    std::ofstream(program) << "#!/bin/sh\n" << text;
    fs::permissions(program, fs::perms::owner_all);
  }
  setenv("PATH", (folder + ":/usr/bin:/bin").c_str(), 1);
}

const char* const kGood =
    "pid=$CUDA_MPS_PIPE_DIRECTORY/nvidia-cuda-mps-control.pid\n"
    "if [ \"$1\" = -d ]; then sleep 600 >/dev/null 2>&1 & echo $! >$pid; exit 0; fi\n"
    "read word rest; if [ \"$word\" = quit ]; then kill -9 $(cat $pid); fi\n";

pid_t daemon_pid(const std::string& folder) {
  pid_t pid = 0;
  std::ifstream(folder + "/nvidia-cuda-mps-control.pid") >> pid;
  return pid;
}
/// Also one that nobody has reaped yet.
bool gone(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string number, name, state;
  return !(file >> number >> name >> state) || state == "Z";
}

std::string failure() {
  try {
    MpsDaemon daemon;
    return "";
  } catch (const EnvironmentError& error) {
    return error.what();
  }
}

TEST(MpsDaemon, StopsWithItsFolder) {
  install(kGood);
  MpsDaemon daemon;
  const pid_t pid = daemon_pid(daemon.folder());
  ASSERT_GT(pid, 0);
  EXPECT_FALSE(gone(pid));
  daemon.stop();
  EXPECT_TRUE(gone(pid));
  EXPECT_FALSE(fs::exists(daemon.folder()));
}

TEST(MpsDaemon, IsStoppedWhenItsOwnerIsKilled) {
  install(kGood);
  int told[2];
  ASSERT_EQ(pipe(told), 0);
  const pid_t owner = fork();
  if (owner == 0) {
    MpsDaemon daemon;
    const pid_t pid = daemon_pid(daemon.folder());
    static_cast<void>(!write(told[1], &pid, sizeof pid));
    raise(SIGKILL);
  }
  pid_t pid = 0;
  ASSERT_EQ(read(told[0], &pid, sizeof pid), static_cast<ssize_t>(sizeof pid));
  waitpid(owner, nullptr, 0);
  for (int i = 0; i < 100 && !gone(pid); ++i) sleep_s(0.1);
  EXPECT_TRUE(gone(pid)) << "a daemon is left";
}

TEST(MpsDaemon, TellsWhatIsMissingOrFails) {
  install("");
  EXPECT_THAT(failure(), HasSubstr("nvidia-cuda-mps-control"));
  install("echo no GPU here; exit 1\n");
  EXPECT_THAT(failure(), HasSubstr("no GPU here"));
}

TEST(Slices, EqualAndUnequal) {
  EXPECT_THAT(parse_slices(""), ElementsAre());
  EXPECT_THAT(parse_slices("mps:4"), ElementsAre(25, 25, 25, 25));
  EXPECT_THAT(parse_slices("mps:40,30,20,10"), ElementsAre(40, 30, 20, 10));
  for (const char* wrong : {"mig:2", "mps:", "mps:0", "mps:2.5", "mps:60,50", "mps:8x", "mps:,1"}) {
    EXPECT_THROW(parse_slices(wrong), UserError) << wrong;
  }
}

}  // namespace
}  // namespace pipemark
