// A message's id is 4 i + 1 of the i-th receive of the plan in use, 4 i + 2 of its i-th send, and
// 4 i of the i-th message that goes by MPI.
#include "trainer/transport_planned.hpp"

#include "trainer/cluster.hpp"
#include "trainer/cluster_mpi.hpp"

namespace pipemark {

namespace {
enum Way { kByMpi = 0, kReceive = 1, kSend = 2 };
bool by_mpi(MessageId id) { return id % 4 == kByMpi; }
}  // namespace

PlannedTransport::PlannedTransport(Group& pipeline, Device& device,
                                   const TransportMpi::Options& options)
    : group_(pipeline),
      device_(device),
      options_(options),
      others_(pipeline, device, options) {}

PlannedTransport::~PlannedTransport() = default;

PlannedTransport::Index PlannedTransport::index_of(const std::vector<PlannedTransfer>& transfers) {
  Index index;
  for (const PlannedTransfer& transfer : transfers) {
    const bool once =
        index.emplace(key(transfer.peer, transfer.tag), static_cast<int>(index.size())).second;
    check(once, "PlannedTransport: two messages of tag {} with rank {}", transfer.tag,
          transfer.peer);
  }
  return index;
}

int PlannedTransport::prepare(std::span<const PlannedTransfer> receives,
                              std::span<const PlannedTransfer> sends) {
  Plan& plan = *plans_.emplace_back(std::make_unique<Plan>());
  plan.receives.assign(receives.begin(), receives.end());
  plan.sends.assign(sends.begin(), sends.end());
  plan.receive_of = index_of(plan.receives);
  plan.send_of = index_of(plan.sends);
  plan.contexts.resize(plan.receives.size());
  const int number = static_cast<int>(plans_.size()) - 1;
  connect(number, receives, sends);
  return number;
}

void PlannedTransport::use(int plan) {
  check(plan >= kNoPlan && plan < static_cast<int>(plans_.size()),
        "PlannedTransport::use: plan {} of {}", plan, plans_.size());
  plan_ = plan;
}

int PlannedTransport::find(const std::vector<PlannedTransfer>& transfers, const Index& index,
                           int peer, int tag, const Tensor& tensor) const {
  const auto found = index.find(key(peer, tag));
  check(found != index.end(), "PlannedTransport: tag {} with rank {} is not in plan {}", tag, peer,
        plan_);
  check(transfers[static_cast<std::size_t>(found->second)].tensor.data == tensor.data,
        "PlannedTransport: tag {} with rank {} has another buffer", tag, peer);
  return found->second;
}

MessageId PlannedTransport::post_receive(Tensor into, int peer, int tag) {
  if (plan_ == kNoPlan) return 4 * others_.post_receive(into, peer, tag) + kByMpi;
  const int index = find(current().receives, current().receive_of, peer, tag, into);
  start_receive(plan_, index);
  return 4 * index + kReceive;
}

bool PlannedTransport::received(MessageId id) {
  return by_mpi(id) ? others_.received(id / 4) : has_arrived(plan_, id / 4);
}

void PlannedTransport::wait_received(MessageId id, Stream stream, const WaitContext& context) {
  if (by_mpi(id)) return others_.wait_received(id / 4, stream, context);
  current().contexts[static_cast<std::size_t>(id / 4)] = context;
  await_received(plan_, id / 4, stream);
}

MessageId PlannedTransport::post_send(Tensor tensor, int peer, int tag, Stream stream) {
  if (plan_ == kNoPlan) return 4 * others_.post_send(tensor, peer, tag, stream) + kByMpi;
  const int index = find(current().sends, current().send_of, peer, tag, tensor);
  start_send(plan_, index, stream);
  return 4 * index + kSend;
}

bool PlannedTransport::sent(MessageId id) {
  return by_mpi(id) ? others_.sent(id / 4) : has_left(plan_, id / 4);
}

void PlannedTransport::wait_sent(MessageId id, Stream stream, const WaitContext& context) {
  if (by_mpi(id)) return others_.wait_sent(id / 4, stream, context);
  await_sent(plan_, id / 4, stream);
}

void PlannedTransport::await(Event event) {
  Backoff backoff(options_.wait);
  const double begin_s = now_s();
  while (!device_.done(event)) {
    backoff.pause();
    if (backoff.look_at_clock() && now_s() - begin_s > options_.timeout_s) fail(now_s() - begin_s);
  }
}

/// Names the first message that the stream still waits for.
void PlannedTransport::fail(double waited_s) {
  set_mpi_failed();
  const int own = group_.world_rank(group_.rank());
  for (std::size_t i = 0; plan_ != kNoPlan && i < current().receives.size(); ++i) {
    const WaitContext& context = current().contexts[i];
    if (context.step < 0 || has_arrived(plan_, static_cast<int>(i))) continue;
    throw TransportError(fmt::format(
        "rank {} waited {:.1f} s for {} of stage {}, micro-batch {} from rank {} in step {}", own,
        waited_s, context.what, context.stage, context.micro_batch,
        group_.world_rank(current().receives[i].peer), context.step));
  }
  throw TransportError(fmt::format(
      "rank {} waited {:.1f} s for its device; a peer does not take its messages, or the device "
      "is stuck",
      own, waited_s));
}

}  // namespace pipemark
