#include "trainer/transport_ipc.hpp"

#include <algorithm>
#include <cstring>

#include "trainer/cluster.hpp"

namespace pipemark {

/// About one message, to the rank at its other end: the sender tells from where, and both by which
/// of their flags they want to hear.
struct TransportIpc::Notice {
  std::int32_t to = -1, tag = 0;
  std::uint32_t from_sender = 0;
  std::uint32_t flag = 0;  ///< index of the teller's flag
  std::uint64_t bytes = 0;
  SharedPlace place;  ///< of the sender's buffer
};

TransportIpc::TransportIpc(Group& pipeline, Device& device, PeerMemory& memory,
                           const TransportMpi::Options& options)
    : PlannedTransport(pipeline, device, options),
      memory_(memory),
      flags_memory_(device, MemoryKind::device, kFlags * sizeof(std::uint32_t)) {
  const Tensor flags = flags_memory_.take(kFlags, DType::i32, "transport/flags");
  flags_ = shared_flags(group_, device_, memory_, flags);
}

TransportIpc::~TransportIpc() {
  for (Plan& plan : plans_) {
    for (Receive& receive : plan.receives) device_.destroy(receive.event);
  }
}

std::uint32_t TransportIpc::take_flag() {
  check(flags_taken_ < kFlags, "TransportIpc: all {} flags are taken", flags_taken_);
  return flags_taken_++;
}

std::uint32_t* TransportIpc::flag_of(int rank, std::uint32_t index) {
  return flags_[static_cast<std::size_t>(rank)] + index;
}

std::vector<TransportIpc::Notice> TransportIpc::make_messages(
    Plan& plan, std::span<const PlannedTransfer> receives, std::span<const PlannedTransfer> sends) {
  std::vector<Notice> notices;
  for (const PlannedTransfer& t : receives) {
    const std::uint32_t flag = take_flag();
    Receive& receive = plan.receives.emplace_back();
    receive.tensor = t.tensor;
    receive.made = flag_of(group_.rank(), flag);
    receive.event = device_.make_event();
    notices.push_back({t.peer, t.tag, 0, flag, t.tensor.bytes(), {}});
  }
  for (const PlannedTransfer& t : sends) {
    const std::uint32_t flag = take_flag();
    plan.sends.push_back({nullptr, flag_of(group_.rank(), flag), 0});
    notices.push_back({t.peer, t.tag, 1, flag, t.tensor.bytes(), memory_.share(t.tensor.data)});
  }
  return notices;
}

void TransportIpc::connect(int, std::span<const PlannedTransfer> receives,
                           std::span<const PlannedTransfer> sends) {
  Plan& plan = plans_.emplace_back();
  const std::vector<Notice> mine = make_messages(plan, receives, sends);
  const auto all = group_.all_gather(
      std::string(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(Notice)));
  std::vector<std::vector<Notice>> told(all.size());  // by the rank that tells
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    for (std::size_t at = 0; at < all[rank].size(); at += sizeof(Notice)) {
      Notice notice;
      std::memcpy(&notice, all[rank].data() + at, sizeof notice);
      if (notice.to == group_.rank()) told[rank].push_back(notice);
    }
  }
  const auto of_other_end = [&](const PlannedTransfer& t, std::uint32_t from_sender) -> Notice& {
    auto& notices = told[static_cast<std::size_t>(t.peer)];
    const auto found = std::find_if(notices.begin(), notices.end(), [&](const Notice& n) {
      return n.tag == t.tag && n.from_sender == from_sender;
    });
    check(found != notices.end(), "TransportIpc: rank {} lacks the message of tag {} of rank {}",
          t.peer, t.tag, group_.rank());
    check(found->bytes == t.tensor.bytes(), "TransportIpc: {} bytes here, {} on rank {}",
          t.tensor.bytes(), found->bytes, t.peer);
    return *found;
  };
  for (std::size_t i = 0; i < receives.size(); ++i) {
    const Notice& notice = of_other_end(receives[i], 1);
    plan.receives[i].remote = memory_.open(notice.place);
    plan.receives[i].taken = flag_of(receives[i].peer, notice.flag);
  }
  for (std::size_t i = 0; i < sends.size(); ++i) {
    plan.sends[i].made = flag_of(sends[i].peer, of_other_end(sends[i], 0).flag);
  }
}

TransportIpc::Receive& TransportIpc::receive_of(int plan, int index) {
  return plans_[static_cast<std::size_t>(plan)].receives[static_cast<std::size_t>(index)];
}

TransportIpc::Send& TransportIpc::send_of(int plan, int index) {
  return plans_[static_cast<std::size_t>(plan)].sends[static_cast<std::size_t>(index)];
}

void TransportIpc::start_receive(int plan, int index) {
  Receive& receive = receive_of(plan, index);
  const Stream stream = device_.stream(StreamRole::receive);
  device_.record(receive.event, device_.stream(StreamRole::compute));
  device_.wait(stream, receive.event);
  memory_.wait_flag(stream, receive.made, ++receive.count);
  device_.copy(stream, receive.tensor.data, receive.remote, receive.tensor.bytes());
  memory_.write_flag(stream, receive.taken, receive.count);
  device_.record(receive.event, stream);
}

void TransportIpc::await_received(int plan, int index, Stream stream) {
  device_.wait(stream, receive_of(plan, index).event);
}

bool TransportIpc::has_arrived(int plan, int index) {
  return device_.done(receive_of(plan, index).event);
}

void TransportIpc::start_send(int plan, int index, Stream stream) {
  Send& send = send_of(plan, index);
  memory_.write_flag(stream, send.made, ++send.count);
}

void TransportIpc::await_sent(int plan, int index, Stream stream) {
  const Send& send = send_of(plan, index);
  memory_.wait_flag(stream, send.taken, send.count);
}

bool TransportIpc::has_left(int plan, int index) {
  const Send& send = send_of(plan, index);
  return reached(memory_.read_flag(send.taken), send.count);
}

}  // namespace pipemark
