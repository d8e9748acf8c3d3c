// Cluster: start and end of MPI, hosts and cores, groups, the clocks' offsets, and the one way to
// end a job that only this rank knows to be lost.
#include "trainer/cluster.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <map>
#include <set>

#include "trainer/cluster_mpi.hpp"

namespace pipemark {
namespace {

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// Two processes with the same key read the same CLOCK_MONOTONIC: one kernel, one time namespace.
std::string clock_key() {
  char space[64] = "";
  if (readlink("/proc/self/ns/time", space, sizeof space - 1) < 0) space[0] = '\0';
  return first_line("/proc/sys/kernel/random/boot_id") + " " + space;
}

/// Cores that a cgroup's CPU quota allows, 0: no quota (cgroup v2, then v1).
double cgroup_cores() {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (v2 >> quota >> period && quota != "max") return std::atof(quota.c_str()) / period;
  const double quota_us = std::atof(first_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").c_str());
  const double period_us = std::atof(first_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us").c_str());
  return quota_us > 0 && period_us > 0 ? quota_us / period_us : 0;
}

/// "0 1 5": hardware threads this process may run on.
std::string affinity_text() {
  std::string text;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return "0";
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) text += std::to_string(cpu) + " ";
  }
  return text;
}

/// One int in memory shared by the ranks of a host, or null where that can't be had.
int* shared_flag(const std::string& name, Group& world) {
  const int file = shm_open(name.c_str(), O_CREAT | O_RDWR, 0600);
  void* memory = MAP_FAILED;
  if (file >= 0) {
    if (ftruncate(file, sizeof(int)) == 0) {
      memory = mmap(nullptr, sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    }
    close(file);
  }
  world.barrier();  // all have opened it before it loses its name
  shm_unlink(name.c_str());
  return memory == MAP_FAILED ? nullptr : static_cast<int*>(memory);
}

}  // namespace

Cluster::Cluster(double timeout_s) : timeout_s_(timeout_s) {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized == 0) {
    int provided = 0;
    if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) {
      throw EnvironmentError("MPI could not be started", "run it under mpirun or srun");
    }
    owns_mpi_ = true;
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  world_ = split(0, rank, "world");
  find_hosts();
  const std::string name = world_.broadcast(fmt::format("/pipemark-{}", getpid()), 0);
  abort_flag_ = shared_flag(name, world_);
}

Cluster::~Cluster() {
  if (abort_flag_ != nullptr) munmap(abort_flag_, sizeof(int));
  if (!owns_mpi_ || mpi_failed() || std::uncaught_exceptions() > 0) return;
  world_ = Group();
  MPI_Finalize();
}

void Cluster::find_hosts() {
  char host[MPI_MAX_PROCESSOR_NAME] = "";
  int length = 0;
  PIPEMARK_MPI_CHECK(MPI_Get_processor_name(host, &length));
  host_.assign(host, static_cast<std::size_t>(length));
  const std::string key = host_ + " " + first_line("/proc/sys/kernel/random/boot_id");
  const std::vector<std::string> keys = world_.all_gather(key);
  const std::vector<std::string> cores = world_.all_gather(affinity_text());
  const std::vector<std::string> quotas = world_.all_gather(fmt::format("{}", cgroup_cores()));
  const auto me = static_cast<std::size_t>(rank());
  local_rank_ = static_cast<int>(std::count(keys.begin(), keys.begin() + rank(), key));
  std::map<std::string, std::set<std::string>> threads;  // of each host, over its ranks
  std::map<std::string, double> ranks, quota;
  for (std::size_t r = 0; r < keys.size(); ++r) {
    ranks[keys[r]] += 1;
    quota[keys[r]] = std::atof(quotas[r].c_str());
    std::size_t begin = 0;
    for (std::size_t end; (end = cores[r].find(' ', begin)) != std::string::npos; begin = end + 1) {
      threads[keys[r]].insert(cores[r].substr(begin, end - begin));
    }
  }
  node_count_ = static_cast<int>(ranks.size());
  ranks_per_core_ = 0;
  for (const auto& [name, count] : ranks) {
    double usable = std::max<double>(1, static_cast<double>(threads[name].size()));
    if (quota[name] > 0) usable = std::max(1.0, std::min(usable, quota[name]));
    ranks_per_core_ = std::max(ranks_per_core_, count / usable);
    if (name == keys[me]) {
      local_size_ = static_cast<int>(count);
      local_cores_ = static_cast<int>(usable);
    }
  }
  world_.impl_->wait_policy = wait_policy();
}

std::string Cluster::mpi_library() const {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  const std::string all(text, static_cast<std::size_t>(length));
  return all.substr(0, all.find_first_of(",\n"));
}

void Cluster::set_timeout(double timeout_s) {
  timeout_s_ = timeout_s;
  world_.impl_->timeout_s = timeout_s;
}

Group Cluster::split(int color, int key, const std::string& name) {
  auto impl = std::make_unique<Group::Impl>();
  PIPEMARK_MPI_CHECK(MPI_Comm_split(MPI_COMM_WORLD, color, key, &impl->comm));
  PIPEMARK_MPI_CHECK(MPI_Comm_set_errhandler(impl->comm, MPI_ERRORS_RETURN));
  PIPEMARK_MPI_CHECK(MPI_Comm_rank(impl->comm, &impl->rank));
  PIPEMARK_MPI_CHECK(MPI_Comm_size(impl->comm, &impl->size));
  impl->name = name;
  impl->timeout_s = timeout_s_;
  impl->wait_policy = wait_policy();
  MPI_Group world, own;
  PIPEMARK_MPI_CHECK(MPI_Comm_group(MPI_COMM_WORLD, &world));
  PIPEMARK_MPI_CHECK(MPI_Comm_group(impl->comm, &own));
  std::vector<int> ranks(static_cast<std::size_t>(impl->size));
  for (std::size_t r = 0; r < ranks.size(); ++r) ranks[r] = static_cast<int>(r);
  impl->world_ranks.resize(ranks.size());
  PIPEMARK_MPI_CHECK(
      MPI_Group_translate_ranks(own, impl->size, ranks.data(), world, impl->world_ranks.data()));
  MPI_Group_free(&world);
  MPI_Group_free(&own);
  return Group(std::move(impl));
}

Grid Cluster::make_grid(int pipeline, int data, int expert) {
  if (pipeline < 1 || data < 1 || expert < 1 || pipeline * data * expert != size()) {
    throw UserError(
        fmt::format("[parallel] pipeline = {}, data = {}, expert = {} need {} ranks, "
                    "but the job has {}",
                    pipeline, data, expert, pipeline * data * expert, size()),
        fmt::format("run it with `mpirun -n {}`, or change [parallel]", pipeline * data * expert));
  }
  Grid grid;
  grid.expert_rank = rank() % expert;
  grid.pipeline_rank = rank() / expert % pipeline;
  grid.data_rank = rank() / expert / pipeline;
  const int d = grid.data_rank, p = grid.pipeline_rank, e = grid.expert_rank;
  grid.pipeline = split(d * expert + e, p, "pipeline group");
  grid.data = split(p * expert + e, d, "data group");
  grid.expert = split(d * pipeline + p, e, "expert group");
  return grid;
}

ClockOffset Cluster::clock_offset() {
  if (clock_ == nullptr) {
    const std::string key = clock_key();
    const std::vector<std::string> keys = world_.all_gather(key);
    const bool one_clock = std::all_of(keys.begin(), keys.end(),
                                       [&](const std::string& other) { return other == keys[0]; });
    clock_ = std::make_unique<ClockOffset>();
    if (!one_clock) {
      const ClockOffset measured = measure_clock_offset();
      if (key != keys[0]) *clock_ = measured;
    }
  }
  return *clock_;
}

ClockOffset Cluster::measure_clock_offset(int round_trips) {
  constexpr int kTag = 3;
  Group::Impl& g = *world_.impl_;
  const auto exchange = [&](bool send, double& value, int peer) {
    MPI_Request request;
    PIPEMARK_MPI_CHECK(send ? MPI_Isend(&value, 1, MPI_DOUBLE, peer, kTag, g.comm, &request)
                            : MPI_Irecv(&value, 1, MPI_DOUBLE, peer, kTag, g.comm, &request));
    g.wait({&request, 1}, "the clocks' comparison", std::span(&peer, 1));
  };
  ClockOffset best{0, 0};
  for (int peer = 1; peer < size(); ++peer) {
    if (rank() != 0 && rank() != peer) continue;
    best.error_s = rank() == 0 ? 0 : 1e30;
    for (int i = 0; i < round_trips; ++i) {
      double clock = now_s();
      if (rank() == 0) {
        exchange(false, clock, peer);
        clock = now_s();
        exchange(true, clock, peer);
        continue;
      }
      const double begin_s = clock;
      exchange(true, clock, 0);
      exchange(false, clock, 0);  // rank 0's clock somewhere between begin_s and now
      const double end_s = now_s(), error_s = (end_s - begin_s) / 2;
      if (error_s < best.error_s) best = {clock - (begin_s + end_s) / 2, error_s};
    }
  }
  return best;
}

void Cluster::abort_job(int exit_code, const std::string& message, const std::string& hint) {
  set_mpi_failed();
  const bool speaks = abort_flag_ == nullptr || std::atomic_ref<int>(*abort_flag_).exchange(1) == 0;
  if (speaks) {
    std::string text = "error: " + message + "\n";
    if (!hint.empty()) text += "hint: " + hint + "\n";
    std::fputs(text.c_str(), stderr);
    std::fflush(stderr);
    std::fflush(stdout);
  } else {
    sleep_s(5);  // the speaker ends the job meanwhile, with its exit code
  }
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace pipemark
