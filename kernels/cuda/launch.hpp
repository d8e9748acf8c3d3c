// The launchers that the .cu files give to CudaOps: plain C++ signatures, so that only .cu files
// see device code. Each enqueues on `stream` and returns; none allocates, waits or reads device
// memory, so each can be captured in a CUDA graph. `scratch` is device memory of the stated size.
//
// Legend: B, T, C, H, V, Vp, N as in kernels/ops.hpp; rows = N, channels = C.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/ops.hpp"

namespace pipemark::cuda {

using bf16 = __nv_bfloat16;

/// Sums over rows that blocks leave as partial[part, i, columns], i below rows(), and where they
/// go.
struct PartialSums {
  float* out[3] = {};
  bool accumulate = true;  ///< else written
  constexpr int rows() const { return out[2] != nullptr ? 3 : out[1] != nullptr ? 2 : 1; }
};

/// False when the running device can't execute this build's kernels.
bool has_code_for_device();

// --- embedding.cu -----------------------------------------------------------------------------
void embedding_forward(cudaStream_t stream, const std::int32_t* tokens, const bf16* wte,
                       const bf16* wpe, bf16* x, std::int64_t rows, int T, int C);
/// Bytes of scratch of embedding_backward.
std::size_t embedding_backward_scratch_bytes(std::int64_t rows, int C);
void embedding_backward(cudaStream_t stream, const std::int32_t* tokens, const bf16* dx,
                        float* dwte, float* dwpe, std::int64_t rows, int T, int C,
                        std::int64_t vocabulary, void* scratch, std::size_t scratch_bytes);

// --- layer_norm.cu ----------------------------------------------------------------------------
/// y = layer_norm(a [+ b]); with `b`, residual_out = a + b is written too.
void layer_norm_forward(cudaStream_t stream, const bf16* a, const bf16* b, bf16* residual_out,
                        const bf16* w, const bf16* bias, bf16* y, float* mean, float* rstd,
                        std::int64_t rows, int C);
std::size_t layer_norm_backward_scratch_bytes(int C, int multiprocessors);
/// Whether layer_norm_backward() can make the column sums of dx too.
bool layer_norm_sums_dx(int C);
/// sums: of dw, db and, where it is set, the column sums of dx.
void layer_norm_backward(cudaStream_t stream, const bf16* dy, const bf16* x, const bf16* w,
                         const float* mean, const float* rstd, const bf16* dresidual, bf16* dx,
                         const PartialSums& sums, std::int64_t rows, int C, int multiprocessors,
                         float* scratch);

/// The same for any C; backward leaves dw and db as partial[slices, 2, C].
void plain_layer_norm_forward(cudaStream_t stream, const bf16* a, const bf16* b, bf16* residual_out,
                              const bf16* w, const bf16* bias, bf16* y, float* mean, float* rstd,
                              std::int64_t rows, int C);
void plain_layer_norm_backward(cudaStream_t stream, const bf16* dy, const bf16* x, const bf16* w,
                               const float* mean, const float* rstd, const bf16* dresidual,
                               bf16* dx, float* partial, std::int64_t rows, int C, int slices);

// --- elementwise.cu ---------------------------------------------------------------------------
void gelu_forward(cudaStream_t stream, const bf16* x, bf16* y, std::int64_t count);
void gelu_backward(cudaStream_t stream, const bf16* dy, const bf16* x, bf16* dx,
                   std::int64_t count);
void add(cudaStream_t stream, const bf16* a, const bf16* b, bf16* out, std::int64_t count);
void accumulate(cudaStream_t stream, const float* x, float* accumulator, std::int64_t count);
void convert(cudaStream_t stream, const float* src, bf16* dst, std::int64_t count);
std::size_t column_sums_scratch_bytes(int columns);
/// Column sums of x[rows, columns], in a fixed order.
void column_sums(cudaStream_t stream, const bf16* x, const PartialSums& sums, std::int64_t rows,
                 int columns, float* scratch);
/// dx = dy gelu'(x) for [rows, columns], column sums of dx into `sums` (columns a multiple of 8).
void gelu_backward_sums(cudaStream_t stream, const bf16* dy, const bf16* x, bf16* dx,
                        std::int64_t rows, int columns, const PartialSums& sums, float* scratch);
/// out[i][c] (+)= sum over `parts` of partial[part, i, c], in a fixed order.
void add_partials(cudaStream_t stream, const float* partial, const PartialSums& sums, int columns,
                  int parts);
/// *sum += scale * sum of x, in a fixed order.
void add_scaled_sum(cudaStream_t stream, const float* x, std::int64_t count, float scale,
                    float* sum);

// --- cross_entropy.cu -------------------------------------------------------------------------
void softmax_cross_entropy(cudaStream_t stream, bf16* logits, const std::int32_t* targets,
                           float* losses, std::int64_t rows, int V, int Vp, float scale,
                           bool with_gradient);

// --- moe.cu -----------------------------------------------------------------------------------
void router_forward(cudaStream_t stream, const RouterShape& shape, const bf16* logits,
                    const float* bias, bool bias_by_row, float* probabilities, std::int32_t* chosen,
                    float* gates);
/// `balance` may be null.
void router_backward(cudaStream_t stream, const RouterShape& shape, const float* probabilities,
                     const std::int32_t* chosen, const float* gates, const float* dgates,
                     const float* balance, bf16* dlogits);
void gather_rows(cudaStream_t stream, const bf16* x, const std::int32_t* index, bf16* out,
                 std::int64_t count, int C);
/// `gates` may be null.
void combine_rows(cudaStream_t stream, const bf16* rows, const std::int32_t* place,
                  const float* gates, bf16* y, std::int64_t count, int k, int C);
void combine_rows_backward(cudaStream_t stream, const bf16* dy, const bf16* rows,
                           const std::int32_t* place, const float* gates, bf16* drows,
                           float* dgates, std::int64_t count, int k, int C);

// --- optimizer.cu -----------------------------------------------------------------------------
std::size_t squared_norms_scratch_bytes();
void squared_norms(cudaStream_t stream, const float* gradients, std::span<const ParamRange> ranges,
                   float* squared, double* scratch);
void clip_scale(cudaStream_t stream, const float* squared, std::int64_t count, double clip,
                float* norm, float* scale);
void adamw(cudaStream_t stream, float* master, bf16* weights, const float* gradients, float* m,
           float* v, std::span<const ParamRange> ranges, const AdamWSettings& settings,
           const float* gradient_scale);

// --- attention.cu -----------------------------------------------------------------------------
/// Head sizes the own kernels take: multiples of 16 up to 128.
bool attention_supports(int head_size);
void attention_forward(cudaStream_t stream, const AttentionShape& shape, const bf16* qkv, bf16* out,
                       float* lse);
std::size_t attention_backward_scratch_bytes(const AttentionShape& shape);
void attention_backward(cudaStream_t stream, const AttentionShape& shape, const bf16* dout,
                        const bf16* qkv, const bf16* out, const float* lse, bf16* dqkv,
                        float* scratch);

}  // namespace pipemark::cuda
