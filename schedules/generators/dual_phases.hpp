// The eight phases that DualPipe and DualPipeV share (DeepSeek-AI 2024; DeepSeek's DualPipe
// repository). A rank holds two chunks: micro-batches go through `direction[0]` towards the middle
// of the pipeline and through `direction[1]` away from it.
//
// Legend: H the depth of the middle (P/2 ranks for DualPipe, P for DualPipeV), r' this rank's depth
// 0..H-1, N the micro-batches of a direction, B = I + W. Each loop in order:
//   (1) 2(H-r'-1) x F0                (5) (H-r'-1) x B1 FB(F1,B0)
//   (2) (r'+1) x F0 F1                (6) (r'+1) x B1 B0, the second half of these split
//   (3) (H-r'-1) x I1 W1 F1           (7) (H-r'-1) x W I0
//   (4) (N-2H+r'+1) x FB(F0,B1) FB(F1,B0), the middle ranks' first pair not overlapped
//                                     (8) (r'+1) x W
// W's of (7) and (8) are taken first in, first out over both directions.
#pragma once

#include "schedules/program.hpp"

namespace pipemark {

struct DualPhases {
  struct Chunk {
    int stage = 0, replica = 0;
  };
  Chunk direction[2];
  int depth = 0;          ///< r'
  int half = 0;           ///< H
  int micro_batches = 0;  ///< N, at least 2H
  Row row() const;
};

}  // namespace pipemark
