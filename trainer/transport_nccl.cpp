#include "trainer/transport_nccl.hpp"

#include "trainer/cluster.hpp"
#include "trainer/transport_planned.hpp"

#ifdef PIPEMARK_HAS_NCCL
#include <dlfcn.h>
#include <nccl.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "kernels/arena.hpp"
#include "kernels/cuda/cuda_check.hpp"
#include "kernels/cuda/cuda_device.hpp"

namespace pipemark {
namespace {

/// The calls of NCCL that are used, of the library found at run time.
struct NcclLibrary {
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRankConfig) init = nullptr;
  decltype(&ncclCommDestroy) destroy = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) receive = nullptr;
  decltype(&ncclAllReduce) all_reduce = nullptr;
  decltype(&ncclGetErrorString) error_text = nullptr;
  bool found = false;

  NcclLibrary() {
    void* library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return;
    const auto load = [&](auto& call, const char* name) {
      call = reinterpret_cast<std::remove_reference_t<decltype(call)>>(dlsym(library, name));
      return call != nullptr;
    };
    found = load(get_unique_id, "ncclGetUniqueId") && load(init, "ncclCommInitRankConfig") &&
            load(destroy, "ncclCommDestroy") && load(send, "ncclSend") &&
            load(receive, "ncclRecv") && load(all_reduce, "ncclAllReduce") &&
            load(error_text, "ncclGetErrorString");
  }
};

const NcclLibrary& nccl() {
  static const NcclLibrary library;
  return library;
}

void check_nccl(ncclResult_t result, const char* call, const char* file, int line) {
  if (result == ncclSuccess) return;
  throw EnvironmentError(
      fmt::format("NCCL: {} failed: {} at {}:{}", call, nccl().error_text(result), file, line),
      "each rank needs a GPU of its own; NCCL_DEBUG=WARN tells more");
}
#define PIPEMARK_NCCL(call) check_nccl((call), #call, __FILE__, __LINE__)

/// Collective over the ranks of `id`. A collective's kernels would else take dozens of
/// multiprocessors.
ncclComm_t make_communicator(const std::string& id, int ranks, int rank, int channels) {
  ncclUniqueId unique;
  std::memcpy(&unique, id.data(), sizeof unique);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.minCTAs = 1;
  config.maxCTAs = channels;
  ncclComm_t communicator = nullptr;
  PIPEMARK_NCCL(nccl().init(&communicator, ranks, unique, rank, &config));
  return communicator;
}

std::string make_id() {
  ncclUniqueId unique;
  PIPEMARK_NCCL(nccl().get_unique_id(&unique));
  return {reinterpret_cast<const char*>(&unique), sizeof unique};
}

class TransportNccl final : public PlannedTransport {
 public:
  TransportNccl(Group& pipeline, Device& device, const TransportMpi::Options& options,
                int channels)
      : PlannedTransport(pipeline, device, options), channels_(channels) {
    dynamic_cast<cuda::CudaDevice&>(device).make_current();
  }
  ~TransportNccl() override {
    for (auto& [key, lane] : lanes_) {
      static_cast<void>(cudaStreamSynchronize(lane.stream));
      static_cast<void>(nccl().destroy(lane.communicator));
      static_cast<void>(cudaStreamDestroy(lane.stream));
    }
    for (Plan& plan : plans_) {
      for (auto* messages : {&plan.receives, &plan.sends}) {
        for (Message& message : *messages) device_.destroy(message.event);
      }
    }
  }
  std::string name() const override { return fmt::format("nccl, {} channels", channels_); }

 private:
  struct Lane {
    ncclComm_t communicator = nullptr;
    cudaStream_t stream = nullptr;
  };
  struct LaneKey {
    int sender, receiver, lane;
    auto operator<=>(const LaneKey&) const = default;
  };
  struct Message {
    Tensor tensor;
    Lane lane;
    Event event;  ///< the buffer may be used by the message, then the message is done
  };
  struct Plan {
    std::vector<Message> receives, sends;
  };

  void connect(int, std::span<const PlannedTransfer> receives,
               std::span<const PlannedTransfer> sends) override {
    open_lanes(receives, sends);
    const int me = group_.rank();
    Plan& plan = plans_.emplace_back();
    for (const PlannedTransfer& t : receives) {
      plan.receives.push_back({t.tensor, lanes_.at({t.peer, me, t.lane}), device_.make_event()});
    }
    for (const PlannedTransfer& t : sends) {
      plan.sends.push_back({t.tensor, lanes_.at({me, t.peer, t.lane}), device_.make_event()});
    }
  }

  /// Makes the communicators of new lanes, in the order of their keys on all ranks.
  void open_lanes(std::span<const PlannedTransfer> receives,
                  std::span<const PlannedTransfer> sends) {
    struct Offer {
      LaneKey key;
      char id[sizeof(ncclUniqueId)];
    };
    const int me = group_.rank();
    std::map<LaneKey, std::vector<int>> orders;  // tags, to be alike on both sides
    std::string mine, order;
    for (const PlannedTransfer& t : sends) {
      const LaneKey key{me, t.peer, t.lane};
      const bool first = orders[key].empty();
      orders[key].push_back(t.tag);
      if (!first || lanes_.count(key) > 0) continue;
      Offer offer{key, {}};
      const std::string id = make_id();
      std::memcpy(offer.id, id.data(), sizeof offer.id);
      mine.append(reinterpret_cast<const char*>(&offer), sizeof offer);
    }
    std::map<LaneKey, std::string> offers;
    for (const std::string& text : group_.all_gather(mine)) {
      for (std::size_t at = 0; at < text.size(); at += sizeof(Offer)) {
        Offer offer;
        std::memcpy(&offer, text.data() + at, sizeof offer);
        if (offer.key.sender != me && offer.key.receiver != me) continue;
        offers[offer.key] = {offer.id, sizeof offer.id};
      }
    }
    for (const auto& [key, id] : offers) {
      Lane& lane = lanes_[key];
      int lowest = 0, highest = 0;
      PIPEMARK_CUDA(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
      PIPEMARK_CUDA(cudaStreamCreateWithPriority(&lane.stream, cudaStreamNonBlocking, highest));
      lane.communicator = make_communicator(id, 2, key.sender == me ? 0 : 1, channels_);
      connect_ends(lane, key.sender == me);
    }
    check_orders(orders, receives);
  }

  /// A communicator's first message connects its ends, and the host waits for the other's host: done
  /// here, where both are in the same lane.
  void connect_ends(const Lane& lane, bool sender) {
    Arena memory(device_, MemoryKind::device, Arena::kAlignment);
    const Tensor word = memory.take(1, DType::i32, "transport/word");
    if (sender) {
      PIPEMARK_NCCL(nccl().send(word.data, word.bytes(), ncclUint8, 1, lane.communicator,
                                lane.stream));
    } else {
      PIPEMARK_NCCL(nccl().receive(word.data, word.bytes(), ncclUint8, 0, lane.communicator,
                                   lane.stream));
    }
    PIPEMARK_CUDA(cudaStreamSynchronize(lane.stream));
  }

  /// NCCL matches by order alone.
  void check_orders(const std::map<LaneKey, std::vector<int>>& sent,
                    std::span<const PlannedTransfer> receives) {
    const int me = group_.rank();
    std::map<LaneKey, std::vector<int>> received;
    for (const PlannedTransfer& t : receives) received[{t.peer, me, t.lane}].push_back(t.tag);
    std::string mine;
    for (const auto& [key, tags] : sent) {
      mine += fmt::format("{} {} {}:", key.sender, key.receiver, key.lane);
      for (const int tag : tags) mine += fmt::format(" {}", tag);
      mine += '\n';
    }
    std::string all;
    for (const std::string& text : group_.all_gather(mine)) all += text;
    bool same = true;
    for (const auto& [key, tags] : received) {
      std::string line = fmt::format("{} {} {}:", key.sender, key.receiver, key.lane);
      for (const int tag : tags) line += fmt::format(" {}", tag);
      same = same && all.find(line + '\n') != std::string::npos;
    }
    if (group_.allreduce_min(same ? 1.0 : 0.0, "the messages' orders") == 0) {
      throw UserError("this schedule receives messages of one stage in another order than they are "
                      "sent, which NCCL can't do",
                      "set device.transport = \"ipc\" or \"mpi\"");
    }
  }

  static Message& at(std::vector<Message>& messages, int index) {
    return messages[static_cast<std::size_t>(index)];
  }
  Plan& plan_of(int plan) { return plans_[static_cast<std::size_t>(plan)]; }

  void start_receive(int plan, int index) override {
    Message& m = at(plan_of(plan).receives, index);
    const Stream lane{m.lane.stream};
    device_.record(m.event, device_.stream(StreamRole::compute));
    device_.wait(lane, m.event);
    PIPEMARK_NCCL(nccl().receive(m.tensor.data, m.tensor.bytes(), ncclUint8, 0,
                                 m.lane.communicator, m.lane.stream));
    device_.record(m.event, lane);
  }
  void await_received(int plan, int index, Stream stream) override {
    device_.wait(stream, at(plan_of(plan).receives, index).event);
  }
  bool has_arrived(int plan, int index) override {
    return device_.done(at(plan_of(plan).receives, index).event);
  }
  void start_send(int plan, int index, Stream stream) override {
    Message& m = at(plan_of(plan).sends, index);
    const Stream lane{m.lane.stream};
    device_.record(m.event, stream);
    device_.wait(lane, m.event);
    PIPEMARK_NCCL(nccl().send(m.tensor.data, m.tensor.bytes(), ncclUint8, 1, m.lane.communicator,
                              m.lane.stream));
    device_.record(m.event, lane);
  }
  void await_sent(int plan, int index, Stream stream) override {
    device_.wait(stream, at(plan_of(plan).sends, index).event);
  }
  bool has_left(int plan, int index) override {
    return device_.done(at(plan_of(plan).sends, index).event);
  }

  int channels_;
  std::map<LaneKey, Lane> lanes_;
  std::vector<Plan> plans_;
};

class NcclSum final : public DeviceSum {
 public:
  NcclSum(Group& group, int channels) {
    const std::string id = group.broadcast(group.rank() == 0 ? make_id() : std::string(), 0);
    communicator_ = make_communicator(id, group.size(), group.rank(), channels);
  }
  ~NcclSum() override { static_cast<void>(nccl().destroy(communicator_)); }

  int prepare(Tensor values) override {
    tensors_.push_back(values);
    return static_cast<int>(tensors_.size()) - 1;
  }
  void run(Stream stream, int number, std::int64_t first, std::int64_t count) override {
    float* values = tensors_[static_cast<std::size_t>(number)].slice(first, count).f32();
    PIPEMARK_NCCL(nccl().all_reduce(values, values, static_cast<std::size_t>(count), ncclFloat32,
                                    ncclSum, communicator_, cuda::raw(stream)));
  }

 private:
  ncclComm_t communicator_ = nullptr;
  std::vector<Tensor> tensors_;
};

/// Sums run alone, at a step's end or under the last backward: more channels than a message has.
constexpr int kSumChannels = 8;

}  // namespace

bool find_nccl() { return nccl().found; }

std::unique_ptr<Transport> make_nccl_transport(Group& pipeline, Device& device,
                                               const TransportMpi::Options& options, int channels) {
  return std::make_unique<TransportNccl>(pipeline, device, options, channels);
}

std::unique_ptr<DeviceSum> make_nccl_sum(Group& group, Device& device, int channels) {
  dynamic_cast<cuda::CudaDevice&>(device).make_current();
  return std::make_unique<NcclSum>(group, std::max(channels, kSumChannels));
}

}  // namespace pipemark

#else

namespace pipemark {

bool find_nccl() { return false; }
std::unique_ptr<Transport> make_nccl_transport(Group&, Device&, const TransportMpi::Options&, int) {
  throw EnvironmentError("this build has no NCCL", "configure it where nccl.h is found");
}
std::unique_ptr<DeviceSum> make_nccl_sum(Group&, Device&, int) {
  throw EnvironmentError("this build has no NCCL", "configure it where nccl.h is found");
}

}  // namespace pipemark
#endif
