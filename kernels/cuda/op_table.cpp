// op_table: where the time of a GPT's training step goes on this GPU. Times every operation of the
// step by device events at its true shape, multiplies by how often a step has it, and prints it
// beside its floor: the larger of FLOPs over the matrix roof and bytes over the memory bandwidth,
// both measured first. The sum is the step with nothing overlapped and no gaps. Then, by class, the
// limit: matrix products at cuBLASLt's own speed for these shapes, attention at cuDNN's, and the
// bytes that must cross memory at the copy's speed.
//
//   op_table [layers 12] [channels 768] [heads 12] [sequences 32] [tokens 1024] [vocabulary 50257]
//
// Legend: B, T, C, H, L layers, N = B T rows, Vp vocabulary padded to 128.
#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/arena.hpp"
#include "kernels/ops.hpp"

namespace pipemark {
namespace {

struct Model {
  int L = 12, C = 768, H = 12, B = 32, T = 1024, V = 50257;
  int Vp() const { return (V + 127) / 128 * 128; }
  std::int64_t N() const { return std::int64_t{B} * T; }
};

enum class Class : std::uint8_t { matrix, attention, norm, classifier, optimizer, other };
constexpr const char* kClassNames[] = {"matrix products, their biases and GELU",
                                       "attention",
                                       "LayerNorm and residual",
                                       "softmax and loss",
                                       "optimizer",
                                       "embedding"};

struct Row {
  std::string name;
  Class kind;
  int count;
  double flops, bytes;
  double seconds = 0;
  double product_s = -1;  ///< of a row with more than its product: the bare product's time
};

class Table {
 public:
  explicit Table(const Model& model);
  void fill();
  void print() const;

 private:
  Tensor bf16(std::int64_t count);
  Tensor fp32(std::int64_t count, float scale = 0.0f);
  double time(const std::function<void()>& enqueue, int repetitions = 10);
  Row& row(const std::string& name, Class kind, int count, double flops, double bytes,
           const std::function<void()>& enqueue);
  double limit_of(const Row& row) const;
  void print_classes() const;
  void linear_rows(const std::string& name, const LinearShape& shape, bool gelu_before,
                   bool gelu_after);
  void block_rows();
  void head_rows();
  void optimizer_rows();
  void ceilings();

  Model m_;
  std::unique_ptr<Ops> ops_;
  Device& device_;
  Stream stream_;
  Arena arena_;
  double flops_per_s_ = 0, bytes_per_s_ = 0;
  std::vector<Row> rows_;
  // Shared operands: wide_ [N, max(4C, Vp)] and so on, random and of the size of a model's.
  Tensor wide_, wide2_, x_, y_, z_, w_, b_, stat_, stat2_, dw_, db_, tokens_;
};

Table::Table(const Model& model)
    : m_(model),
      ops_(make_ops("cuda")),
      device_(ops_->device()),
      stream_(device_.stream(StreamRole::compute)),
      arena_(device_, MemoryKind::device,
             device_.memory_info().free_bytes - (std::size_t{2} << 30)) {
  const std::int64_t N = m_.N(), C = m_.C;
  const std::size_t workspace = ops_->workspace_bytes({m_.B, m_.T, m_.C, m_.H}, m_.Vp());
  ops_->set_workspace(
      arena_.take(static_cast<std::int64_t>(workspace / 4 + 1), DType::f32, "workspace"));
  fmt::print("{}, workspace {:.1f} MiB\n", device_.description(), workspace / 1048576.0);
  wide_ = bf16(N * std::max<std::int64_t>(4 * C, m_.Vp()));
  wide2_ = bf16(N * 4 * C);
  x_ = bf16(N * C), y_ = bf16(N * C), z_ = bf16(N * C);
  w_ = bf16(std::max<std::int64_t>(4 * C, m_.Vp()) * C), b_ = bf16(4 * C);
  stat_ = fp32(N * m_.H), stat2_ = fp32(N * m_.H);
  dw_ = fp32(std::max<std::int64_t>(4 * C, m_.Vp()) * C), db_ = fp32(4 * C);
  std::mt19937 engine(1);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(N));
  for (auto& id : ids) id = static_cast<std::int32_t>(engine() % static_cast<unsigned>(m_.V));
  tokens_ = arena_.take(N, DType::i32, "tokens");
  device_.copy(stream_, tokens_.data, ids.data(), tokens_.bytes());
  device_.synchronize(stream_);
}

Tensor Table::fp32(std::int64_t count, float scale) {
  const Tensor t = arena_.take(count, DType::f32, "fp32");
  if (scale == 0.0f) {
    device_.fill_zero(stream_, t.data, t.bytes());
    return t;
  }
  std::mt19937 engine(7);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> some(static_cast<std::size_t>(std::min<std::int64_t>(count, 1 << 20)));
  for (float& value : some) value = normal(engine);
  for (std::int64_t at = 0; at < count; at += static_cast<std::int64_t>(some.size())) {
    const std::int64_t n =
        std::min<std::int64_t>(count - at, static_cast<std::int64_t>(some.size()));
    device_.copy(stream_, t.slice(at, n).data, some.data(), static_cast<std::size_t>(n) * 4);
  }
  device_.synchronize(stream_);
  return t;
}

/// Random: matrix products run faster on zeros.
Tensor Table::bf16(std::int64_t count) {
  static const Tensor some = fp32(1 << 20, 0.5f);
  const Tensor t = arena_.take(count, DType::bf16, "bf16");
  for (std::int64_t at = 0; at < count; at += some.size) {
    const std::int64_t n = std::min(count - at, some.size);
    ops_->convert(stream_, some.slice(0, n), t.slice(at, n), n);
  }
  return t;
}

double Table::time(const std::function<void()>& enqueue, int repetitions) {
  enqueue();
  const Event from = device_.make_event(), to = device_.make_event();
  std::vector<double> seconds;
  for (int sample = 0; sample < 5; ++sample) {
    device_.record(from, stream_);
    for (int i = 0; i < repetitions; ++i) enqueue();
    device_.record(to, stream_);
    device_.synchronize(stream_);
    seconds.push_back(device_.elapsed_s(from, to) / repetitions);
  }
  device_.destroy(from);
  device_.destroy(to);
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

Row& Table::row(const std::string& name, Class kind, int count, double flops, double bytes,
                const std::function<void()>& enqueue) {
  return rows_.emplace_back(Row{name, kind, count, flops, bytes, time(enqueue)});
}

void Table::ceilings() {
  bytes_per_s_ = 2.0 * static_cast<double>(wide2_.bytes()) /
                 time([&] { device_.copy(stream_, wide_.data, wide2_.data, wide2_.bytes()); });
  const LinearShape square{8192, 8192, 8192};
  const std::int64_t n = 8192 * 8192;
  const Tensor a = bf16(n), b = bf16(n), c = bf16(n);
  flops_per_s_ =
      2.0 * 8192 * 8192 * 8192 / time([&] { ops_->linear_forward(stream_, square, a, b, {}, c); });
  fmt::print("ceilings: {:.0f} TFLOP/s (8192^3), copy {:.2f} TB/s\n", flops_per_s_ * 1e-12,
             bytes_per_s_ * 1e-12);
}

void Table::linear_rows(const std::string& name, const LinearShape& s, bool gelu_before,
                        bool gelu_after) {
  const double flops = 2.0 * static_cast<double>(s.rows) * s.in * s.out;
  const double io = 2.0 * static_cast<double>(s.rows) * (s.in + s.out);
  const bool wide_in = s.in > m_.C;
  const Tensor in = wide_in ? wide2_ : x_, out = wide_in ? y_ : wide_;
  const double wide = 2.0 * static_cast<double>(s.rows) * 4 * m_.C;
  const double forward_s = time([=, this] { ops_->linear_forward(stream_, s, in, w_, {}, out); });
  row(name + "/forward", Class::matrix, m_.L, flops, io + (gelu_after ? wide : 0), [=, this] {
    if (gelu_after) {
      ops_->linear_gelu_forward(stream_, s, in, w_, b_, out, wide2_);
    } else {
      ops_->linear_forward(stream_, s, in, w_, b_, out);
    }
  }).product_s = forward_s;
  const double input_s =
      time([=, this] { ops_->linear_backward_input(stream_, s, out, w_, wide_in ? wide2_ : z_); });
  row(name + "/backward_input", Class::matrix, m_.L, flops, io + (gelu_before ? wide : 0),
      [=, this] {
        if (gelu_before) {
          ops_->linear_gelu_backward_input(stream_, s, out, w_, in, wide_, db_, false);
        } else {
          ops_->linear_backward_input(stream_, s, out, w_, wide_in ? wide2_ : z_);
        }
      })
      .product_s = input_s;
  // The biases of fc and proj ride on gelu's and LayerNorm's backward.
  const double dw = 4.0 * s.in * s.out;
  const bool own_bias = name == "qkv" || name == "fcproj";
  const double weight_s =
      time([=, this] { ops_->linear_backward_weight(stream_, s, out, in, dw_, {}, false); });
  row(name + "/backward_weight", Class::matrix, m_.L, flops, io + dw, [=, this] {
    ops_->linear_backward_weight(stream_, s, out, in, dw_, own_bias ? db_ : Tensor{}, false);
  }).product_s = weight_s;
}

void Table::block_rows() {
  const std::int64_t N = m_.N();
  const int C = m_.C;
  const double nc = 2.0 * static_cast<double>(N) * C;  // bytes of one [N, C]
  const AttentionShape attention{m_.B, m_.T, m_.C, m_.H};
  const double btt = static_cast<double>(N) * m_.T * C;
  row("embedding/forward", Class::other, 1, 0, 2 * nc,
      [=, this] { ops_->embedding_forward(stream_, tokens_, w_, x_, y_, N, m_.T, C); });
  row("embedding/backward", Class::other, 1, 0, 2 * nc,
      [=, this] { ops_->embedding_backward(stream_, tokens_, x_, dw_, stat2_, N, m_.T, C); });
  row("layer_norm/forward", Class::norm, 1, 0, 2 * nc,
      [=, this] { ops_->layer_norm_forward(stream_, x_, w_, b_, y_, stat_, stat2_, N, C); });
  row("residual_layer_norm/forward", Class::norm, 2 * m_.L, 0, 4 * nc, [=, this] {
    ops_->residual_layer_norm_forward(stream_, x_, y_, z_, w_, b_, wide_, stat_, stat2_, N, C);
  });
  const Tensor sums[3] = {db_.slice(0, C), db_.slice(C, C), db_.slice(2 * C, C)};
  row("layer_norm/backward", Class::norm, m_.L + 1, 0, 4 * nc, [=, this] {
    ops_->layer_norm_backward(stream_, x_, y_, w_, stat_, stat2_, z_, z_, sums[0], sums[1], N, C,
                              {}, false);
  });
  row("layer_norm/backward with sums", Class::norm, m_.L, 0, 4 * nc, [=, this] {
    ops_->layer_norm_backward(stream_, x_, y_, w_, stat_, stat2_, z_, z_, sums[0], sums[1], N, C,
                              sums[2], false);
  });
  linear_rows("qkv", {N, C, 3 * C}, false, false);
  row("attention/forward", Class::attention, m_.L, 2 * btt, 4 * nc,
      [=, this] { ops_->attention_forward(stream_, attention, wide2_, y_, stat_); });
  row("attention/backward", Class::attention, m_.L, 5 * btt, 8 * nc,
      [=, this] { ops_->attention_backward(stream_, attention, x_, wide2_, y_, stat_, wide_); });
  linear_rows("proj", {N, C, C}, false, false);
  linear_rows("fc", {N, C, 4 * C}, false, true);
  linear_rows("fcproj", {N, 4 * C, C}, true, false);
  const double wide = 8 * static_cast<double>(N) * C;
  row("(gelu/forward alone)", Class::other, 0, 0, 2 * wide,
      [=, this] { ops_->gelu_forward(stream_, wide2_, wide_, N * 4 * C); });
  row("(gelu/backward alone)", Class::other, 0, 0, 3 * wide,
      [=, this] { ops_->gelu_backward(stream_, wide_, wide2_, wide_, N * 4 * C); });
}

void Table::head_rows() {
  const std::int64_t N = m_.N();
  const LinearShape head{N, m_.C, m_.Vp()};
  const double flops = 2.0 * static_cast<double>(N) * m_.C * m_.Vp();
  const double logits = 2.0 * static_cast<double>(N) * m_.Vp(), table = 2.0 * m_.Vp() * m_.C;
  const double io = logits + table + 2.0 * static_cast<double>(N) * m_.C;
  const auto by_chunks = [=, this] {
    ops_->linear_softmax_cross_entropy(stream_, head, x_, w_, wide_, tokens_, stat_, m_.V, 1e-3f,
                                       true);
  };
  row("(head/forward alone)", Class::matrix, 0, flops, io,
      [=, this] { ops_->linear_forward(stream_, head, x_, w_, {}, wide_); });
  const double product_s = rows_.back().seconds;
  row("(softmax alone)", Class::classifier, 0, 0, 2 * logits, [=, this] {
    ops_->softmax_cross_entropy(stream_, wide_, tokens_, stat_, N, m_.V, m_.Vp(), 1e-3f, true);
  });
  // Shown as its product, and what the softmax adds to it.
  rows_.push_back({"head/forward", Class::matrix, 1, flops, io, product_s});
  rows_.push_back({"head/softmax, by chunks", Class::classifier, 1, 0, 2 * logits,
                   time(by_chunks) - product_s});
  row("head/backward_input", Class::matrix, 1, flops, io,
      [=, this] { ops_->linear_backward_input(stream_, head, wide_, w_, y_); });
  row("head/backward_weight", Class::matrix, 1, flops, io + 2 * table,
      [=, this] { ops_->linear_backward_weight(stream_, head, wide_, x_, dw_, {}, false); });
}

void Table::optimizer_rows() {
  const std::int64_t c2 = std::int64_t{m_.C} * m_.C;
  std::vector<ParamRange> ranges;
  std::int64_t n = 0;
  const auto add = [&](std::int64_t size) {
    ranges.push_back({n, size, size > 4 * m_.C});
    n += size;
  };
  add(std::int64_t{m_.Vp()} * m_.C);
  add(std::int64_t{m_.T} * m_.C);
  for (int layer = 0; layer < m_.L; ++layer) {
    for (std::int64_t size : {3 * c2, c2, 4 * c2, 4 * c2}) add(size);
    for (int size : {1, 1, 3, 1, 1, 1, 4, 1}) add(std::int64_t{size} * m_.C);
  }
  const Tensor p = fp32(n, 0.1f), g = fp32(n, 0.1f), m1 = fp32(n), m2 = fp32(n), w = bf16(n);
  const Tensor one = fp32(1, 1.0f), squared = fp32(static_cast<std::int64_t>(ranges.size()));
  row("optimizer/squared_norms", Class::optimizer, 1, 0, 4.0 * static_cast<double>(n),
      [=, this] { ops_->squared_norms(stream_, g, ranges, squared); });
  row("optimizer/adamw", Class::optimizer, 1, 0, 30.0 * static_cast<double>(n),
      [=, this] { ops_->adamw(stream_, p, w, g, m1, m2, ranges, AdamWSettings{}, one); });
}

void Table::fill() {
  ceilings();
  block_rows();
  head_rows();
  optimizer_rows();
}

void Table::print() const {
  double total = 0, floor_total = 0;
  for (const Row& r : rows_) total += r.seconds * r.count;
  fmt::print("{:36} {:>9} {:>5} {:>9} {:>6} {:>8} {:>7} {:>6}\n", "op", "us", "count", "ms/step",
             "share", "TFLOP/s", "TB/s", "x floor");
  for (const Row& r : rows_) {
    const double floor = std::max(r.flops / flops_per_s_, r.bytes / bytes_per_s_);
    floor_total += floor * r.count;
    fmt::print("{:36} {:9.1f} {:5} {:9.3f} {:5.1f}% {:8.0f} {:7.2f} {:6.2f}\n", r.name,
               r.seconds * 1e6, r.count, r.seconds * r.count * 1e3,
               100 * r.seconds * r.count / total, r.flops / r.seconds * 1e-12,
               r.bytes / r.seconds * 1e-12, r.seconds / floor);
  }
  const double tokens = static_cast<double>(m_.N());
  fmt::print("step {:.2f} ms = {:.0f} tokens/s; floor {:.2f} ms = {:.0f} tokens/s\n", total * 1e3,
             tokens / total, floor_total * 1e3, tokens / floor_total);
  print_classes();
}

double Table::limit_of(const Row& row) const {
  if (row.product_s >= 0) return std::min(row.product_s, row.seconds);
  if (row.kind == Class::matrix || row.kind == Class::attention) return row.seconds;
  return row.bytes / bytes_per_s_;
}

void Table::print_classes() const {
  double total = 0, limit = 0;
  double by_class[std::size(kClassNames)][2] = {};
  for (const Row& row : rows_) {
    auto& [seconds, least] = by_class[static_cast<std::size_t>(row.kind)];
    seconds += row.seconds * row.count;
    least += limit_of(row) * row.count;
    total += row.seconds * row.count;
    limit += limit_of(row) * row.count;
  }
  fmt::print("{:40} {:>8} {:>6} {:>9}\n", "class", "ms/step", "share", "limit ms");
  for (std::size_t i = 0; i < std::size(kClassNames); ++i) {
    fmt::print("{:40} {:8.3f} {:5.1f}% {:9.3f}\n", kClassNames[i], by_class[i][0] * 1e3,
               100 * by_class[i][0] / total, by_class[i][1] * 1e3);
  }
  fmt::print("limit {:.2f} ms = {:.0f} tokens/s; the operations reach {:.1f} % of it\n",
             limit * 1e3, static_cast<double>(m_.N()) / limit, 100 * limit / total);
}

}  // namespace
}  // namespace pipemark

int main(int argc, char** argv) {
  pipemark::Model model;
  int* const values[] = {&model.L, &model.C, &model.H, &model.B, &model.T, &model.V};
  for (int i = 1; i < argc && i <= 6; ++i) *values[i - 1] = std::atoi(argv[i]);
  try {
    pipemark::Table table(model);
    table.fill();
    table.print();
  } catch (const pipemark::UserError& error) {
    fmt::print(stderr, "error: {}\nhint: {}\n", error.what(), error.hint());
    return 3;
  }
  return 0;
}
