#include "trainer/expert_exchange.hpp"

#include "trainer/cluster.hpp"

namespace pipemark {

ExpertExchange::ExpertExchange(Group& group, Device& device, const TransportMpi::Options& options,
                               const ExpertLink& link)
    : transport_(group, device, options),
      rank_(group.rank()),
      ranks_(group.size()),
      timeout_s_(options.timeout_s),
      wait_(options.wait),
      link_(link),
      forward_(*this),
      backward_(*this) {}

void ExpertExchange::Channel::begin(int layer, int micro_batch) {
  for (const MessageId id : sends_) owner_.transport_.wait_sent(id, {}, context_);
  sends_.clear();
  context_ = {-1, "expert rows", layer, micro_batch};
  begin_s_ = now_s();
}

void ExpertExchange::Channel::send(Tensor rows, int peer, int tag, Stream stream) {
  sends_.push_back(owner_.transport_.post_send(rows, peer, tag, stream));
}

void ExpertExchange::Channel::receive(Tensor into, int peer, int tag) {
  receives_.push_back(owner_.transport_.post_receive(into, peer, tag));
  bytes_ += static_cast<std::int64_t>(into.bytes());
}

bool ExpertExchange::Channel::ready() {
  while (seen_ < receives_.size() && owner_.transport_.received(receives_[seen_])) {
    if (++seen_ < receives_.size()) continue;
    const ExpertLink& link = owner_.link_;
    last_s_ = now_s() + link.latency_s;
    if (link.bytes_per_s > 0) last_s_ += static_cast<double>(bytes_) / link.bytes_per_s;
  }
  return receives_.empty() || (seen_ == receives_.size() && now_s() >= last_s_);
}

void ExpertExchange::Channel::wait() {
  const double start_s = now_s();
  Backoff backoff(owner_.wait_);
  while (!ready()) {
    backoff.pause();
    // The transport's own wait says who did not come.
    if (backoff.look_at_clock() && now_s() - start_s > owner_.timeout_s_ &&
        seen_ < receives_.size()) {
      owner_.transport_.wait_received(receives_[seen_], {}, context_);
      return;
    }
  }
  owner_.add_exposed(now_s() - start_s);
}

void ExpertExchange::Channel::finish(Stream stream) {
  for (const MessageId id : receives_) owner_.transport_.wait_received(id, stream, context_);
  if (!receives_.empty()) {
    const double end_s = std::max(last_s_, begin_s_);
    owner_.times_.flight_s += end_s - begin_s_;
    owner_.times_.bytes += bytes_;
    begin_s_ = end_s;
  }
  receives_.clear();
  seen_ = 0;
  bytes_ = 0;
}

}  // namespace pipemark
