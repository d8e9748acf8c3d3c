// Construction, and the operations that are one pass over flat arrays.
#include "kernels/kokkos/kokkos_ops.hpp"

#include "kernels/kokkos/elementwise.hpp"
#include "kernels/kokkos/gelu.hpp"

namespace pipemark::kokkos {
namespace {

/// Kokkos must be up before backend_name() is asked for, and before the first kernel.
std::string started_backend() {
  start();
  return backend_name();
}

}  // namespace

KokkosOps::KokkosOps() : device_(started_backend()) {}

void KokkosOps::gelu_forward(Stream, Tensor x, Tensor y, std::int64_t count) {
  static const std::string label = "gelu/forward";
  const float* xs = x.f32();
  float* ys = y.f32();
  for_each_pack(
      label, count,
      KOKKOS_LAMBDA(std::int64_t i, int n) { store(ys + i, gelu(load(xs + i, n)), n); });
}

void KokkosOps::gelu_backward(Stream, Tensor dy, Tensor x, Tensor dx, std::int64_t count) {
  static const std::string label = "gelu/backward";
  const float *dys = dy.f32(), *xs = x.f32();
  float* dxs = dx.f32();
  for_each_pack(
      label, count, KOKKOS_LAMBDA(std::int64_t i, int n) {
        store(dxs + i, load(dys + i, n) * gelu_derivative(load(xs + i, n)), n);
      });
}

void KokkosOps::residual_forward(Stream, Tensor a, Tensor b, Tensor out, std::int64_t count) {
  static const std::string label = "residual/forward";
  const float *as = a.f32(), *bs = b.f32();
  float* outs = out.f32();
  for_each_pack(
      label, count, KOKKOS_LAMBDA(std::int64_t i, int n) {
        store(outs + i, load(as + i, n) + load(bs + i, n), n);
      });
}

void KokkosOps::accumulate(Stream stream, Tensor x, Tensor accumulator, std::int64_t count) {
  residual_forward(stream, accumulator, x, accumulator, count);
}

void KokkosOps::convert(Stream stream, Tensor src, Tensor dst, std::int64_t count) {
  if (src.data == dst.data) return;
  device_.copy(stream, dst.f32(), src.f32(), static_cast<std::size_t>(count) * sizeof(float));
}

std::unique_ptr<Ops> make_kokkos_ops() { return std::make_unique<KokkosOps>(); }

}  // namespace pipemark::kokkos
