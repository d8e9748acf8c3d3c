#include "trainer/device_links.hpp"

#include <algorithm>
#include <cstdlib>

#include "trainer/device_slices.hpp"
#include "trainer/nearest_name.hpp"
#include "trainer/transport_ipc.hpp"
#include "trainer/transport_ipc_sum.hpp"
#include "trainer/transport_nccl.hpp"

namespace pipemark {

namespace {
const std::vector<std::string> kTransports = {"auto", "mpi", "ipc", "nccl"};
}

std::vector<std::string> backends_of(const DeviceConfig& device, int pipeline) {
  std::vector<std::string> names;
  const std::string text = device.backend + ",";
  for (std::size_t begin = 0, end; (end = text.find(',', begin)) != std::string::npos;
       begin = end + 1) {
    names.push_back(text.substr(begin, end - begin));
  }
  if (names.size() == 1) names.assign(static_cast<std::size_t>(pipeline), names.front());
  if (names.size() != static_cast<std::size_t>(pipeline)) {
    throw UserError(fmt::format("device.backend = \"{}\" names {} backends, but the pipeline has {} "
                                "ranks",
                                device.backend, names.size(), pipeline),
                    "give one backend for all ranks, or one a pipeline rank, as \"cuda,kokkos\"");
  }
  return names;
}

RankDevice choose_device(Cluster& cluster, const RunConfig& config) {
  const auto backends = backends_of(config.device, config.parallel.pipeline);
  const int pipeline_rank =
      cluster.rank() / config.parallel.expert % config.parallel.pipeline;
  RankDevice chosen{backends[static_cast<std::size_t>(pipeline_rank)], 0};
  // Streams that wait for flags hold up those that share their queue: one each. The slices of a GPU
  // share its queues: eight processes of 32 are refused, of 8 are not. CUDA reads it when it starts.
  if (chosen.backend == "cuda") {
    const int slices = static_cast<int>(parse_slices(config.device.devices).size());
    const int queues = slices == 0 ? 32 : std::clamp(64 / slices, 8, 32);
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", fmt::format("{}", queues).c_str(), 0);
  }
  const std::string own = cluster.host() + " " + chosen.backend;
  const auto all = cluster.world().all_gather(own);
  if (config.device.devices.empty()) {
    chosen.gpu = static_cast<int>(std::count(all.begin(), all.begin() + cluster.rank(), own));
  }
  return chosen;
}

DeviceLinks::DeviceLinks(Cluster& cluster, const DeviceConfig& config, Ops& ops, bool paced)
    : config_(config), device_(ops.device()), dtype_(ops.activation_dtype()) {
  Device& device = device_;
  if (std::find(kTransports.begin(), kTransports.end(), config.transport) == kTransports.end()) {
    throw UserError(fmt::format("device.transport = \"{}\" is not known", config.transport),
                    fmt::format("did you mean \"{}\"? known: {}",
                                nearest_name(config.transport, kTransports),
                                fmt::join(kTransports, ", ")));
  }
  const double hosts = cluster.world().allreduce_sum(device.is_host() ? 1.0 : 0.0, "host devices");
  const bool all_gpu = hosts == 0;
  const bool one_machine = cluster.node_count() == 1;
  const double nccl_lacking =
      cluster.world().allreduce_sum(all_gpu && find_nccl() ? 0.0 : 1.0, "ranks without NCCL");
  chosen_ = config.transport;
  if (chosen_ == "auto") {
    chosen_ = !all_gpu || paced ? "mpi" : one_machine ? "ipc" : nccl_lacking == 0 ? "nccl" : "mpi";
  }
  if (chosen_ != "mpi" && !all_gpu) {
    throw UserError(fmt::format("device.transport = \"{}\", but {} ranks have no GPU", chosen_,
                                hosts),
                    "set device.transport = \"mpi\" or \"auto\", or device.backend = \"cuda\"");
  }
  if (chosen_ == "ipc" && !one_machine) {
    throw UserError(fmt::format("device.transport = \"ipc\" needs one machine, and the ranks are on "
                                "{}",
                                cluster.node_count()),
                    "set device.transport = \"nccl\" or \"mpi\"");
  }
  if (chosen_ == "nccl" && nccl_lacking > 0) {
    throw EnvironmentError("device.transport = \"nccl\", but libnccl.so.2 is not found",
                           "add its folder to LD_LIBRARY_PATH, or set device.transport = \"auto\"");
  }
  if (chosen_ == "nccl" && !config.devices.empty()) {
    throw UserError("device.transport = \"nccl\" with device.devices: NCCL refuses ranks that share "
                    "a GPU",
                    "set device.transport = \"ipc\" or \"auto\"");
  }
#ifdef PIPEMARK_HAS_CUDA
  if (chosen_ != "mpi") memory_ = make_cuda_peer_memory(device);
#endif
}

DeviceLinks::~DeviceLinks() = default;

std::unique_ptr<Transport> DeviceLinks::make_transport(Group& pipeline,
                                                       TransportMpi::Options options) {
  for (const std::string& text : pipeline.all_gather(dtype_ == DType::bf16 ? "bf16" : "f32")) {
    options.dtypes.push_back(text == "bf16" ? DType::bf16 : DType::f32);
  }
  if (chosen_ == "ipc") {
    return std::make_unique<TransportIpc>(pipeline, device_, *memory_, options);
  }
  if (chosen_ == "nccl") {
    return make_nccl_transport(pipeline, device_, options, config_.nccl_channels);
  }
  return std::make_unique<TransportMpi>(pipeline, device_, options);
}

std::unique_ptr<DeviceSum> DeviceLinks::make_sum(Group& group) {
  if (chosen_ == "ipc") return std::make_unique<IpcSum>(group, device_, *memory_);
  if (chosen_ == "nccl") return make_nccl_sum(group, device_, config_.nccl_channels);
  return nullptr;
}

bool DeviceLinks::sum_at_home(Stream stream, Tensor a, Tensor b) {
  if (memory_ == nullptr) return false;
  float* parts[] = {a.f32(), b.f32()};
  memory_->sum_ordered(stream, parts, 0, a.size);
  return true;
}

}  // namespace pipemark
