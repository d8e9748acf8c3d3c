// Mixture of experts: the router and the moves of rows to and from experts. Each iteration writes
// its own row, but for drows of combine_rows_backward, whose rows have one writer each.
#include "kernels/kokkos/elementwise.hpp"
#include "kernels/kokkos/kokkos_ops.hpp"

namespace pipemark::kokkos {
namespace {

/// p = softmax(x) over E numbers.
KOKKOS_INLINE_FUNCTION void softmax_row(const float* x, float* p, int E) {
  float highest = x[0];
  for (int e = 1; e < E; ++e) highest = x[e] > highest ? x[e] : highest;
  for_packs(E, [&](int e, int n) { store(p + e, exponential(load(x + e, n) - highest), n); });
  float total = 0;
  for (int e = 0; e < E; ++e) total += p[e];
  for (int e = 0; e < E; ++e) p[e] /= total;
}

/// The expert of the highest p + bias that is none of chosen[0..taken).
KOKKOS_INLINE_FUNCTION int best_expert(const float* p, const float* bias, int E,
                                       const std::int32_t* chosen, int taken) {
  int best = -1;
  float best_score = 0;
  for (int e = 0; e < E; ++e) {
    bool free = true;
    for (int j = 0; j < taken; ++j) free = free && chosen[j] != e;
    const float score = p[e] + bias[e];
    if (free && (best < 0 || score > best_score)) {
      best = e;
      best_score = score;
    }
  }
  return best;
}

void check_router(const RouterShape& s, std::int64_t probabilities, std::int64_t gates) {
  check(s.top_k >= 1 && s.top_k <= s.experts && s.tokens >= 1, "router: {} of {} experts", s.top_k,
        s.experts);
  check(probabilities >= s.rows * s.experts && gates >= s.rows * s.top_k,
        "router: {} probabilities and {} gates for {} rows", probabilities, gates, s.rows);
}

}  // namespace

void KokkosOps::router_forward(Stream, RouterShape s, Tensor logits, Tensor bias,
                               Tensor probabilities, Tensor chosen_i32, Tensor gates) {
  static const std::string label = "moe/router/forward";
  check_router(s, probabilities.size, gates.size);
  check(bias.size == s.experts || bias.size == s.rows * s.experts, "router: a bias of {} elements",
        bias.size);
  const int E = s.experts, k = s.top_k;
  const std::int64_t bias_stride = bias.size == E ? 0 : E;
  const float *xs = logits.f32(), *biases = bias.f32();
  float *ps = probabilities.f32(), *gs = gates.f32();
  std::int32_t* all = chosen_i32.i32();
  launch(
      label, s.rows, KOKKOS_LAMBDA(std::int64_t n) {
        float *p = ps + n * E, *gate = gs + n * k;
        std::int32_t* chosen = all + n * k;
        softmax_row(xs + n * E, p, E);
        float total = 0;
        for (int j = 0; j < k; ++j) {
          chosen[j] = best_expert(p, biases + n * bias_stride, E, chosen, j);
          total += gate[j] = p[chosen[j]];
        }
        for (int j = 0; k > 1 && j < k; ++j) gate[j] /= total;
      });
}

void KokkosOps::router_backward(Stream, RouterShape s, Tensor probabilities, Tensor chosen_i32,
                                Tensor gates, Tensor dgates, Tensor balance, Tensor dlogits) {
  static const std::string label = "moe/router/backward";
  check_router(s, probabilities.size, gates.size);
  const int E = s.experts, k = s.top_k, T = s.tokens;
  const float *ps = probabilities.f32(), *gs = gates.f32(), *dgs = dgates.f32();
  const float* added = balance ? balance.f32() : nullptr;
  const std::int32_t* all = chosen_i32.i32();
  float* out = dlogits.f32();
  launch(
      label, s.rows, KOKKOS_LAMBDA(std::int64_t n) {
        const float *p = ps + n * E, *gate = gs + n * k, *dgate = dgs + n * k;
        const std::int32_t* chosen = all + n * k;
        float* dp = out + n * E;  // then dlogits
        for (int e = 0; e < E; ++e) dp[e] = added == nullptr ? 0 : added[n / T * E + e];
        float total = 0, along = 0;  // of the chosen: sum of p, and dgate . gate
        for (int j = 0; j < k; ++j) {
          total += p[chosen[j]];
          along += dgate[j] * gate[j];
        }
        for (int j = 0; j < k; ++j) {
          dp[chosen[j]] += k > 1 ? (dgate[j] - along) / total : dgate[j];
        }
        float mean = 0;
        for (int e = 0; e < E; ++e) mean += p[e] * dp[e];
        for (int e = 0; e < E; ++e) dp[e] = p[e] * (dp[e] - mean);
      });
}

void KokkosOps::gather_rows(Stream, Tensor x, Tensor index_i32, Tensor out, std::int64_t count,
                            int channels) {
  static const std::string label = "moe/gather";
  check(index_i32.size >= count && out.size >= count * channels,
        "gather_rows: {} indices and {} elements for {} rows", index_i32.size, out.size, count);
  const float* xs = x.f32();
  const std::int32_t* index = index_i32.i32();
  float* ys = out.f32();
  launch(
      label, count, KOKKOS_LAMBDA(std::int64_t m) {
        const std::int64_t from = index[m];
        for_packs(channels, [&](int c, int n) {
          store(ys + m * channels + c, from < 0 ? Pack{} : load(xs + from * channels + c, n), n);
        });
      });
}

void KokkosOps::combine_rows(Stream, Tensor rows, Tensor place_i32, Tensor gates, Tensor y,
                             std::int64_t count, int top_k, int channels) {
  static const std::string label = "moe/combine";
  check(place_i32.size >= count * top_k && y.size >= count * channels,
        "combine_rows: {} places and {} elements for {} rows", place_i32.size, y.size, count);
  const float *xs = rows.f32(), *gs = gates ? gates.f32() : nullptr;
  const std::int32_t* places = place_i32.i32();
  float* ys = y.f32();
  launch(
      label, count, KOKKOS_LAMBDA(std::int64_t n) {
        for_packs(channels, [&](int c, int lanes) {
          Pack sum{};
          for (int j = 0; j < top_k; ++j) {
            const std::int64_t at = places[n * top_k + j];
            if (at < 0) continue;
            const float gate = gs == nullptr ? 1.0f : gs[n * top_k + j];
            sum += load(xs + at * channels + c, lanes) * splat(gate);
          }
          store(ys + n * channels + c, sum, lanes);
        });
      });
}

void KokkosOps::combine_rows_backward(Stream, Tensor dy, Tensor rows, Tensor place_i32,
                                      Tensor gates, Tensor drows, Tensor dgates, std::int64_t count,
                                      int top_k, int channels) {
  static const std::string label = "moe/combine_backward";
  check(place_i32.size >= count * top_k && gates.size >= count * top_k &&
            dgates.size >= count * top_k,
        "combine_rows_backward: {} places, {} gates for {} rows", place_i32.size, gates.size,
        count);
  const float *dys = dy.f32(), *xs = rows.f32(), *gs = gates.f32();
  const std::int32_t* places = place_i32.i32();
  float *dxs = drows.f32(), *dgs = dgates.f32();
  launch(
      label, count * top_k, KOKKOS_LAMBDA(std::int64_t i) {
        const std::int64_t at = places[i];
        const float* from = dys + i / top_k * channels;
        Pack along{};
        for_packs(at < 0 ? 0 : channels, [&](int c, int lanes) {
          const Pack gradient = load(from + c, lanes);
          along += gradient * load(xs + at * channels + c, lanes);
          store(dxs + at * channels + c, gradient * splat(gs[i]), lanes);
        });
        dgs[i] = sum(along);
      });
}

}  // namespace pipemark::kokkos
