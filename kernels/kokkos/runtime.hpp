// Kokkos' lifetime and how kernels are launched. Kokkos is initialised by the first KokkosOps of
// the process (one thread a rank), unless the program did so itself, and finalised at exit by
// whoever initialised it. Labels are static strings, so that a launch never allocates.
#pragma once

#include <Kokkos_Core.hpp>
#include <cstdint>
#include <string>
#include <utility>

namespace pipemark::kokkos {

using Exec = Kokkos::DefaultHostExecutionSpace;
using Range = Kokkos::RangePolicy<Exec, Kokkos::IndexType<std::int64_t>>;

/// Initialises Kokkos once and runs self_test(); later calls return at once.
void start();

/// Sum, maximum and team reductions of known integers. Throws EnvironmentError naming the one that
/// came out wrong: a 4.6.99 snapshot of Kokkos reduced wrongly on a GPU without any error.
void self_test();

/// "Kokkos Serial".
std::string backend_name();

/// f(i) for i in [0, count), in no promised order: the iterations write apart.
template <class F>
void launch(const std::string& label, std::int64_t count, F&& f) {
  Kokkos::parallel_for(label, Range(0, count), std::forward<F>(f));
}

}  // namespace pipemark::kokkos
