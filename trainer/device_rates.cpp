#include "trainer/device_rates.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/arena.hpp"
#include "kernels/op_cost.hpp"
#include "trainer/message_time.hpp"
#include "trainer/transport_mpi.hpp"

namespace pipemark {

namespace {

constexpr int kRounds = 5;
constexpr double kLeast_s = 2e-3;  // of a timed round, well above a clock's and a launch's error

/// Seconds of one call of `body`, which enqueues on the stream.
template <class Body>
double median_s(Device& device, Stream stream, Body body) {
  Event begin = device.make_event(), end = device.make_event();
  const auto timed = [&](int times) {
    device.record(begin, stream);
    for (int i = 0; i < times; ++i) body();
    device.record(end, stream);
    device.synchronize(stream);
    return device.elapsed_s(begin, end) / times;
  };
  timed(1);  // touches memory and code, tunes
  const int times = static_cast<int>(std::clamp(kLeast_s / std::max(timed(1), 1e-9), 1.0, 2000.0));
  std::vector<double> seconds;
  for (int round = 0; round < kRounds; ++round) seconds.push_back(timed(times));
  device.destroy(begin);
  device.destroy(end);
  std::nth_element(seconds.begin(), seconds.begin() + kRounds / 2, seconds.end());
  return seconds[kRounds / 2];
}

/// Tensors of zeros for one measurement, in an arena of their size.
class Tensors {
 public:
  struct Want {
    std::int64_t count;
    DType dtype;
  };
  Tensors(Ops& ops, const std::vector<Want>& wants) {
    Arena planning;
    take(planning, wants);
    tensors_.clear();
    arena_ = std::make_unique<Arena>(ops.device(), MemoryKind::device, planning.used_bytes());
    take(*arena_, wants);
    const Stream stream = ops.device().stream(StreamRole::compute);
    for (const Tensor& t : tensors_) ops.device().fill_zero(stream, t.data, t.bytes());
  }
  const Tensor& operator[](std::size_t i) const { return tensors_[i]; }

 private:
  void take(Arena& arena, const std::vector<Want>& wants) {
    for (const Want& want : wants) tensors_.push_back(arena.take(want.count, want.dtype, "rates"));
  }
  std::unique_ptr<Arena> arena_;
  std::vector<Tensor> tensors_;
};

constexpr int kLargest = 8192;  ///< side of the largest product

/// Squares, doubled until one takes long or memory would be much.
void measure_gemms(Ops& ops, Fingerprint& fingerprint) {
  constexpr int kSmallest = 64;
  constexpr double kLong_s = 20e-3;
  const DType act = ops.activation_dtype();
  const Stream stream = ops.device().stream(StreamRole::compute);
  double seconds = 0;
  for (int n = kSmallest; n <= kLargest && seconds < kLong_s; n *= 2) {
    const std::int64_t size = std::int64_t{n} * n;
    const Tensors t(ops, {{size, act}, {size, act}, {n, act}, {size, act}});
    const LinearShape shape{n, n, n};
    seconds = median_s(ops.device(), stream,
                       [&] { ops.linear_forward(stream, shape, t[0], t[1], t[2], t[3]); });
    const double size_d = n;
    fingerprint.gemms.push_back(
        {precision_name(ops), size_d, size_d, size_d, op_cost::linear_flops(shape) / seconds});
  }
}

struct OpSizes {
  int B, T, C, H, V;
  std::int64_t rows() const { return std::int64_t{B} * T; }
};

void measure_norms(Ops& ops, const OpSizes& s, Fingerprint& fingerprint) {
  const DType act = ops.activation_dtype();
  const double bytes = static_cast<double>(size_of(act));
  const Stream stream = ops.device().stream(StreamRole::compute);
  const std::int64_t N = s.rows(), NC = N * s.C, wide = 4 * NC;
  const Tensors t(ops, {{wide, act},
                        {wide, act},
                        {wide, act},
                        {s.C, act},
                        {s.C, act},
                        {N, DType::f32},
                        {N, DType::f32},
                        {s.C, DType::f32},
                        {s.C, DType::f32}});
  const auto add = [&](const char* op, const op_cost::OpCost& cost, auto body) {
    fingerprint.ops.push_back({op, cost.bytes / median_s(ops.device(), stream, body), 0});
  };
  add("layer_norm_forward", op_cost::layer_norm_forward(N, s.C, bytes),
      [&] { ops.layer_norm_forward(stream, t[0], t[3], t[4], t[1], t[5], t[6], N, s.C); });
  add("layer_norm_backward", op_cost::layer_norm_backward(N, s.C, bytes), [&] {
    ops.layer_norm_backward(stream, t[0], t[1], t[3], t[5], t[6], t[2], t[2], t[7], t[8], N, s.C);
  });
  add("gelu_forward", op_cost::gelu_forward(wide, bytes),
      [&] { ops.gelu_forward(stream, t[0], t[1], wide); });
  add("gelu_backward", op_cost::gelu_backward(wide, bytes),
      [&] { ops.gelu_backward(stream, t[0], t[1], t[2], wide); });
  // A sum of two arrays is the memory's own rate.
  const double seconds =
      median_s(ops.device(), stream, [&] { ops.residual_forward(stream, t[0], t[1], t[2], wide); });
  fingerprint.memory_bytes_per_s = op_cost::residual_forward(wide, bytes).bytes / seconds;
}

void measure_attention(Ops& ops, const OpSizes& s, Fingerprint& fingerprint) {
  const DType act = ops.activation_dtype();
  const Stream stream = ops.device().stream(StreamRole::compute);
  const std::int64_t NC = s.rows() * s.C;
  const AttentionShape shape{s.B, s.T, s.C, s.H};
  const Tensors t(
      ops, {{3 * NC, act}, {NC, act}, {s.rows() * s.H, DType::f32}, {NC, act}, {3 * NC, act}});
  const double bytes = static_cast<double>(size_of(act));
  const auto add = [&](const char* op, const op_cost::OpCost& cost, auto body) {
    fingerprint.ops.push_back({op, 0, cost.flops / median_s(ops.device(), stream, body)});
  };
  add("attention_forward", op_cost::attention_forward(shape, bytes),
      [&] { ops.attention_forward(stream, shape, t[0], t[1], t[2]); });
  add("attention_backward", op_cost::attention_backward(shape, bytes),
      [&] { ops.attention_backward(stream, shape, t[3], t[0], t[1], t[2], t[4]); });
}

void measure_ends(Ops& ops, const OpSizes& s, Fingerprint& fingerprint) {
  const DType act = ops.activation_dtype();
  const double bytes = static_cast<double>(size_of(act));
  const Stream stream = ops.device().stream(StreamRole::compute);
  const std::int64_t N = s.rows(), NC = N * s.C;
  const Tensors t(ops, {{N * s.V, act},
                        {N, DType::i32},
                        {N, DType::f32},
                        {std::int64_t{s.V} * s.C, act},
                        {std::int64_t{s.T} * s.C, act},
                        {NC, act},
                        {std::int64_t{s.V} * s.C, DType::f32},
                        {std::int64_t{s.T} * s.C, DType::f32}});
  const auto add = [&](const char* op, const op_cost::OpCost& cost, auto body) {
    fingerprint.ops.push_back({op, cost.bytes / median_s(ops.device(), stream, body), 0});
  };
  add("softmax_cross_entropy", op_cost::softmax_cross_entropy(N, s.V, bytes),
      [&] { ops.softmax_cross_entropy(stream, t[0], t[1], t[2], N, s.V, s.V, 1.0f, true); });
  add("embedding_forward", op_cost::embedding_forward(N, s.C, bytes),
      [&] { ops.embedding_forward(stream, t[1], t[3], t[4], t[5], N, s.T, s.C); });
  add("embedding_backward", op_cost::embedding_backward(N, s.C, bytes),
      [&] { ops.embedding_backward(stream, t[1], t[5], t[6], t[7], N, s.T, s.C); });
}
}  // namespace

const char* precision_name(const Ops& ops) {
  return ops.activation_dtype() == DType::f32 ? "fp32" : "bf16";
}

Fingerprint measure_device(Ops& ops) {
  Fingerprint fingerprint;
  fingerprint.name = ops.device().description();
  fingerprint.measured = true;
  fingerprint.memory_bytes = static_cast<double>(ops.device().memory_info().total_bytes);
  const OpSizes sizes =
      ops.device().is_host() ? OpSizes{4, 128, 256, 4, 256} : OpSizes{8, 1024, 1024, 16, 50304};
  const std::size_t scratch =
      ops.workspace_bytes({sizes.B, sizes.T, sizes.C, sizes.H}, std::max(sizes.V, kLargest));
  const Tensors workspace(ops, {{static_cast<std::int64_t>(scratch / 4 + 1), DType::f32}});
  ops.set_workspace(workspace[0]);
  measure_gemms(ops, fingerprint);
  measure_norms(ops, sizes, fingerprint);
  measure_attention(ops, sizes, fingerprint);
  measure_ends(ops, sizes, fingerprint);
  ops.set_workspace(Tensor{});
  double best = 0;
  for (const GemmRate& rate : fingerprint.gemms) best = std::max(best, rate.flops_per_s);
  fingerprint.peaks.push_back({precision_name(ops), best});
  return fingerprint;
}

std::vector<LinkRate> measure_links(Cluster& cluster, Ops& ops, Fingerprint& fingerprint) {
  constexpr std::int64_t kSmall = 2, kLarge = 1 << 20;  // elements
  std::vector<LinkRate> links;
  for (int from = 0; from + 1 < cluster.size(); ++from) {
    const bool member = cluster.rank() == from || cluster.rank() == from + 1;
    Group pair = cluster.split(member ? 0 : 1, cluster.rank(), "pair of neighbours");
    double times[2] = {0, 0};
    if (member) {
      TransportMpi transport(pair, ops.device(), {cluster.timeout_s(), cluster.wait_policy()});
      const Tensors t(
          ops,
          {{kSmall, DType::f32}, {kLarge, DType::f32}, {kSmall, DType::f32}, {kLarge, DType::f32}});
      for (std::size_t i = 0; i < 2; ++i) {
        times[i] = measure_message_time(pair, transport, ops.device(), t[i], t[i + 2]);
      }
    }
    for (double& time : times) time = cluster.world().allreduce_max(time, "link times");
    const double bytes = 4.0 * static_cast<double>(kLarge - kSmall);
    links.push_back({from, times[0], bytes / std::max(times[1] - times[0], 1e-9)});
  }
  for (const LinkRate& link : links) {
    fingerprint.link_latency_s = std::max(fingerprint.link_latency_s, link.latency_s);
    const double slowest = fingerprint.link_bytes_per_s;
    fingerprint.link_bytes_per_s =
        slowest > 0 ? std::min(slowest, link.bytes_per_s) : link.bytes_per_s;
  }
  return links;
}

}  // namespace pipemark
