// Each message is a record that moves through phases; whoever polls moves it. Host memory has one
// phase (MPI); a GPU's has a copy before the send or after the receive.
#include "trainer/transport_mpi.hpp"

#include <deque>
#include <vector>

#include "kernels/arena.hpp"
#include "trainer/bf16.hpp"
#include "trainer/cluster_mpi.hpp"

namespace pipemark {
namespace {

enum class Phase : std::uint8_t {
  free,
  copy_out,  ///< send: the copy to staging is under way
  mpi,       ///< MPI has the message
  copy_in,   ///< receive: the copy from staging is under way
  leaving,   ///< receive: as copy_in, but the caller is done with it; a stream waits for the copy
  done
};

/// Page-locked memory of one message; `event` orders it with the device's streams.
struct Staging {
  Arena memory;
  Tensor bytes;
  Event event{};
  bool busy = false;
};

struct Message {
  Phase phase = Phase::free;
  bool receive = false;
  Tensor tensor;
  int peer = 0, tag = 0;
  int staging = -1;
  MPI_Request request = MPI_REQUEST_NULL;
};

MPI_Datatype unit_of(DType dtype) { return size_of(dtype) == 2 ? MPI_UINT16_T : MPI_UINT32_T; }

}  // namespace

struct TransportMpi::Impl {
  Impl(Group& pipeline, Device& device, const Options& options)
      : device(device), options(options), host(device.is_host()) {
    PIPEMARK_MPI_CHECK(MPI_Comm_dup(pipeline.impl().comm, &comm));
    PIPEMARK_MPI_CHECK(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN));
    own_world_rank = pipeline.world_rank(pipeline.rank());
    for (int r = 0; r < pipeline.size(); ++r) world_ranks.push_back(pipeline.world_rank(r));
  }

  ~Impl() {
    for (Staging& buffer : staging) device.destroy(buffer.event);
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized == 0 && !mpi_failed()) MPI_Comm_free(&comm);
  }

  Device& device;
  Options options;
  bool host;
  MPI_Comm comm = MPI_COMM_NULL;
  int own_world_rank = 0;
  std::vector<int> world_ranks;
  std::vector<Message> messages;
  std::vector<MessageId> free_ids;
  std::deque<Staging> staging;     ///< a deque: an Arena's memory stays where it is
  std::vector<MessageId> copying;  ///< staged messages that progress() must look at

  MessageId new_message(Tensor tensor, int peer, int tag, bool receive) {
    check(tensor.data != nullptr && tensor.size > 0 && tensor.size <= 0x7fffffff,
          "TransportMpi: a message of {} elements", tensor.size);
    check(peer >= 0 && peer < static_cast<int>(world_ranks.size()), "TransportMpi: peer {} of {}",
          peer, world_ranks.size());
    if (free_ids.empty()) {
      free_ids.push_back(static_cast<MessageId>(messages.size()));
      messages.emplace_back();
    }
    const MessageId id = free_ids.back();
    free_ids.pop_back();
    Message& message = messages[static_cast<std::size_t>(id)];
    message = {Phase::mpi, receive, tensor, peer, tag, -1, MPI_REQUEST_NULL};
    if (!host || converts(message)) message.staging = take_staging(wire_bytes(message));
    return id;
  }

  /// This host's fp32 against a GPU's bf16.
  bool converts(const Message& message) const {
    return host && !options.dtypes.empty() && message.tensor.dtype == DType::f32 &&
           options.dtypes[static_cast<std::size_t>(message.peer)] == DType::bf16;
  }
  std::size_t wire_bytes(const Message& message) const {
    return converts(message) ? message.tensor.bytes() / 2 : message.tensor.bytes();
  }
  void convert(Message& message) {
    auto* wire = static_cast<std::uint16_t*>(wire_memory(message));
    float* values = message.tensor.f32();
    const std::int64_t size = message.tensor.size;
    if (message.receive) {
      for (std::int64_t i = 0; i < size; ++i) values[i] = from_bf16(wire[i]);
    } else {
      for (std::int64_t i = 0; i < size; ++i) wire[i] = to_bf16(values[i]);
    }
  }

  Message& at(MessageId id) {
    check(id >= 0 && static_cast<std::size_t>(id) < messages.size() &&
              messages[static_cast<std::size_t>(id)].phase != Phase::free,
          "TransportMpi: message {} is not outstanding", id);
    return messages[static_cast<std::size_t>(id)];
  }

  void release(MessageId id) {
    Message& message = at(id);
    if (message.staging >= 0) staging[static_cast<std::size_t>(message.staging)].busy = false;
    message.phase = Phase::free;
    free_ids.push_back(id);
  }

  void finish(MessageId id) {
    std::erase(copying, id);
    release(id);
  }

  int take_staging(std::size_t bytes) {
    for (std::size_t s = 0; s < staging.size(); ++s) {
      if (!staging[s].busy && staging[s].bytes.bytes() >= bytes) {
        staging[s].busy = true;
        return static_cast<int>(s);
      }
    }
    Staging& buffer = staging.emplace_back();
    const std::size_t rounded =
        (bytes + Arena::kAlignment - 1) / Arena::kAlignment * Arena::kAlignment;
    buffer.memory = Arena(device, MemoryKind::host, rounded);
    buffer.bytes =
        buffer.memory.take(static_cast<std::int64_t>(rounded / 4), DType::i32, "transport/staging");
    buffer.event = device.make_event();
    buffer.busy = true;
    return static_cast<int>(staging.size() - 1);
  }

  Staging& staging_of(const Message& message) {
    return staging[static_cast<std::size_t>(message.staging)];
  }
  void* wire_memory(const Message& message) {
    return message.staging < 0 ? message.tensor.data : staging_of(message).bytes.data;
  }

  void start_mpi(Message& message) {
    const int count = static_cast<int>(message.tensor.size);
    const MPI_Datatype unit =
        unit_of(converts(message) ? DType::bf16 : message.tensor.dtype);
    message.phase = Phase::mpi;
    if (converts(message) && !message.receive) convert(message);
    if (message.receive) {
      PIPEMARK_MPI_CHECK(MPI_Irecv(wire_memory(message), count, unit, message.peer, message.tag,
                                   comm, &message.request));
    } else {
      PIPEMARK_MPI_CHECK(MPI_Isend(wire_memory(message), count, unit, message.peer, message.tag,
                                   comm, &message.request));
    }
  }

  /// Moves a message on as far as it goes now; true when it is done.
  bool advance(Message& message) {
    if (message.phase == Phase::copy_out && device.done(staging_of(message).event)) {
      start_mpi(message);
    }
    if (message.phase == Phase::mpi) {
      int complete = 0;
      PIPEMARK_MPI_CHECK(MPI_Test(&message.request, &complete, MPI_STATUS_IGNORE));
      if (complete != 0) {
        if (converts(message) && message.receive) convert(message);
        message.phase = message.receive && !host ? start_copy_in(message) : Phase::done;
      }
    }
    if (message.phase == Phase::copy_in && device.done(staging_of(message).event)) {
      message.phase = Phase::done;
    }
    return message.phase == Phase::done;
  }

  /// The staging event holds the compute stream's place of post_receive(): what read the tensor's
  /// memory before is over when the copy starts. Then it marks the copy's end.
  Phase start_copy_in(Message& message) {
    Staging& buffer = staging_of(message);
    const Stream receive = device.stream(StreamRole::receive);
    device.wait(receive, buffer.event);
    device.copy(receive, message.tensor.data, buffer.bytes.data, message.tensor.bytes());
    device.record(buffer.event, receive);
    return Phase::copy_in;
  }

  void progress_copies() {
    std::erase_if(copying, [&](MessageId id) {
      Message& message = messages[static_cast<std::size_t>(id)];
      if (message.phase == Phase::leaving && device.done(staging_of(message).event)) {
        release(id);
      }
      return message.phase == Phase::free || advance(message);
    });
  }

  /// Polls until `ready()`; after the time-out throws `describe()`'s sentence.
  template <class Ready>
  void wait(MessageId id, const WaitContext& context, Ready ready) {
    Backoff backoff(options.wait);
    double begin_s = -1;
    while (!ready()) {
      if (!copying.empty()) progress_copies();
      backoff.pause();
      if (!backoff.look_at_clock() && begin_s >= 0) continue;
      if (begin_s < 0) begin_s = now_s();
      if (now_s() - begin_s > options.timeout_s) fail(id, context, now_s() - begin_s);
    }
  }

  [[noreturn]] void fail(MessageId id, const WaitContext& context, double waited_s) {
    set_mpi_failed();
    const Message& message = messages[static_cast<std::size_t>(id)];
    const int peer = world_ranks[static_cast<std::size_t>(message.peer)];
    const std::string what = fmt::format("{} of stage {}, micro-batch {}", context.what,
                                         context.stage, context.micro_batch);
    throw TransportError(
        message.receive ? fmt::format("rank {} waited {:.1f} s for {} from rank {} in step {}",
                                      own_world_rank, waited_s, what, peer, context.step)
                        : fmt::format("rank {} waited {:.1f} s for rank {} to take {} in step {}",
                                      own_world_rank, waited_s, peer, what, context.step));
  }
};

TransportMpi::TransportMpi(Group& pipeline, Device& device, const Options& options)
    : impl_(std::make_unique<Impl>(pipeline, device, options)) {}
TransportMpi::~TransportMpi() = default;

MessageId TransportMpi::post_receive(Tensor into, int peer, int tag) {
  const MessageId id = impl_->new_message(into, peer, tag, true);
  Message& message = impl_->at(id);
  if (!impl_->host) {
    impl_->device.record(impl_->staging_of(message).event,
                         impl_->device.stream(StreamRole::compute));
    impl_->copying.push_back(id);
  }
  impl_->start_mpi(message);
  return id;
}

bool TransportMpi::received(MessageId id) {
  if (!impl_->copying.empty()) impl_->progress_copies();
  return impl_->advance(impl_->at(id));
}

void TransportMpi::wait_received(MessageId id, Stream stream, const WaitContext& context) {
  Message& message = impl_->at(id);
  // A staged copy need not be over: the reader's stream waits for it, and progress() frees its
  // staging buffer.
  impl_->wait(id, context,
              [&] { return impl_->advance(message) || message.phase == Phase::copy_in; });
  if (message.phase == Phase::copy_in) {
    impl_->device.wait(stream, impl_->staging_of(message).event);
    message.phase = Phase::leaving;
    return;
  }
  impl_->finish(id);
}

MessageId TransportMpi::post_send(Tensor tensor, int peer, int tag, Stream stream) {
  const MessageId id = impl_->new_message(tensor, peer, tag, false);
  Message& message = impl_->at(id);
  if (impl_->host) {
    impl_->start_mpi(message);
    return id;
  }
  Device& device = impl_->device;
  Staging& buffer = impl_->staging_of(message);
  const Stream send = device.stream(StreamRole::send);
  device.record(buffer.event, stream);
  device.wait(send, buffer.event);
  device.copy(send, buffer.bytes.data, tensor.data, tensor.bytes());
  device.record(buffer.event, send);
  message.phase = Phase::copy_out;
  impl_->copying.push_back(id);
  return id;
}

bool TransportMpi::sent(MessageId id) {
  if (!impl_->copying.empty()) impl_->progress_copies();
  return impl_->advance(impl_->at(id));
}

void TransportMpi::wait_sent(MessageId id, Stream, const WaitContext& context) {
  Message& message = impl_->at(id);
  impl_->wait(id, context, [&] { return impl_->advance(message); });
  impl_->finish(id);
}

void TransportMpi::progress() {
  if (!impl_->copying.empty()) impl_->progress_copies();
  int flag = 0;  // MPI moves all messages on in any call that tests
  PIPEMARK_MPI_CHECK(
      MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, impl_->comm, &flag, MPI_STATUS_IGNORE));
}

std::size_t TransportMpi::staging_bytes() const {
  std::size_t bytes = 0;
  for (const Staging& buffer : impl_->staging) bytes += buffer.memory.capacity_bytes();
  return bytes;
}

int TransportMpi::outstanding() const {
  return static_cast<int>(impl_->messages.size() - impl_->free_ids.size());
}

}  // namespace pipemark
