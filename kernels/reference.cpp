// Each function is the formula of its contract in kernels/ops.hpp, one output at a time, summed in
// fp64 in ascending order and rounded once to fp32.
//
// Legend as in kernels/ops.hpp: N rows, T tokens, C channels, H heads, D = C / H, V vocabulary.
#include "kernels/reference.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/clip_scale.hpp"
#include "kernels/host_device.hpp"

namespace pipemark {
namespace {

constexpr double kLayerNormEpsilon = 1e-5;
constexpr double kGeluCubic = 0.044715;
const double kGeluScale = std::sqrt(2.0 / std::acos(-1.0));

double gelu(double x) {
  return 0.5 * x * (1 + std::tanh(kGeluScale * (x + kGeluCubic * x * x * x)));
}

double gelu_derivative(double x) {
  const double t = std::tanh(kGeluScale * (x + kGeluCubic * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * kGeluScale * (1 + 3 * kGeluCubic * x * x);
}

/// t[i] = value, or += value: added in double, rounded once.
void put(Tensor t, std::int64_t i, double value, bool accumulate) {
  t.f32()[i] = static_cast<float>(accumulate ? t.f32()[i] + value : value);
}

/// sums[columns] of x[rows, columns]; nothing where `sums` is empty.
void column_sums(Tensor x, std::int64_t rows, int columns, Tensor sums, bool accumulate) {
  if (!sums) return;
  for (int c = 0; c < columns; ++c) {
    double sum = 0;
    for (std::int64_t n = 0; n < rows; ++n) sum += x.f32()[n * columns + c];
    put(sums, c, sum, accumulate);
  }
}

class ReferenceOps final : public Ops {
 public:
  std::string name() const override { return "reference"; }
  Device& device() override { return device_; }
  DType activation_dtype() const override { return DType::f32; }
  std::size_t workspace_bytes(const AttentionShape&, int) const override { return 0; }
  void set_workspace(Tensor) override {}

  void embedding_forward(Stream, Tensor tokens_i32, Tensor wte, Tensor wpe, Tensor x,
                         std::int64_t rows, int tokens, int channels) override {
    for (std::int64_t n = 0; n < rows; ++n) {
      for (int c = 0; c < channels; ++c) {
        x.f32()[n * channels + c] = wte.f32()[token(tokens_i32, wte, n, channels) * channels + c] +
                                    wpe.f32()[n % tokens * channels + c];
      }
    }
  }

  void embedding_backward(Stream, Tensor tokens_i32, Tensor dx, Tensor dwte, Tensor dwpe,
                          std::int64_t rows, int tokens, int channels) override {
    std::vector<double> te(dwte.f32(), dwte.f32() + dwte.size);
    std::vector<double> pe(dwpe.f32(), dwpe.f32() + dwpe.size);
    for (std::int64_t n = 0; n < rows; ++n) {
      const std::int64_t id = token(tokens_i32, dwte, n, channels);
      for (int c = 0; c < channels; ++c) {
        te[id * channels + c] += dx.f32()[n * channels + c];
        pe[n % tokens * channels + c] += dx.f32()[n * channels + c];
      }
    }
    std::copy(te.begin(), te.end(), dwte.f32());
    std::copy(pe.begin(), pe.end(), dwpe.f32());
  }

  void layer_norm_forward(Stream, Tensor x, Tensor w, Tensor b, Tensor y, Tensor mean, Tensor rstd,
                          std::int64_t rows, int channels) override {
    for (std::int64_t n = 0; n < rows; ++n) {
      const float* row = x.f32() + n * channels;
      double sum = 0, squares = 0;
      for (int c = 0; c < channels; ++c) sum += row[c];
      const double mu = sum / channels;
      for (int c = 0; c < channels; ++c) squares += (row[c] - mu) * (row[c] - mu);
      const double inverse = 1 / std::sqrt(squares / channels + kLayerNormEpsilon);
      for (int c = 0; c < channels; ++c) {
        y.f32()[n * channels + c] =
            static_cast<float>((row[c] - mu) * inverse * w.f32()[c] + b.f32()[c]);
      }
      mean.f32()[n] = static_cast<float>(mu);
      rstd.f32()[n] = static_cast<float>(inverse);
    }
  }

  void residual_layer_norm_forward(Stream stream, Tensor a, Tensor b, Tensor residual_out, Tensor w,
                                   Tensor bias, Tensor y, Tensor mean, Tensor rstd,
                                   std::int64_t rows, int channels) override {
    residual_forward(stream, a, b, residual_out, rows * channels);
    layer_norm_forward(stream, residual_out, w, bias, y, mean, rstd, rows, channels);
  }

  void layer_norm_backward(Stream, Tensor dy, Tensor x, Tensor w, Tensor mean, Tensor rstd,
                           Tensor dresidual, Tensor dx, Tensor dw, Tensor db, std::int64_t rows,
                           int channels, Tensor dx_sums, bool accumulate) override {
    const auto size = static_cast<std::size_t>(channels);
    std::vector<double> dws(size), dbs(size);
    for (std::int64_t n = 0; n < rows; ++n) {
      const float* dyr = dy.f32() + n * channels;
      const float* xr = x.f32() + n * channels;
      const double mu = mean.f32()[n], inverse = rstd.f32()[n];
      double sum = 0, projected = 0;
      for (int c = 0; c < channels; ++c) {
        const double g = double{dyr[c]} * w.f32()[c], hat = (xr[c] - mu) * inverse;
        sum += g;
        projected += g * hat;
        dws[c] += dyr[c] * hat;
        dbs[c] += dyr[c];
      }
      for (int c = 0; c < channels; ++c) {
        const double g = double{dyr[c]} * w.f32()[c], hat = (xr[c] - mu) * inverse;
        const double carried = dresidual ? dresidual.f32()[n * channels + c] : 0;
        dx.f32()[n * channels + c] =
            static_cast<float>(carried + inverse * (g - (sum + hat * projected) / channels));
      }
    }
    for (int c = 0; c < channels; ++c) {
      put(dw, c, dws[static_cast<std::size_t>(c)], accumulate);
      put(db, c, dbs[static_cast<std::size_t>(c)], accumulate);
    }
    column_sums(dx, rows, channels, dx_sums, accumulate);
  }

  void linear_forward(Stream, LinearShape s, Tensor x, Tensor w, Tensor b, Tensor y) override {
    for (std::int64_t n = 0; n < s.rows; ++n) {
      for (int o = 0; o < s.out; ++o) {
        double sum = b ? b.f32()[o] : 0;
        for (int i = 0; i < s.in; ++i) {
          sum += double{x.f32()[n * s.in + i]} * w.f32()[std::int64_t{o} * s.in + i];
        }
        y.f32()[n * s.out + o] = static_cast<float>(sum);
      }
    }
  }

  void linear_gelu_forward(Stream stream, LinearShape s, Tensor x, Tensor w, Tensor b, Tensor pre,
                           Tensor y) override {
    linear_forward(stream, s, x, w, b, pre);
    gelu_forward(stream, pre, y, s.rows * s.out);
  }

  void linear_backward_input(Stream, LinearShape s, Tensor dy, Tensor w, Tensor dx) override {
    for (std::int64_t n = 0; n < s.rows; ++n) {
      for (int i = 0; i < s.in; ++i) {
        double sum = 0;
        for (int o = 0; o < s.out; ++o) {
          sum += double{dy.f32()[n * s.out + o]} * w.f32()[std::int64_t{o} * s.in + i];
        }
        dx.f32()[n * s.in + i] = static_cast<float>(sum);
      }
    }
  }

  void linear_gelu_backward_input(Stream stream, LinearShape s, Tensor dy, Tensor w, Tensor pre,
                                  Tensor dpre, Tensor db, bool accumulate) override {
    linear_backward_input(stream, s, dy, w, dpre);
    gelu_backward(stream, dpre, pre, dpre, s.rows * s.in);
    column_sums(dpre, s.rows, s.in, db, accumulate);
  }

  void linear_backward_weight(Stream, LinearShape s, Tensor dy, Tensor x, Tensor dw, Tensor db,
                              bool accumulate) override {
    for (int o = 0; o < s.out; ++o) {
      for (int i = 0; i < s.in; ++i) {
        double sum = 0;
        for (std::int64_t n = 0; n < s.rows; ++n) {
          sum += double{dy.f32()[n * s.out + o]} * x.f32()[n * s.in + i];
        }
        put(dw, std::int64_t{o} * s.in + i, sum, accumulate);
      }
    }
    column_sums(dy, s.rows, s.out, db, accumulate);
  }

  void gelu_forward(Stream, Tensor x, Tensor y, std::int64_t count) override {
    for (std::int64_t i = 0; i < count; ++i) y.f32()[i] = static_cast<float>(gelu(x.f32()[i]));
  }

  void gelu_backward(Stream, Tensor dy, Tensor x, Tensor dx, std::int64_t count) override {
    for (std::int64_t i = 0; i < count; ++i) {
      dx.f32()[i] = static_cast<float>(dy.f32()[i] * gelu_derivative(x.f32()[i]));
    }
  }

  void residual_forward(Stream, Tensor a, Tensor b, Tensor out, std::int64_t count) override {
    for (std::int64_t i = 0; i < count; ++i) out.f32()[i] = a.f32()[i] + b.f32()[i];
  }

  void attention_forward(Stream, AttentionShape s, Tensor qkv, Tensor out, Tensor lse) override {
    const Heads heads(s);
    std::vector<double> p(s.tokens);
    for (int b = 0; b < s.batch; ++b) {
      for (int h = 0; h < s.heads; ++h) {
        for (int i = 0; i < s.tokens; ++i) {
          double largest = -INFINITY, sum = 0;
          for (int j = 0; j <= i; ++j) {
            p[j] = heads.score(qkv.f32(), b, h, i, j);
            largest = std::max(largest, p[j]);
          }
          for (int j = 0; j <= i; ++j) sum += p[j] = std::exp(p[j] - largest);
          for (int d = 0; d < heads.size; ++d) {
            double value = 0;
            for (int j = 0; j <= i; ++j) value += p[j] * qkv.f32()[heads.at(b, h, j, 2) + d];
            out.f32()[heads.out(b, h, i) + d] = static_cast<float>(value / sum);
          }
          lse.f32()[heads.row(b, h, i)] = static_cast<float>(largest + std::log(sum));
        }
      }
    }
  }

  void attention_backward(Stream, AttentionShape s, Tensor dout, Tensor qkv, Tensor out, Tensor lse,
                          Tensor dqkv) override {
    const Heads heads(s);
    const float* x = qkv.f32();
    std::vector<double> grad(qkv.size, 0.0);
    for (int b = 0; b < s.batch; ++b) {
      for (int h = 0; h < s.heads; ++h) {
        for (int i = 0; i < s.tokens; ++i) {
          const float* dout_i = dout.f32() + heads.out(b, h, i);
          const std::int64_t q = heads.at(b, h, i, 0);
          double delta = 0;  // sum_j P_ij dP_ij = dout_i . out_i
          for (int d = 0; d < heads.size; ++d) {
            delta += double{dout_i[d]} * out.f32()[heads.out(b, h, i) + d];
          }
          for (int j = 0; j <= i; ++j) {
            const std::int64_t k = heads.at(b, h, j, 1), v = heads.at(b, h, j, 2);
            const double p = std::exp(heads.score(x, b, h, i, j) - lse.f32()[heads.row(b, h, i)]);
            double dp = 0;
            for (int d = 0; d < heads.size; ++d) dp += double{dout_i[d]} * x[v + d];
            const double ds = p * (dp - delta) * heads.scale;
            for (int d = 0; d < heads.size; ++d) {
              grad[q + d] += ds * x[k + d];
              grad[k + d] += ds * x[q + d];
              grad[v + d] += p * dout_i[d];
            }
          }
        }
      }
    }
    std::copy(grad.begin(), grad.end(), dqkv.f32());
  }

  void softmax_cross_entropy(Stream, Tensor logits, Tensor targets_i32, Tensor losses,
                             std::int64_t rows, int vocabulary, int vocabulary_padded, float scale,
                             bool with_gradient) override {
    for (std::int64_t n = 0; n < rows; ++n) {
      float* row = logits.f32() + n * vocabulary_padded;
      const int target = targets_i32.i32()[n];
      check(target >= 0 && target < vocabulary, "target {} of row {} is not below V = {}", target,
            n, vocabulary);
      const double largest = *std::max_element(row, row + vocabulary);
      double sum = 0;
      for (int v = 0; v < vocabulary; ++v) sum += std::exp(row[v] - largest);
      losses.f32()[n] = static_cast<float>(largest + std::log(sum) - row[target]);
      if (!with_gradient) continue;
      for (int v = 0; v < vocabulary; ++v) {
        const double p = std::exp(row[v] - largest) / sum;
        row[v] = static_cast<float>((p - (v == target ? 1 : 0)) * scale);
      }
      std::fill(row + vocabulary, row + vocabulary_padded, 0.0f);
    }
  }

  void router_forward(Stream, RouterShape s, Tensor logits, Tensor bias, Tensor probabilities,
                      Tensor chosen_i32, Tensor gates) override {
    for (std::int64_t n = 0; n < s.rows; ++n) {
      const float* x = logits.f32() + n * s.experts;
      const float* b = bias.f32() + (bias.size == s.experts ? 0 : n * s.experts);
      float* p = probabilities.f32() + n * s.experts;
      const double largest = *std::max_element(x, x + s.experts);
      double sum = 0, taken = 0;
      for (int e = 0; e < s.experts; ++e) sum += std::exp(x[e] - largest);
      std::vector<int> order(s.experts);
      for (int e = 0; e < s.experts; ++e) {
        p[e] = static_cast<float>(std::exp(x[e] - largest) / sum);
        order[e] = e;
      }
      std::stable_sort(order.begin(), order.end(),
                       [&](int l, int r) { return p[l] + b[l] > p[r] + b[r]; });
      for (int j = 0; j < s.top_k; ++j) taken += p[order[j]];
      for (int j = 0; j < s.top_k; ++j) {
        chosen_i32.i32()[n * s.top_k + j] = order[j];
        gates.f32()[n * s.top_k + j] =
            static_cast<float>(s.top_k > 1 ? p[order[j]] / taken : p[order[j]]);
      }
    }
  }

  void router_backward(Stream, RouterShape s, Tensor probabilities, Tensor chosen_i32, Tensor gates,
                       Tensor dgates, Tensor balance, Tensor dlogits) override {
    for (std::int64_t n = 0; n < s.rows; ++n) {
      const float* p = probabilities.f32() + n * s.experts;
      std::vector<double> dp(s.experts, 0.0);
      double taken = 0, along = 0, mean = 0;
      for (std::int64_t i = n * s.top_k; i < (n + 1) * s.top_k; ++i) {
        taken += p[chosen_i32.i32()[i]];
        along += double{dgates.f32()[i]} * gates.f32()[i];
      }
      for (std::int64_t i = n * s.top_k; i < (n + 1) * s.top_k; ++i) {
        const double dgate = dgates.f32()[i];
        dp[chosen_i32.i32()[i]] = s.top_k > 1 ? (dgate - along) / taken : dgate;
      }
      for (int e = 0; e < s.experts; ++e) {
        if (balance) dp[e] += balance.f32()[n / s.tokens * s.experts + e];
        mean += p[e] * dp[e];
      }
      for (int e = 0; e < s.experts; ++e) {
        dlogits.f32()[n * s.experts + e] = static_cast<float>(p[e] * (dp[e] - mean));
      }
    }
  }

  void gather_rows(Stream, Tensor x, Tensor index_i32, Tensor out, std::int64_t count,
                   int channels) override {
    for (std::int64_t m = 0; m < count; ++m) {
      const std::int64_t from = index_i32.i32()[m];
      for (int c = 0; c < channels; ++c) {
        out.f32()[m * channels + c] = from < 0 ? 0 : x.f32()[from * channels + c];
      }
    }
  }

  void combine_rows(Stream, Tensor rows, Tensor place_i32, Tensor gates, Tensor y,
                    std::int64_t count, int top_k, int channels) override {
    for (std::int64_t n = 0; n < count; ++n) {
      for (int c = 0; c < channels; ++c) {
        double sum = 0;
        for (std::int64_t i = n * top_k; i < (n + 1) * top_k; ++i) {
          const std::int64_t at = place_i32.i32()[i];
          if (at >= 0) sum += (gates ? double{gates.f32()[i]} : 1) * rows.f32()[at * channels + c];
        }
        y.f32()[n * channels + c] = static_cast<float>(sum);
      }
    }
  }

  void combine_rows_backward(Stream, Tensor dy, Tensor rows, Tensor place_i32, Tensor gates,
                             Tensor drows, Tensor dgates, std::int64_t count, int top_k,
                             int channels) override {
    for (std::int64_t i = 0; i < count * top_k; ++i) {
      const std::int64_t at = place_i32.i32()[i], n = i / top_k;
      double along = 0;
      for (int c = 0; at >= 0 && c < channels; ++c) {
        along += double{dy.f32()[n * channels + c]} * rows.f32()[at * channels + c];
        drows.f32()[at * channels + c] = gates.f32()[i] * dy.f32()[n * channels + c];
      }
      dgates.f32()[i] = static_cast<float>(along);
    }
  }

  void add_scaled_sum(Stream, Tensor x, std::int64_t count, float scale, Tensor sum) override {
    double total = 0;
    for (std::int64_t i = 0; i < count; ++i) total += x.f32()[i];
    sum.f32()[0] = static_cast<float>(sum.f32()[0] + scale * total);
  }

  void squared_norms(Stream, Tensor gradients, std::span<const ParamRange> ranges,
                     Tensor squared) override {
    for (std::size_t r = 0; r < ranges.size(); ++r) {
      double total = 0;
      for (std::int64_t i = 0; i < ranges[r].size; ++i) {
        const double g = gradients.f32()[ranges[r].offset + i];
        total += g * g;
      }
      squared.f32()[r] = static_cast<float>(total);
    }
  }

  void clip_scale(Stream, Tensor squared, std::int64_t count, double clip, Tensor norm,
                  Tensor scale) override {
    host_clip_scale(squared.f32(), count, clip, norm.f32(), scale.f32());
  }

  void adamw(Stream, Tensor master, Tensor weights, Tensor gradients, Tensor m, Tensor v,
             std::span<const ParamRange> ranges, const AdamWSettings& settings,
             Tensor gradient_scale) override {
    const double beta1 = settings.beta1, beta2 = settings.beta2;
    const double correction1 = 1 - std::pow(beta1, static_cast<double>(settings.step));
    const double correction2 = 1 - std::pow(beta2, static_cast<double>(settings.step));
    for (const ParamRange& range : ranges) {
      const double decay =
          range.decay ? double{settings.learning_rate} * settings.weight_decay : 0.0;
      for (std::int64_t i = range.offset; i < range.offset + range.size; ++i) {
        const double g = double{gradients.f32()[i]} * gradient_scale.f32()[0];
        const double first = beta1 * m.f32()[i] + (1 - beta1) * g;
        const double second = beta2 * v.f32()[i] + (1 - beta2) * g * g;
        const double direction =
            first / correction1 / (std::sqrt(second / correction2) + settings.epsilon);
        master.f32()[i] =
            static_cast<float>(master.f32()[i] * (1 - decay) - settings.learning_rate * direction);
        m.f32()[i] = static_cast<float>(first);
        v.f32()[i] = static_cast<float>(second);
        weights.f32()[i] = master.f32()[i];
      }
    }
  }

  void accumulate(Stream stream, Tensor x, Tensor accumulator, std::int64_t count) override {
    residual_forward(stream, x, accumulator, accumulator, count);
  }

  void convert(Stream stream, Tensor src, Tensor dst, std::int64_t count) override {
    device_.copy(stream, dst.f32(), src.f32(), static_cast<std::size_t>(count) * sizeof(float));
  }

 private:
  static std::int64_t token(Tensor tokens, Tensor table, std::int64_t n, int channels) {
    const std::int64_t id = tokens.i32()[n];
    check(id >= 0 && (id + 1) * channels <= table.size, "token {} of row {} is not below V = {}",
          id, n, table.size / channels);
    return id;
  }

  /// Where a head's vectors begin in qkv[B, T, 3C], out[B, T, C] and lse[B, H, T].
  struct Heads {
    explicit Heads(const AttentionShape& shape)
        : s(shape), size(shape.channels / shape.heads), scale(1 / std::sqrt(double(size))) {}
    std::int64_t at(int b, int h, int t, int which) const {
      return (std::int64_t{b} * s.tokens + t) * 3 * s.channels + which * s.channels + h * size;
    }
    std::int64_t out(int b, int h, int t) const {
      return (std::int64_t{b} * s.tokens + t) * s.channels + h * size;
    }
    std::int64_t row(int b, int h, int t) const {
      return (std::int64_t{b} * s.heads + h) * s.tokens + t;
    }
    double score(const float* qkv, int b, int h, int i, int j) const {
      double sum = 0;
      for (int d = 0; d < size; ++d)
        sum += double{qkv[at(b, h, i, 0) + d]} * qkv[at(b, h, j, 1) + d];
      return sum * scale;
    }
    AttentionShape s;
    int size;
    double scale;
  };

  HostDevice device_{"reference"};
};

}  // namespace

std::unique_ptr<Ops> make_reference_ops() { return std::make_unique<ReferenceOps>(); }

}  // namespace pipemark
