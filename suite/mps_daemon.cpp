#include "suite/mps_daemon.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "kernels/check.hpp"

extern char** environ;

namespace pipemark {

namespace {
constexpr const char* kInherited = "PIPEMARK_MPS_FOLDER";

/// $1 is the folder. Standard input ends when the owner does; output tells it how the start went.
constexpr const char* kGuardian = R"sh(
exec 2>/dev/null
trap '' INT TERM HUP
export CUDA_MPS_PIPE_DIRECTORY="$1" CUDA_MPS_LOG_DIRECTORY="$1"
unset CUDA_MPS_ACTIVE_THREAD_PERCENTAGE
if ! command -v nvidia-cuda-mps-control >/dev/null; then rm -rf "$1"; echo missing; exit 1; fi
if ! nvidia-cuda-mps-control -d </dev/null >"$1/start" 2>&1; then
  echo "failed: $(tail -n 1 "$1/start")"; rm -rf "$1"; exit 1
fi
echo ready
exec >/dev/null
cat >/dev/null
pids=$(cat "$1/nvidia-cuda-mps-control.pid" 2>/dev/null; echo get_server_list | nvidia-cuda-mps-control 2>/dev/null)
echo quit -t 3 | timeout 8 nvidia-cuda-mps-control >/dev/null 2>&1
for wait in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  left=
  for pid in $pids; do  # one that nobody has reaped yet is gone too
    if kill -0 "$pid" && ! grep -q '^State:.*Z' "/proc/$pid/status"; then left="$left $pid"; fi
  done
  if [ -z "$left" ]; then break; fi
  sleep 0.25
done
if [ -n "$left" ]; then kill -9 $left 2>/dev/null; fi
rm -rf "$1"
)sh";

std::string read_line(int file) {
  std::string line;
  for (char c = 0; read(file, &c, 1) == 1 && c != '\n';) line += c;
  return line;
}
}  // namespace

MpsDaemon::MpsDaemon() {
  char name[] = "/tmp/pipemark-mps-XXXXXX";  // short: it holds sockets
  if (mkdtemp(name) == nullptr) {
    throw EnvironmentError(fmt::format("no folder for the MPS daemon: {}", strerror(errno)),
                           "/tmp must be writable");
  }
  folder_ = name;
  int life[2], answer[2];
  check(pipe2(life, O_CLOEXEC) == 0 && pipe2(answer, O_CLOEXEC) == 0, "MpsDaemon: no pipe");
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, life[0], 0);
  posix_spawn_file_actions_adddup2(&files, answer[1], 1);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);  // outlives the job's process group
  const char* arguments[] = {"sh", "-c", kGuardian, "pipemark-mps", folder_.c_str(), nullptr};
  const int failed = posix_spawnp(&guardian_, "sh", &files, &attributes,
                                  const_cast<char**>(arguments), environ);
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&attributes);
  close(life[0]);
  close(answer[1]);
  pipe_ = life[1];
  const std::string told = failed == 0 ? read_line(answer[0]) : strerror(failed);
  close(answer[0]);
  if (told == "ready") return;
  stop();
  std::filesystem::remove_all(folder_);
  if (told == "missing") {
    throw EnvironmentError("nvidia-cuda-mps-control, the MPS daemon's program, is not found",
                           "it comes with NVIDIA's driver; add its folder to PATH, or leave out "
                           "device.devices");
  }
  throw EnvironmentError(fmt::format("the MPS daemon does not start: {}", told),
                         "is there a GPU and a driver (nvidia-smi)? or leave out device.devices");
}

MpsDaemon::~MpsDaemon() {
  if (pipe_ >= 0) close(pipe_);
}

void MpsDaemon::stop() {
  if (pipe_ >= 0) close(pipe_);
  pipe_ = -1;
  if (guardian_ > 0) waitpid(guardian_, nullptr, 0);
  guardian_ = 0;
}

std::string inherited_mps_folder() {
  const char* folder = std::getenv(kInherited);
  return folder == nullptr ? "" : folder;
}

void announce_mps_folder(const std::string& folder) {
  setenv(kInherited, folder.c_str(), 1);
  setenv("CUDA_MPS_PIPE_DIRECTORY", folder.c_str(), 1);
  setenv("CUDA_MPS_LOG_DIRECTORY", folder.c_str(), 1);
}

}  // namespace pipemark
