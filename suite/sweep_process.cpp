// Starting a cell: mpirun in a process group of its own, with a time-out.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "suite/commands.hpp"
#include "suite/environment.hpp"
#include "suite/sweep.hpp"

extern char** environ;

namespace pipemark {

namespace {
namespace fs = std::filesystem;

/// The running cell's process group, for the handler: an interrupted sweep leaves none behind.
volatile sig_atomic_t running_group = 0;

extern "C" void end_cell_and_leave(int signal) {
  if (running_group != 0) kill(-running_group, SIGKILL);
  _exit(128 + signal);
}

/// The cell's own words about what went wrong, else the last line of its log.
std::string failure_in(const std::string& log) {
  std::ifstream in(log);
  std::string last, error;
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("error: ", 0) == 0 && error.empty()) error = line.substr(7);
    if (!line.empty()) last = line;
  }
  return error.empty() ? last : error;
}

bool launcher_is_open_mpi() {
  std::FILE* pipe = popen("mpirun --version 2>&1", "r");
  if (pipe == nullptr) return false;
  char line[256] = {};
  const std::string text = std::fgets(line, sizeof line, pipe) != nullptr ? line : "";
  pclose(pipe);
  return text.find("Open MPI") != std::string::npos || text.find("OpenRTE") != std::string::npos;
}
}  // namespace

std::vector<std::string> launch_words(const std::string& launcher, int ranks) {
  const bool in_allocation = std::getenv("SLURM_JOB_ID") != nullptr;
  std::string text = launcher;
  if (text.empty()) {
    text = "mpirun -n {ranks}";
    if (launcher_is_open_mpi()) {
      text += " -q --mca orte_abort_print_stack 0";
      if (!in_allocation) text += " --oversubscribe";
      if (!in_allocation && ranks > usable_cores()) {
        text += " --mca mpi_yield_when_idle 1 --bind-to none";
      }
    }
  }
  std::vector<std::string> words;
  std::istringstream in(text);
  for (std::string word; in >> word;) {
    const auto at = word.find("{ranks}");
    if (at != std::string::npos) word.replace(at, 7, fmt::format("{}", ranks));
    words.push_back(word);
  }
  return words;
}

ProcessResult run_process(const std::vector<std::string>& arguments, const std::string& log,
                          double timeout_s) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  posix_spawn_file_actions_adddup2(&files, 1, 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);
  std::vector<char*> argv;
  for (const std::string& word : arguments) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  pid_t child = 0;
  const int failed = posix_spawnp(&child, argv[0], &files, &attributes, argv.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&attributes);
  if (failed != 0) {
    throw EnvironmentError(fmt::format("{} can't be started: {}", arguments[0], strerror(failed)),
                           "is MPI installed and in PATH? or set rules.launcher");
  }
  running_group = child;
  signal(SIGINT, end_cell_and_leave);
  signal(SIGTERM, end_cell_and_leave);
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(timeout_s);
  ProcessResult result;
  int status = 0;
  while (waitpid(child, &status, WNOHANG) == 0) {
    if (Clock::now() > end && !result.timed_out) {
      result.timed_out = true;
      kill(-child, SIGTERM);  // lets rank 0 write its partial record
      std::this_thread::sleep_for(std::chrono::seconds(1));
      kill(-child, SIGKILL);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  kill(-child, SIGKILL);  // whoever is left of the group
  running_group = 0;
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
  return result;
}

CellRunner mpirun_runner(const std::string& work_folder) {
  fs::create_directories(work_folder);
  setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0);
  setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
  setenv("OMP_NUM_THREADS", "1", 0);
  return [work_folder](const RunConfig& given, const SweepRules& rules) {
    RunConfig config = given;
    config.output.file = work_folder + "/run.h5";
    const std::string toml = work_folder + "/run.toml", log = work_folder + "/run.log";
    fs::remove(config.output.file);
    std::ofstream(toml) << canonical_toml(config);
    auto words = launch_words(rules.launcher, config.parallel.ranks());
    for (const std::string& word :
         {fs::read_symlink("/proc/self/exe").string(), std::string("train"), toml}) {
      words.push_back(word);
    }
    const ProcessResult process = run_process(words, log, rules.timeout_s);
    RunRecord run;
    if (fs::exists(config.output.file)) run = read_record(config.output.file).runs.at(0);
    if (run.row.complete && (process.exit_code == kGood || process.exit_code == kWrongResult)) {
      return run;
    }
    run.configuration = canonical_toml(config);
    run.row.complete = run.row.valid = false;
    run.row.failure = process.timed_out ? fmt::format("timed out after {} s", rules.timeout_s)
                      : process.signal != 0
                          ? fmt::format("ended by signal {}", process.signal)
                          : fmt::format("exit code {}: {}", process.exit_code, failure_in(log));
    if (run.row.invalid_reason.empty()) run.row.invalid_reason = "the run is not complete";
    return run;
  };
}

}  // namespace pipemark
