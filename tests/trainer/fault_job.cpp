// A job that is lost on purpose, for fault_test: a message a rank round a ring, step after step,
// for five minutes; in step 3 rank 1 is killed ("kill"), stops sending ("silent"), or all ranks
// find a fault at once ("all").
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/host_device.hpp"
#include "trainer/cluster.hpp"
#include "trainer/transport_mpi.hpp"

int main(int argc, char** argv) {
  using namespace pipemark;
  const std::string fault = argc > 1 ? argv[1] : "";
  Cluster cluster(1.0);
  try {
    HostDevice device("fault job");
    TransportMpi transport(cluster.world(), device, {1.0, WaitPolicy::shared_core});
    const int n = cluster.size(), me = cluster.rank();
    std::vector<float> out(64), in(64);
    for (int step = 0; step < 3000; ++step) {
      if (step == 3 && fault == "all") throw TransportError("every rank sees this");
      if (step == 3 && me == 1 && fault == "kill") std::raise(SIGKILL);
      if (step == 3 && me == 1 && fault == "silent") {
        sleep_s(300);
      }
      const MessageId receive =
          transport.post_receive({in.data(), 64, DType::f32}, (me + n - 1) % n, 0);
      const MessageId send = transport.post_send({out.data(), 64, DType::f32}, (me + 1) % n, 0, {});
      transport.wait_received(receive, {}, {step, "activation", me, 0});
      transport.wait_sent(send, {}, {step, "activation", me, 0});
      sleep_s(0.1);
    }
  } catch (const TransportError& error) {
    cluster.abort_job(3, error.what(), "look at that rank");
  }
  return 0;
}
