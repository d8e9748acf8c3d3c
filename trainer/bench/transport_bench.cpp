// The transports beside each other between two ranks: time of a message, bandwidth, and what messages
// cost the computing: how much longer matrix products take while a message comes and one goes.
//   mpirun -n 2 pipemark_transport_bench [cuda|kokkos] [own|shared]
// own: a GPU a rank; shared: both on GPU 0, as slices are. A transport that these devices can't have
// is left out, and the line says why.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "kernels/arena.hpp"
#include "trainer/device_links.hpp"
#include "trainer/message_time.hpp"

namespace pipemark {
namespace {

constexpr std::int64_t kLargest = std::int64_t{64} << 20;  // bytes
constexpr int kRows = 4096, kIn = 1024, kOut = 4096;       // the matrix product: 34 GFLOP
constexpr int kProducts = 8, kRounds = 20;

struct Bench {
  Cluster& cluster;
  Ops& ops;
  Arena arena;
  Tensor out, in, x, w, y;

  static Arena make_arena(Ops& ops) {
    const auto bytes = static_cast<std::size_t>(2 * kLargest) + std::size_t{160} * 1024 * 1024;
    return Arena(ops.device(), MemoryKind::device, bytes);
  }
  Bench(Cluster& job, Ops& backend) : cluster(job), ops(backend), arena(make_arena(backend)) {
    const DType act = ops.activation_dtype();
    const auto elements = kLargest / static_cast<std::int64_t>(size_of(act));
    out = arena.take(elements, act, "bench/out");
    in = arena.take(elements, act, "bench/in");
    x = arena.take(std::int64_t{kRows} * kIn, act, "bench/x");
    w = arena.take(std::int64_t{kIn} * kOut, act, "bench/w");
    y = arena.take(std::int64_t{kRows} * kOut, act, "bench/y");
    const auto workspace = static_cast<std::int64_t>(ops.workspace_bytes({1, 16, 64, 4}, 128));
    ops.set_workspace(arena.take(workspace / 4 + 1, DType::f32, "bench/workspace"));
    const std::vector<std::byte> pattern(x.bytes() + w.bytes(), std::byte{0x3c});  // not zeros
    for (const Tensor& t : {x, w}) {
      ops.device().copy(stream(), t.data, pattern.data(), t.bytes());
    }
    ops.device().synchronize(stream());
  }
  Stream stream() { return ops.device().stream(StreamRole::compute); }

  /// Seconds of a round of products, with a message of `bytes` each way where `transport` is given.
  double round_s(Transport* transport, std::int64_t bytes) {
    Device& device = ops.device();
    const int peer = 1 - cluster.rank();
    const auto elements = bytes / static_cast<std::int64_t>(size_of(out.dtype));
    const Tensor send = out.slice(0, elements), receive = in.slice(0, elements);
    if (transport != nullptr) {
      const std::vector<PlannedTransfer> receives{{receive, peer, 1, 0}}, sends{{send, peer, 1, 0}};
      transport->use(transport->prepare(receives, sends));
    }
    double begin_s = 0;
    for (int round = -3; round < kRounds; ++round) {
      if (round == 0) {
        device.synchronize(stream());
        cluster.world().barrier();
        begin_s = now_s();
      }
      MessageId receive_id = 0, send_id = 0;
      if (transport != nullptr) {
        receive_id = transport->post_receive(receive, peer, 1);
        send_id = transport->post_send(send, peer, 1, stream());
      }
      for (int i = 0; i < kProducts; ++i) {
        ops.linear_forward(stream(), {kRows, kIn, kOut}, x, w, Tensor{}, y);
      }
      if (transport != nullptr) {
        transport->wait_received(receive_id, stream(), {round, "activation", 0, 0});
        transport->wait_sent(send_id, stream(), {round, "activation", 0, 0});
      }
    }
    device.synchronize(stream());
    const double mine_s = (now_s() - begin_s) / kRounds;
    if (transport != nullptr) transport->use(Transport::kNoPlan);
    return cluster.world().allreduce_max(mine_s, "a round's time");
  }

  void table(const std::string& name, bool shared) {
    DeviceConfig config;
    config.transport = name;
    config.devices = shared ? "mps:2" : "";
    DeviceLinks links(cluster, config, ops, false);
    const auto transport =
        links.make_transport(cluster.world(), {60, cluster.wait_policy()});
    const double alone_s = round_s(nullptr, 0);
    for (std::int64_t bytes = 4096; bytes <= kLargest; bytes *= 4) {
      const auto elements = bytes / static_cast<std::int64_t>(size_of(out.dtype));
      const double time_s = measure_message_time(cluster.world(), *transport, ops.device(),
                                                 out.slice(0, elements), in.slice(0, elements));
      const double with_s = round_s(transport.get(), bytes);
      if (cluster.rank() != 0) continue;
      std::printf("%-18s %10lld B %10.2f us %9.2f GB/s   products %7.1f us alone, %+6.1f %% with\n",
                  transport->name().c_str(), static_cast<long long>(bytes), 1e6 * time_s,
                  1e-9 * static_cast<double>(bytes) / time_s, 1e6 * alone_s,
                  100 * (with_s / alone_s - 1));
      std::fflush(stdout);
    }
  }
};

void run(int argc, char** argv) {
  const std::string backend = argc > 1 ? argv[1] : "cuda";
  const bool shared = argc > 2 && std::string(argv[2]) == "shared";
  Cluster cluster(60);
  if (cluster.size() != 2) {
    throw UserError(fmt::format("{} ranks", cluster.size()), "run it with mpirun -n 2");
  }
  RunConfig config;
  config.parallel.pipeline = 2;
  config.device.backend = backend;
  config.device.devices = shared ? "mps:2" : "";
  const RankDevice chosen = choose_device(cluster, config);
  const auto ops = make_ops(chosen.backend, chosen.gpu);
  Bench bench(cluster, *ops);
  if (cluster.rank() == 0) std::printf("%s\n", ops->device().description().c_str());
  for (const char* name : {"mpi", "ipc", "nccl"}) {
    try {
      bench.table(name, shared);
    } catch (const UserError& error) {  // alike on both ranks
      if (cluster.rank() == 0) std::printf("%-18s left out: %s\n", name, error.what());
    } catch (const EnvironmentError& error) {
      if (cluster.rank() == 0) std::printf("%-18s left out: %s\n", name, error.what());
    }
  }
}

}  // namespace
}  // namespace pipemark

int main(int argc, char** argv) {
  try {
    pipemark::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 3;
  }
  return 0;
}
