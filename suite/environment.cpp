#include "suite/environment.hpp"

#include <H5public.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <random>
#include <sstream>

#include "suite/git_version.hpp"

extern char** environ;

namespace pipemark {

namespace {
std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

/// The value of the first line "key ...: value".
std::string value_of(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    const auto colon = line.find(':');
    if (line.rfind(key, 0) == 0 && colon != std::string::npos) {
      const auto start = line.find_first_not_of(" \t", colon + 1);
      return start == std::string::npos ? "" : line.substr(start);
    }
  }
  return "";
}

int variable_as_int(std::initializer_list<const char*> names, int otherwise) {
  for (const char* name : names) {
    if (const char* value = std::getenv(name)) return std::atoi(value);
  }
  return otherwise;
}

/// Variables that change what is measured. Never the whole environment: it may hold secrets.
bool is_relevant(const char* variable) {
  for (const char* prefix :
       {"SLURM_JOB_ID=", "SLURM_JOB_NODELIST=", "SLURM_JOB_PARTITION=", "SLURM_NTASKS=",
        "SLURM_CPUS_PER_TASK=", "SLURM_CPU_BIND=", "OMP_", "KOKKOS_", "OMPI_MCA_", "UCX_", "NCCL_",
        "DNNL_", "ONEDNN_", "OPENBLAS_CORETYPE=", "MKL_NUM_THREADS=", "CUDA_VISIBLE_DEVICES=",
        "CUDA_MPS_", "CUDA_DEVICE_", "MALLOC_"}) {
    if (std::strncmp(variable, prefix, std::strlen(prefix)) != 0) continue;
    for (const char* noise :
         {"OMPI_MCA_orte_", "OMPI_MCA_ess_", "OMPI_MCA_pmix", "OMPI_MCA_initial_wdir",
          "OMPI_MCA_mpi_oversubscribe", "OMPI_MCA_shmem_RUNTIME"}) {
      if (std::strncmp(variable, noise, std::strlen(noise)) == 0) return false;
    }
    return true;
  }
  return false;
}
}  // namespace

std::string git_hash() { return PIPEMARK_GIT_HASH; }
bool git_dirty() { return PIPEMARK_GIT_DIRTY; }

std::string version_text() {
  return fmt::format("pipemark {} (git {}{})", PIPEMARK_VERSION, git_hash().substr(0, 12),
                     git_dirty() ? ", dirty" : "");
}

std::string join_command_line(int argc, char** argv) {
  std::string line;
  for (int i = 0; i < argc; ++i) {
    const std::string word = argv[i];
    const bool plain = !word.empty() && word.find_first_of(" \t\"'$\\*") == std::string::npos;
    line += (i == 0 ? "" : " ") + (plain ? word : "'" + word + "'");
  }
  return line;
}

int launched_rank() {
  return variable_as_int({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}, 0);
}
int launched_ranks() {
  return variable_as_int({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS"}, 0);
}

std::string cpu_model() {
  const std::string model = value_of("/proc/cpuinfo", "model name");
  return model.empty() ? "unknown" : model;
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

std::string machine_text() {
  return fmt::format("{} x {}, {}", cpu_model(), sysconf(_SC_NPROCESSORS_ONLN),
                     value_of("/proc/meminfo", "MemTotal"));
}

std::string environment_text(const std::string& mpi_library, const std::string& nodes) {
  std::string text;
  const auto add = [&](const char* key, const std::string& value) {
    if (!value.empty()) text += fmt::format("{} = {}\n", key, value);
  };
  utsname system{};
  uname(&system);
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  add("cpu", cpu_model());
  add("cores", fmt::format("{}", sysconf(_SC_NPROCESSORS_ONLN)));
  add("cores_of_rank_0", fmt::format("{}", usable_cores()));
  add("memory", value_of("/proc/meminfo", "MemTotal"));
  add("clock_mhz", value_of("/proc/cpuinfo", "cpu MHz"));
  add("governor", first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"));
  add("kernel", fmt::format("{} {}", system.sysname, system.release));
  add("gpu_driver", first_line("/proc/driver/nvidia/version"));
  add("mpi", mpi_library);
  add("compiler", __VERSION__);
  add("hdf5", fmt::format("{}.{}.{}", major, minor, release));
  add("nodes", nodes);
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (is_relevant(*variable)) text += fmt::format("variable {}\n", *variable);
  }
  return text;
}

std::string utc_now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
}

std::string new_uuid() {
  std::random_device random;
  std::array<std::uint32_t, 4> bits{random(), random(), random(), random()};
  bits[1] = (bits[1] & 0xffff0fffu) | 0x00004000u;  // version 4
  bits[2] = (bits[2] & 0x3fffffffu) | 0x80000000u;  // variant 1
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:04x}{:08x}", bits[0], bits[1] >> 16,
                     bits[1] & 0xffffu, bits[2] >> 16, bits[2] & 0xffffu, bits[3]);
}

std::uint64_t hash_bytes(const void* data, std::size_t bytes, std::uint64_t hash) {
  const auto* byte = static_cast<const unsigned char*>(data);
  for (std::size_t i = 0; i < bytes; ++i) hash = (hash ^ byte[i]) * 0x100000001b3u;
  return hash;
}

std::string binary_hash() {
  std::ifstream in("/proc/self/exe", std::ios::binary);
  std::ostringstream bytes;
  bytes << in.rdbuf();
  const std::string all = bytes.str();
  return fmt::format("{:016x}", hash_bytes(all.data(), all.size()));
}

}  // namespace pipemark
