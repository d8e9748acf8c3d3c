// pipemark_kernels_bench: every operation of Ops on one backend, its error against the reference
// first, then its time. An operation that is wrong shows an error in place of a time.
//
//   pipemark_kernels_bench [--backend=kokkos|cuda|reference] [--batch=16 --tokens=128
//   --channels=256
//                          --heads=8 --vocabulary=256] [Google Benchmark's own options]
//
// Columns: GB/s and GFLOP/s by kernels/op_cost.hpp, max_error and error_bound by op_case.hpp.
// The compute stream is timed by device events, in calls of `kBatch`, so that a GPU is not timed by
// the host's launches.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <memory>

#include "kernels/bench/op_case.hpp"

namespace pipemark {
namespace {

constexpr int kBatch = 5;

struct Options {
  std::string backend = "kokkos";
  CaseShape shape{16, 128, 256, 8, 256, 256, 1024};
};

/// Takes our own options out of argv; the rest is Google Benchmark's.
Options parse(int& argc, char** argv) {
  Options options;
  const std::map<std::string, int*> numbers{{"--batch=", &options.shape.batch},
                                            {"--tokens=", &options.shape.tokens},
                                            {"--channels=", &options.shape.channels},
                                            {"--heads=", &options.shape.heads},
                                            {"--vocabulary=", &options.shape.vocabulary}};
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto equals = argument.find('=');
    const std::string key = equals == std::string::npos ? "" : argument.substr(0, equals + 1);
    if (key == "--backend=") {
      options.backend = argument.substr(key.size());
    } else if (const auto found = numbers.find(key); found != numbers.end()) {
      *found->second = std::atoi(argument.c_str() + key.size());
      if (*found->second <= 0) throw UserError(argument, "give a number of at least 1");
    } else {
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
  options.shape.hidden = 4 * options.shape.channels;
  options.shape.vocabulary_padded = (options.shape.vocabulary + 63) / 64 * 64;
  if (options.shape.channels % options.shape.heads != 0) {
    throw UserError("--heads does not divide --channels", "give a divisor");
  }
  return options;
}

void run(benchmark::State& state, const OpCase& op, Ops& ops) {
  CaseRun prepared(op, ops);
  std::string where;
  const double error = prepared.error(&where), bound = error_bound(op, ops.activation_dtype());
  state.counters["max_error"] = error;
  state.counters["error_bound"] = bound;
  if (!(error <= bound)) {
    state.SkipWithError(
        fmt::format("{} differs from the reference by {:.2e}, bound {:.2e}", where, error, bound)
            .c_str());
    return;
  }
  Device& device = ops.device();
  const Stream stream = device.stream(StreamRole::compute);
  const Event begin = device.make_event(), end = device.make_event();
  for (auto _ : state) {
    device.record(begin, stream);
    for (int i = 0; i < kBatch; ++i) prepared.call();
    device.record(end, stream);
    device.host_wait(end);
    state.SetIterationTime(device.elapsed_s(begin, end) / kBatch);
  }
  device.destroy(begin);
  device.destroy(end);
  const double calls = static_cast<double>(state.iterations());
  using benchmark::Counter;
  state.counters["GFLOP/s"] = Counter(calls * op.cost.flops / 1e9, Counter::kIsRate);
  state.counters["GB/s"] = Counter(calls * op.cost.bytes / 1e9, Counter::kIsRate);
}

int benchmark_main(int argc, char** argv) {
  const Options options = parse(argc, argv);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const auto ops = make_ops(options.backend);
  const CaseShape& s = options.shape;
  std::printf("%s, batch %d, tokens %d, channels %d, heads %d, vocabulary %d\n",
              ops->device().description().c_str(), s.batch, s.tokens, s.channels, s.heads,
              s.vocabulary);
  const auto bytes = static_cast<double>(size_of(ops->activation_dtype()));
  for (const OpCase& op : all_cases(s, bytes)) {
    benchmark::RegisterBenchmark((options.backend + "/" + op.name).c_str(), run, op, std::ref(*ops))
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace
}  // namespace pipemark

int main(int argc, char** argv) {
  try {
    return pipemark::benchmark_main(argc, argv);
  } catch (const pipemark::UserError& error) {
    std::fprintf(stderr, "error: %s\nhint: %s\n", error.what(), error.hint().c_str());
    return dynamic_cast<const pipemark::EnvironmentError*>(&error) != nullptr ? 3 : 2;
  }
}
