// The backends that this build has, by name.
#include "kernels/kokkos/kokkos_ops.hpp"
#include "kernels/ops.hpp"
#include "kernels/reference.hpp"
#ifdef PIPEMARK_HAS_CUDA
#include "kernels/cuda/cuda_ops.hpp"
#endif

namespace pipemark {

std::unique_ptr<Ops> make_ops(const std::string& name, int device_index) {
  if (name == "reference") return make_reference_ops();
  if (name == "kokkos") return kokkos::make_kokkos_ops();
#ifdef PIPEMARK_HAS_CUDA
  if (name == "cuda") return make_cuda_ops(device_index);
  constexpr const char* kBuiltIn = "reference, kokkos and cuda";
#else
  (void)device_index;
  constexpr const char* kBuiltIn = "reference and kokkos";
#endif
  throw UserError(fmt::format("device.backend = \"{}\" is not built in", name),
                  fmt::format("this build has {}", kBuiltIn));
}

}  // namespace pipemark
