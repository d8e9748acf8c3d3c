// Lower bounds that hold for every schedule of a Problem.
//
// Legend: rank r, its first chain op start h_r; n_r activations pass through it (micro-batches x
// stages); K_r capacity; w the deferred share; D(a, b) the length of the chain from op a to op b of
// one micro-batch, messages included; m(x) the largest x over the stages of a rank.
//
//   fill    before its first I a rank does F's only, K_r at most, and that I is not before
//           D(first F, last I) after its first start:       idle >= D - min(K_r, n_r) m(F)
//   drain   after its last F a rank does only I's and W's of what it holds, and the last I is not
//           before D after it; (K_r - 1) activations hold at most (K_r - 1) m(I + W), or in W's
//           alone (K_r - 1) m(W) / w:                       idle >= D - (K_r - 1) max(m(I+W),
//           m(W)/w)
//   span_r  >= work_r + fill + drain (the two windows are disjoint where n_r > K_r, else the
//   larger) chain   between the first F and the last I of a replica on r lie all its F's and I's,
//   the fill's
//           idle, and the W's that memory forces, n_r - 1 - (K_r - 1) / w of them; before and after
//           lie the chain's head and tail to any rank q upstream: a bound of span_q and the
//           makespan
//   memory  every activation holds its place at least D(F, I) + I + w W:  sum / K_r <= span_r
#pragma once

#include "schedules/synthesis/problem.hpp"

namespace pipemark::synthesis {

struct Bound {
  double makespan = 0;
  double span = 0;  ///< of the longest single-rank span
};

Bound lower_bound(const Problem& problem);

}  // namespace pipemark::synthesis
