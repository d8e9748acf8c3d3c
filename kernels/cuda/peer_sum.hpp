// Sums over memory of several processes or devices that this process has mapped.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

namespace pipemark::cuda {

inline constexpr int kMaxPeerParts = 16;

/// For i in [first, first + count): s = (part[0][i] + part[1][i]) + part[2][i] ..., written to all
/// parts. Bytes: count x 4 x parts read and written. At most kMaxPeerParts parts, 16-byte aligned.
void peer_sum(cudaStream_t stream, std::span<float* const> parts, std::int64_t first,
              std::int64_t count);

}  // namespace pipemark::cuda
