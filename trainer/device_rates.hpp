// Measures a device into a Fingerprint: matrix products over sizes, the other operations of a GPT,
// memory bandwidth, and messages between the ranks of a job.
#pragma once

#include "balancers/fingerprint.hpp"
#include "kernels/ops.hpp"
#include "trainer/cluster.hpp"

namespace pipemark {

/// Medians of five, each at least some milliseconds long; about a second on a host core.
Fingerprint measure_device(Ops& ops);

/// A message between ranks `from` and `from + 1`, each way.
struct LinkRate {
  int from = 0;
  double latency_s = 0, bytes_per_s = 0;
};

/// Collective over the world: its neighbours one pair after the other, the same on every rank. The
/// fingerprint gets the slowest pair's rate.
std::vector<LinkRate> measure_links(Cluster& cluster, Ops& ops, Fingerprint& fingerprint);

/// "fp32" or "bf16": what the backend computes products in.
const char* precision_name(const Ops& ops);

}  // namespace pipemark
