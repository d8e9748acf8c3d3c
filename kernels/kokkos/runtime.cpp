// Start, end and self-test of Kokkos, for Kokkos 3.4 to 5.
#include "kernels/kokkos/runtime.hpp"

#include <cstdlib>
#include <mutex>

#include "kernels/check.hpp"

namespace pipemark::kokkos {
namespace {

void finalize_at_exit() {
  if (Kokkos::is_initialized()) Kokkos::finalize();
}

void initialize() {
  if (Kokkos::is_initialized()) return;
#if KOKKOS_VERSION >= 30700
  Kokkos::initialize(Kokkos::InitializationSettings().set_num_threads(1));
#else
  Kokkos::InitArguments arguments;
  arguments.num_threads = 1;
  Kokkos::initialize(arguments);
#endif
  std::atexit(finalize_at_exit);
}

void expect(const char* what, double value, double right) {
  if (value == right) return;
  throw EnvironmentError(fmt::format("Kokkos {}.{}.{} on {}: {} gave {} instead of {}",
                                     KOKKOS_VERSION / 10000, KOKKOS_VERSION / 100 % 100,
                                     KOKKOS_VERSION % 100, backend_name(), what, value, right),
                         "build against a released Kokkos (3.4 to 5.x)");
}

}  // namespace

void start() {
  static std::once_flag once;
  std::call_once(once, [] {
    initialize();
    self_test();
  });
}

void self_test() {
  constexpr std::int64_t kCount = 10007;  // prime: no block size divides it
  double sum = 0;
  Kokkos::parallel_reduce(
      "self_test/sum", Range(0, kCount),
      KOKKOS_LAMBDA(std::int64_t i, double& part) { part += static_cast<double>(i); }, sum);
  expect("a sum", sum, kCount * (kCount - 1) / 2.0);

  double largest = 0;
  Kokkos::parallel_reduce(
      "self_test/max", Range(0, kCount),
      KOKKOS_LAMBDA(std::int64_t i, double& part) {
        const double value = static_cast<double>(i * 7919 % kCount);
        part = value > part ? value : part;
      },
      Kokkos::Max<double>(largest));
  expect("a maximum", largest, kCount - 1);

  using Team = Kokkos::TeamPolicy<Exec>;
  constexpr int kTeams = 13, kInner = 101;
  double nested = 0;
  Kokkos::parallel_reduce(
      "self_test/team", Team(kTeams, 1),
      KOKKOS_LAMBDA(const Team::member_type& member, double& part) {
        double inner = 0;
        Kokkos::parallel_reduce(
            Kokkos::TeamThreadRange(member, kInner),
            [&](int i, double& mine) { mine += i + member.league_rank(); }, inner);
        if (member.team_rank() == 0) part += inner;
      },
      nested);
  expect("a team reduction", nested,
         kTeams * (kInner * (kInner - 1) / 2) + kInner * (kTeams * (kTeams - 1) / 2));
}

std::string backend_name() { return std::string("Kokkos ") + Exec::name(); }

}  // namespace pipemark::kokkos
