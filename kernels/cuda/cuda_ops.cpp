// CudaOps: checks each call's shapes and types, then hands it to a kernel launcher (launch.hpp),
// Matmul or CudnnAttention. Workspace, in order: cuBLASLt's, a row for bias gradients, and from the
// front again (calls follow one another on a stream) whatever a kernel's own scratch needs.
//
// Legend: N rows, Cin and Cout of a linear layer, others as in kernels/ops.hpp.
#include "kernels/cuda/cuda_ops.hpp"

#include <algorithm>
#include <cstdlib>

#include "kernels/cuda/attention_cudnn.hpp"
#include "kernels/cuda/cuda_check.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/matmul.hpp"

namespace pipemark::cuda {
namespace {

bf16* b16(const Tensor& tensor, std::int64_t elements, const char* what) {
  check(tensor.dtype == DType::bf16 && tensor.size >= elements,
        "cuda: {} must be bf16 of {} elements, has {}", what, elements, tensor.size);
  check(reinterpret_cast<std::uintptr_t>(tensor.data) % 16 == 0,
        "cuda: {} must begin on a 16-byte border (8 elements)", what);
  return static_cast<bf16*>(tensor.data);
}

float* f32(const Tensor& tensor, std::int64_t elements, const char* what) {
  check(tensor.size >= elements, "cuda: {} must have {} elements, has {}", what, elements,
        tensor.size);
  return tensor.f32();
}

std::int32_t* i32(const Tensor& tensor, std::int64_t elements, const char* what) {
  check(tensor.size >= elements, "cuda: {} must have {} elements, has {}", what, elements,
        tensor.size);
  return tensor.i32();
}

class CudaOps final : public Ops {
 public:
  explicit CudaOps(int index) : device_(index), matmul_(device_), cudnn_(CudnnAttention::make()) {
    int clock_khz = 0;
    int bus_bits = 0;
    PIPEMARK_CUDA(cudaDeviceGetAttribute(&clock_khz, cudaDevAttrMemoryClockRate, index));
    PIPEMARK_CUDA(cudaDeviceGetAttribute(&bus_bits, cudaDevAttrGlobalMemoryBusWidth, index));
    bandwidth_ = 2e3 * clock_khz * bus_bits / 8;  // two transfers a clock
  }

  std::string name() const override { return "cuda"; }
  Device& device() override { return device_; }
  DType activation_dtype() const override { return DType::bf16; }
  std::size_t workspace_bytes(const AttentionShape& attention,
                              int vocabulary_padded) const override;
  void set_workspace(Tensor workspace) override { workspace_ = workspace; }

  void embedding_forward(Stream stream, Tensor tokens, Tensor wte, Tensor wpe, Tensor x,
                         std::int64_t rows, int T, int C) override {
    cuda::embedding_forward(raw(stream), tokens.i32(), b16(wte, C, "wte"), b16(wpe, C, "wpe"),
                            b16(x, rows * C, "x"), rows, T, C);
  }
  void embedding_backward(Stream stream, Tensor tokens, Tensor dx, Tensor dwte, Tensor dwpe,
                          std::int64_t rows, int T, int C) override {
    check(rows % T == 0, "embedding_backward: {} rows are no whole sequences of {}", rows, T);
    cuda::embedding_backward(raw(stream), tokens.i32(), b16(dx, rows * C, "dx"),
                             f32(dwte, C, "dwte"), f32(dwpe, C, "dwpe"), rows, T, C, dwte.size / C,
                             workspace_.data, workspace_.bytes());
  }

  bool embedding_adds_once() const override { return true; }

  void layer_norm_forward(Stream stream, Tensor x, Tensor w, Tensor b, Tensor y, Tensor mean,
                          Tensor rstd, std::int64_t rows, int C) override {
    cuda::layer_norm_forward(raw(stream), b16(x, rows * C, "x"), nullptr, nullptr, b16(w, C, "w"),
                             b16(b, C, "b"), b16(y, rows * C, "y"), f32(mean, rows, "mean"),
                             f32(rstd, rows, "rstd"), rows, C);
  }
  void residual_layer_norm_forward(Stream stream, Tensor a, Tensor b, Tensor residual_out, Tensor w,
                                   Tensor bias, Tensor y, Tensor mean, Tensor rstd,
                                   std::int64_t rows, int C) override {
    cuda::layer_norm_forward(raw(stream), b16(a, rows * C, "a"), b16(b, rows * C, "b"),
                             b16(residual_out, rows * C, "residual_out"), b16(w, C, "w"),
                             b16(bias, C, "bias"), b16(y, rows * C, "y"), f32(mean, rows, "mean"),
                             f32(rstd, rows, "rstd"), rows, C);
  }
  void layer_norm_backward(Stream stream, Tensor dy, Tensor x, Tensor w, Tensor mean, Tensor rstd,
                           Tensor dresidual, Tensor dx, Tensor dw, Tensor db, std::int64_t rows,
                           int C, Tensor dx_sums, bool accumulate) override;

  void linear_forward(Stream, LinearShape, Tensor x, Tensor w, Tensor b, Tensor y) override;
  void linear_gelu_forward(Stream, LinearShape, Tensor x, Tensor w, Tensor b, Tensor pre,
                           Tensor y) override;
  void linear_backward_input(Stream, LinearShape, Tensor dy, Tensor w, Tensor dx) override;
  void linear_gelu_backward_input(Stream, LinearShape, Tensor dy, Tensor w, Tensor pre, Tensor dpre,
                                  Tensor db, bool accumulate) override;
  void linear_backward_weight(Stream, LinearShape, Tensor dy, Tensor x, Tensor dw, Tensor db,
                              bool accumulate) override;

  void gelu_forward(Stream stream, Tensor x, Tensor y, std::int64_t count) override {
    cuda::gelu_forward(raw(stream), b16(x, count, "x"), b16(y, count, "y"), count);
  }
  void gelu_backward(Stream stream, Tensor dy, Tensor x, Tensor dx, std::int64_t count) override {
    cuda::gelu_backward(raw(stream), b16(dy, count, "dy"), b16(x, count, "x"), b16(dx, count, "dx"),
                        count);
  }
  void residual_forward(Stream stream, Tensor a, Tensor b, Tensor out,
                        std::int64_t count) override {
    cuda::add(raw(stream), b16(a, count, "a"), b16(b, count, "b"), b16(out, count, "out"), count);
  }

  void attention_forward(Stream, AttentionShape, Tensor qkv, Tensor out, Tensor lse) override;
  void attention_backward(Stream, AttentionShape, Tensor dout, Tensor qkv, Tensor out, Tensor lse,
                          Tensor dqkv) override;

  void softmax_cross_entropy(Stream stream, Tensor logits, Tensor targets, Tensor losses,
                             std::int64_t rows, int V, int Vp, float scale,
                             bool with_gradient) override {
    cuda::softmax_cross_entropy(raw(stream), b16(logits, rows * Vp, "logits"), targets.i32(),
                                f32(losses, rows, "losses"), rows, V, Vp, scale, with_gradient);
  }
  void linear_softmax_cross_entropy(Stream stream, LinearShape shape, Tensor x, Tensor w,
                                    Tensor logits, Tensor targets, Tensor losses, int V,
                                    float scale, bool with_gradient) override;

  void router_forward(Stream stream, RouterShape s, Tensor logits, Tensor bias,
                      Tensor probabilities, Tensor chosen, Tensor gates) override {
    const bool by_row = bias.size != s.experts;
    cuda::router_forward(raw(stream), s, b16(logits, s.rows * s.experts, "logits"),
                         f32(bias, by_row ? s.rows * s.experts : s.experts, "bias"), by_row,
                         f32(probabilities, s.rows * s.experts, "probabilities"),
                         i32(chosen, s.rows * s.top_k, "chosen"),
                         f32(gates, s.rows * s.top_k, "gates"));
  }
  void router_backward(Stream stream, RouterShape s, Tensor probabilities, Tensor chosen,
                       Tensor gates, Tensor dgates, Tensor balance, Tensor dlogits) override {
    const std::int64_t taken = s.rows * s.top_k;
    cuda::router_backward(
        raw(stream), s, f32(probabilities, s.rows * s.experts, "probabilities"),
        i32(chosen, taken, "chosen"), f32(gates, taken, "gates"), f32(dgates, taken, "dgates"),
        balance ? f32(balance, s.rows / s.tokens * s.experts, "balance") : nullptr,
        b16(dlogits, s.rows * s.experts, "dlogits"));
  }
  void gather_rows(Stream stream, Tensor x, Tensor index, Tensor out, std::int64_t count,
                   int C) override {
    cuda::gather_rows(raw(stream), b16(x, 0, "x"), i32(index, count, "index"),
                      b16(out, count * C, "out"), count, C);
  }
  void combine_rows(Stream stream, Tensor rows, Tensor place, Tensor gates, Tensor y,
                    std::int64_t count, int k, int C) override {
    cuda::combine_rows(raw(stream), b16(rows, 0, "rows"), i32(place, count * k, "place"),
                       gates ? f32(gates, count * k, "gates") : nullptr, b16(y, count * C, "y"),
                       count, k, C);
  }
  void combine_rows_backward(Stream stream, Tensor dy, Tensor rows, Tensor place, Tensor gates,
                             Tensor drows, Tensor dgates, std::int64_t count, int k,
                             int C) override {
    cuda::combine_rows_backward(raw(stream), b16(dy, count * C, "dy"), b16(rows, 0, "rows"),
                                i32(place, count * k, "place"), f32(gates, count * k, "gates"),
                                b16(drows, 0, "drows"), f32(dgates, count * k, "dgates"), count, k,
                                C);
  }

  void add_scaled_sum(Stream stream, Tensor x, std::int64_t count, float scale,
                      Tensor sum) override {
    cuda::add_scaled_sum(raw(stream), f32(x, count, "x"), count, scale, f32(sum, 1, "sum"));
  }

  void squared_norms(Stream stream, Tensor gradients, std::span<const ParamRange> ranges,
                     Tensor squared) override {
    cuda::squared_norms(raw(stream), gradients.f32(), ranges,
                        f32(squared, static_cast<std::int64_t>(ranges.size()), "squared"),
                        scratch<double>(squared_norms_scratch_bytes()));
  }
  void clip_scale(Stream stream, Tensor squared, std::int64_t count, double clip, Tensor norm,
                  Tensor scale) override {
    cuda::clip_scale(raw(stream), f32(squared, count, "squared"), count, clip, f32(norm, 1, "norm"),
                     f32(scale, 1, "scale"));
  }
  void adamw(Stream stream, Tensor master, Tensor weights, Tensor gradients, Tensor m, Tensor v,
             std::span<const ParamRange> ranges, const AdamWSettings& settings,
             Tensor gradient_scale) override {
    cuda::adamw(raw(stream), master.f32(), b16(weights, master.size, "weights"), gradients.f32(),
                m.f32(), v.f32(), ranges, settings, f32(gradient_scale, 1, "gradient_scale"));
  }
  void accumulate(Stream stream, Tensor x, Tensor accumulator, std::int64_t count) override {
    cuda::accumulate(raw(stream), f32(x, count, "x"), f32(accumulator, count, "accumulator"),
                     count);
  }
  void convert(Stream stream, Tensor src, Tensor dst, std::int64_t count) override {
    cuda::convert(raw(stream), f32(src, count, "src"), b16(dst, count, "dst"), count);
  }

 private:
  /// Seen on an H200, V 50304 C 768, ms for 32768 rows: whole 6.04, by 4096 5.80, 1024 6.32, and by
  /// 256, whose logits fit in the L2, 7.39 (too few rows for a product's and a softmax's full
  /// speed).
  static constexpr std::int64_t kHeadRows = 4096;
  static constexpr std::size_t kBiasRowBytes = std::size_t{1} << 20;

  int processors() const { return device_.properties().multiProcessorCount; }
  template <class T>
  T* scratch(std::size_t bytes) const {
    check(workspace_.bytes() >= bytes, "cuda: {} bytes of workspace needed, set_workspace gave {}",
          bytes, workspace_.bytes());
    return static_cast<T*>(workspace_.data);
  }
  void* matmul_workspace() const { return scratch<void>(Matmul::kWorkspaceBytes + kBiasRowBytes); }
  float* bias_row() const {
    return reinterpret_cast<float*>(static_cast<std::byte*>(matmul_workspace()) +
                                    Matmul::kWorkspaceBytes);
  }
  bool matmul(Stream stream, const MatmulProblem& problem, const MatmulOperands& operands) {
    return matmul_.run(raw(stream), problem, operands, matmul_workspace());
  }
  /// Whether the product with its epilogue beats the plain one followed by a kernel that moves
  /// `extra_bytes`; both products are timed at the first call.
  bool fused_is_faster(Stream stream, const MatmulProblem& fused, const MatmulProblem& plain,
                       const MatmulOperands& operands, std::int64_t extra_bytes);
  void add_column_sums(Stream stream, Tensor x, const PartialSums& sums, std::int64_t rows,
                       int columns) {
    cuda::column_sums(raw(stream), b16(x, rows * columns, "x"), sums, rows, columns,
                      scratch<float>(column_sums_scratch_bytes(columns)));
  }
  void must_matmul(Stream stream, const MatmulProblem& problem, const MatmulOperands& operands) {
    if (matmul(stream, problem, operands)) return;
    throw EnvironmentError(fmt::format("cuBLASLt has no algorithm for {}", problem.key()),
                           "pad channels and vocabulary to multiples of 8");
  }
  bool use_cudnn(const AttentionShape& shape) const {
    return cudnn_ != nullptr && cudnn_->supports(shape);
  }
  void check_attention(const AttentionShape& shape) const;

  mutable CudaDevice device_;
  Matmul matmul_;
  std::unique_ptr<CudnnAttention> cudnn_;
  Tensor workspace_;
  double bandwidth_ = 0;  ///< bytes/s of device memory, as the attributes promise it
};

std::size_t CudaOps::workspace_bytes(const AttentionShape& shape, int vocabulary_padded) const {
  const std::int64_t rows = static_cast<std::int64_t>(shape.batch) * shape.tokens;
  const int widest = std::max(4 * shape.channels, vocabulary_padded);
  const std::size_t attention = shape.batch == 0   ? 0
                                : use_cudnn(shape) ? cudnn_->workspace_bytes(shape)
                                                   : attention_backward_scratch_bytes(shape);
  return std::max(
      {Matmul::kWorkspaceBytes + kBiasRowBytes, attention,
       rows == 0 ? 0 : embedding_backward_scratch_bytes(rows, shape.channels),
       layer_norm_backward_scratch_bytes(shape.channels, device_.properties().multiProcessorCount),
       column_sums_scratch_bytes(widest), squared_norms_scratch_bytes()});
}

void CudaOps::layer_norm_backward(Stream stream, Tensor dy, Tensor x, Tensor w, Tensor mean,
                                  Tensor rstd, Tensor dresidual, Tensor dx, Tensor dw, Tensor db,
                                  std::int64_t rows, int C, Tensor dx_sums, bool accumulate) {
  PartialSums sums{{f32(dw, C, "dw"), f32(db, C, "db")}, accumulate};
  const bool fused = dx_sums && layer_norm_sums_dx(C);
  if (fused) sums.out[2] = f32(dx_sums, C, "dx_sums");
  cuda::layer_norm_backward(raw(stream), b16(dy, rows * C, "dy"), b16(x, rows * C, "x"),
                            b16(w, C, "w"), f32(mean, rows, "mean"), f32(rstd, rows, "rstd"),
                            dresidual ? b16(dresidual, rows * C, "dresidual") : nullptr,
                            b16(dx, rows * C, "dx"), sums, rows, C, processors(),
                            scratch<float>(layer_norm_backward_scratch_bytes(C, processors())));
  if (!dx_sums || fused) return;
  add_column_sums(stream, dx, {{f32(dx_sums, C, "dx_sums")}, accumulate}, rows, C);
}

// --- linear layers -----------------------------------------------------------------------------

void CudaOps::linear_forward(Stream stream, LinearShape s, Tensor x, Tensor w, Tensor b, Tensor y) {
  const MatmulProblem problem{.m = s.rows,
                              .n = s.out,
                              .k = s.in,
                              .b_transposed = true,
                              .epilogue = b ? Epilogue::bias : Epilogue::none,
                              .varying_rows = s.varying_rows};
  must_matmul(stream, problem,
              {b16(x, s.rows * s.in, "x"), b16(w, std::int64_t{s.out} * s.in, "w"),
               b16(y, s.rows * s.out, "y"), b ? b16(b, s.out, "b") : nullptr});
}

void CudaOps::linear_gelu_forward(Stream stream, LinearShape s, Tensor x, Tensor w, Tensor b,
                                  Tensor pre, Tensor y) {
  const MatmulProblem fused{.m = s.rows,
                            .n = s.out,
                            .k = s.in,
                            .b_transposed = true,
                            .epilogue = Epilogue::gelu_aux_bias,
                            .varying_rows = s.varying_rows};
  const MatmulOperands operands{b16(x, s.rows * s.in, "x"), b16(w, std::int64_t{s.out} * s.in, "w"),
                                b16(y, s.rows * s.out, "y"), b16(b, s.out, "b"),
                                b16(pre, s.rows * s.out, "pre")};
  MatmulProblem plain = fused;
  plain.epilogue = Epilogue::bias;
  if (s.out % 8 == 0 && fused_is_faster(stream, fused, plain, operands, s.rows * s.out * 4)) {
    return must_matmul(stream, fused, operands);
  }
  linear_forward(stream, s, x, w, b, pre);
  gelu_forward(stream, pre, y, s.rows * s.out);
}

void CudaOps::linear_backward_input(Stream stream, LinearShape s, Tensor dy, Tensor w, Tensor dx) {
  const MatmulProblem problem{.m = s.rows, .n = s.in, .k = s.out, .varying_rows = s.varying_rows};
  must_matmul(stream, problem,
              {b16(dy, s.rows * s.out, "dy"), b16(w, std::int64_t{s.out} * s.in, "w"),
               b16(dx, s.rows * s.in, "dx")});
}

void CudaOps::linear_gelu_backward_input(Stream stream, LinearShape s, Tensor dy, Tensor w,
                                         Tensor pre, Tensor dpre, Tensor db, bool accumulate) {
  const MatmulProblem fused{.m = s.rows,
                            .n = s.in,
                            .k = s.out,
                            .epilogue = Epilogue::dgelu,
                            .varying_rows = s.varying_rows};
  const MatmulOperands operands{
      b16(dy, s.rows * s.out, "dy"), b16(w, std::int64_t{s.out} * s.in, "w"),
      b16(dpre, s.rows * s.in, "dpre"), nullptr, b16(pre, s.rows * s.in, "pre")};
  MatmulProblem plain = fused;
  plain.epilogue = Epilogue::none;
  // The kernel beside the plain product reads two and writes one; with the bias gradient the fused
  // form needs a kernel too, which reads one.
  const std::int64_t extra_bytes = s.rows * s.in * (db ? 4 : 6);
  const PartialSums sums{{db ? f32(db, s.in, "db") : nullptr}, accumulate};
  if (s.in % 8 == 0 && fused_is_faster(stream, fused, plain, operands, extra_bytes)) {
    must_matmul(stream, fused, operands);
    if (db) add_column_sums(stream, dpre, sums, s.rows, s.in);
    return;
  }
  linear_backward_input(stream, s, dy, w, dpre);
  if (db && s.in % 8 == 0) {
    cuda::gelu_backward_sums(raw(stream), b16(dpre, 0, "dpre"), b16(pre, 0, "pre"),
                             b16(dpre, 0, "dpre"), s.rows, s.in, sums,
                             scratch<float>(column_sums_scratch_bytes(s.in)));
    return;
  }
  gelu_backward(stream, dpre, pre, dpre, s.rows * s.in);
  if (db) add_column_sums(stream, dpre, sums, s.rows, s.in);
}

void CudaOps::linear_backward_weight(Stream stream, LinearShape s, Tensor dy, Tensor x, Tensor dw,
                                     Tensor db, bool accumulate) {
  // dw[Cout, Cin] (+)= dy[N, Cout]^T x[N, Cin]
  const bf16* dy_data = b16(dy, s.rows * s.out, "dy");
  MatmulProblem problem{.m = s.out,
                        .n = s.in,
                        .k = s.rows,
                        .a_transposed = true,
                        .fp32_out = true,
                        .accumulate = accumulate,
                        .varying_rows = s.varying_rows};
  const MatmulOperands operands{dy_data, b16(x, s.rows * s.in, "x"),
                                f32(dw, std::int64_t{s.out} * s.in, "dw")};
  if (!db) return must_matmul(stream, problem, operands);
  float* db_data = f32(db, s.out, "db");
  MatmulProblem fused = problem;
  fused.epilogue = Epilogue::bias_gradient;
  MatmulOperands with_row = operands;
  with_row.bias = accumulate ? bias_row() : db_data;
  if (static_cast<std::size_t>(s.out) * sizeof(float) <= kBiasRowBytes &&
      fused_is_faster(stream, fused, problem, with_row, s.rows * s.out * 2)) {
    must_matmul(stream, fused, with_row);
    if (accumulate) cuda::accumulate(raw(stream), bias_row(), db_data, s.out);
    return;
  }
  must_matmul(stream, problem, operands);
  add_column_sums(stream, dy, {{db_data}, accumulate}, s.rows, s.out);
}

bool CudaOps::fused_is_faster(Stream stream, const MatmulProblem& fused, const MatmulProblem& plain,
                              const MatmulOperands& operands, std::int64_t extra_bytes) {
  MatmulOperands without = operands;
  if (plain.epilogue == Epilogue::none) without.bias = nullptr;
  without.aux = nullptr;
  void* workspace = matmul_workspace();
  const double with = matmul_.seconds(raw(stream), fused, operands, workspace);
  const double apart = matmul_.seconds(raw(stream), plain, without, workspace);
  // Seen of these kernels on an H200: 0.84 of the bandwidth the attributes promise, 5 us a launch.
  const double extra = 5e-6 + static_cast<double>(extra_bytes) / (0.84 * bandwidth_);
  return with < apart + extra;
}

void CudaOps::linear_softmax_cross_entropy(Stream stream, LinearShape s, Tensor x, Tensor w,
                                           Tensor logits, Tensor targets, Tensor losses, int V,
                                           float scale, bool with_gradient) {
  const std::int64_t chunk = std::min<std::int64_t>(kHeadRows, s.rows);
  for (std::int64_t row = 0; row < s.rows; row += chunk) {
    const std::int64_t rows = std::min(chunk, s.rows - row);
    const Tensor part = logits.slice(row * s.out, rows * s.out);
    linear_forward(stream, {rows, s.in, s.out}, x.slice(row * s.in, rows * s.in), w, {}, part);
    softmax_cross_entropy(stream, part, targets.slice(row, rows), losses.slice(row, rows), rows, V,
                          s.out, scale, with_gradient);
  }
}

// --- attention ---------------------------------------------------------------------------------

void CudaOps::check_attention(const AttentionShape& s) const {
  check(s.heads > 0 && s.channels % s.heads == 0, "attention: {} heads don't divide {} channels",
        s.heads, s.channels);
  if (!use_cudnn(s) && !attention_supports(s.channels / s.heads)) {
    throw UserError(fmt::format("attention: head size {} is not served by the cuda backend",
                                s.channels / s.heads),
                    "choose channels / heads a multiple of 16, at most 128");
  }
}

void CudaOps::attention_forward(Stream stream, AttentionShape s, Tensor qkv, Tensor out,
                                Tensor lse) {
  check_attention(s);
  const std::int64_t count = std::int64_t{s.batch} * s.tokens * s.channels;
  bf16* qkv_data = b16(qkv, 3 * count, "qkv");
  bf16* out_data = b16(out, count, "out");
  float* lse_data = f32(lse, std::int64_t{s.batch} * s.heads * s.tokens, "lse");
  if (use_cudnn(s)) {
    cudnn_->forward(raw(stream), s, qkv_data, out_data, lse_data,
                    scratch<void>(cudnn_->workspace_bytes(s)));
  } else {
    cuda::attention_forward(raw(stream), s, qkv_data, out_data, lse_data);
  }
}

void CudaOps::attention_backward(Stream stream, AttentionShape s, Tensor dout, Tensor qkv,
                                 Tensor out, Tensor lse, Tensor dqkv) {
  check_attention(s);
  const std::int64_t count = std::int64_t{s.batch} * s.tokens * s.channels;
  const bf16* dout_data = b16(dout, count, "dout");
  const bf16* qkv_data = b16(qkv, 3 * count, "qkv");
  const bf16* out_data = b16(out, count, "out");
  const float* lse_data = f32(lse, std::int64_t{s.batch} * s.heads * s.tokens, "lse");
  bf16* dqkv_data = b16(dqkv, 3 * count, "dqkv");
  if (use_cudnn(s)) {
    cudnn_->backward(raw(stream), s, dout_data, qkv_data, out_data, lse_data, dqkv_data,
                     scratch<void>(cudnn_->workspace_bytes(s)));
  } else {
    cuda::attention_backward(raw(stream), s, dout_data, qkv_data, out_data, lse_data, dqkv_data,
                             scratch<float>(attention_backward_scratch_bytes(s)));
  }
}

}  // namespace
}  // namespace pipemark::cuda

namespace pipemark {

std::unique_ptr<Ops> make_cuda_ops(int device_index) {
  return std::make_unique<cuda::CudaOps>(device_index);
}

}  // namespace pipemark
