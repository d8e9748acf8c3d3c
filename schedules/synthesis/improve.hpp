// Local search on complete orders. A move takes one task of a critical path and puts it elsewhere
// in its rank's order; only such moves can shorten the path. Late acceptance (Burke, Bykov 2017): a
// move is taken when it is no worse than the present value or than the value some steps ago.
#pragma once

#include <cstdint>

#include "schedules/synthesis/evaluate.hpp"
#include "schedules/synthesis/problem.hpp"

namespace pipemark::synthesis {

struct ImproveOptions {
  int evaluations = 2000;  ///< full evaluations, accepted or not
  bool handshake = true;   ///< accept only orders that pass Handshake; the given ones must
  int history = 50;        ///< steps that late acceptance looks back
  double enough = -1e300;  ///< stop at this value: a lower bound
  std::uint64_t seed = 1;
};

/// Improves `orders` in place and returns its value; orders that deadlock or exceed a capacity are
/// never accepted. The same arguments give the same result.
double improve(const Problem& problem, Evaluator& evaluator, Orders& orders,
               const ImproveOptions& options);

}  // namespace pipemark::synthesis
