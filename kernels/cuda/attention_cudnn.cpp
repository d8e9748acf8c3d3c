// CudnnAttention over cudnn-frontend's graph API. Without PIPEMARK_HAS_CUDNN only make(), giving
// null.
#include "kernels/cuda/attention_cudnn.hpp"

#ifdef PIPEMARK_HAS_CUDNN

#include <cudnn_frontend.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/cuda/cuda_check.hpp"

namespace pipemark::cuda {
namespace {

namespace fe = cudnn_frontend;
using Graph = fe::graph::Graph;
using TensorAttributes = fe::graph::Tensor_attributes;

enum Uid : std::int64_t { kQ = 1, kK, kV, kO, kStats, kDO, kDQ, kDK, kDV };

/// Seen by name in the errors: which direction and shape cuDNN refused.
void cudnn_check(fe::error_t error, const char* what) {
  if (error.is_good()) return;
  throw EnvironmentError(fmt::format("cuDNN attention, {}: {}", what, error.get_message()),
                         "PIPEMARK_CUDNN=0 uses Pipemark's own attention kernels");
}

class Frontend final : public CudnnAttention {
 public:
  explicit Frontend(cudnnHandle_t handle) : handle_(handle) {}
  ~Frontend() override {
    forward_.clear();
    backward_.clear();
    cudnnDestroy(handle_);
  }

  std::string description() const override {
    const std::size_t version = cudnnGetVersion();
    return fmt::format("cuDNN {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
  }
  bool supports(const AttentionShape& shape) override {
    return graph(shape, false) != nullptr && graph(shape, true) != nullptr;
  }
  std::size_t workspace_bytes(const AttentionShape& shape) override {
    std::size_t most = 0;
    for (const bool backward : {false, true}) {
      std::int64_t bytes = 0;
      cudnn_check(graph(shape, backward)->get_workspace_size(bytes), "workspace");
      most = std::max(most, static_cast<std::size_t>(bytes));
    }
    return most;
  }
  void forward(cudaStream_t stream, const AttentionShape& shape, const void* qkv, void* out,
               float* lse, void* workspace) override;
  void backward(cudaStream_t stream, const AttentionShape& shape, const void* dout, const void* qkv,
                const void* out, const float* lse, void* dqkv, void* workspace) override;

 private:
  using Key = std::tuple<int, int, int, int>;
  Graph* graph(const AttentionShape& shape, bool backward);
  std::shared_ptr<Graph> build(const AttentionShape& shape, bool backward);
  void use(cudaStream_t stream) {
    if (stream == stream_) return;
    check(cudnnSetStream(handle_, stream) == CUDNN_STATUS_SUCCESS, "cudnnSetStream failed");
    stream_ = stream;
  }

  cudnnHandle_t handle_;
  cudaStream_t stream_ = nullptr;
  std::map<Key, std::shared_ptr<Graph>> forward_, backward_;
};

/// [B, H, T, D] as a view: `row` elements from token to token.
TensorAttributes heads(const char* name, Uid uid, const AttentionShape& s, std::int64_t row) {
  const std::int64_t D = s.channels / s.heads;
  return TensorAttributes()
      .set_name(name)
      .set_uid(uid)
      .set_dim({s.batch, s.heads, s.tokens, D})
      .set_stride({s.tokens * row, D, row, 1});
}

std::shared_ptr<Graph> Frontend::build(const AttentionShape& s, bool backward) {
  const std::int64_t C = s.channels;
  const std::int64_t D = C / s.heads;
  const float scale = 1.0f / std::sqrt(static_cast<float>(D));
  const std::vector<std::int64_t> dim = {s.batch, s.heads, s.tokens, D};
  const auto strides = [&](std::int64_t row) {
    return std::vector<std::int64_t>{s.tokens * row, D, row, 1};
  };
  auto graph = std::make_shared<Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  auto q = graph->tensor(heads("q", kQ, s, 3 * C));
  auto k = graph->tensor(heads("k", kK, s, 3 * C));
  auto v = graph->tensor(heads("v", kV, s, 3 * C));
  if (!backward) {
    auto options = fe::graph::SDPA_attributes()
                       .set_name("attention/forward")
                       .set_generate_stats(true)
                       .set_causal_mask(true)
                       .set_attn_scale(scale);
    auto [o, stats] = graph->sdpa(q, k, v, options);
    o->set_output(true).set_dim(dim).set_stride(strides(C)).set_uid(kO);
    stats->set_output(true).set_data_type(fe::DataType_t::FLOAT).set_uid(kStats);
  } else {
    auto o = graph->tensor(heads("o", kO, s, C));
    auto d_o = graph->tensor(heads("do", kDO, s, C));
    auto stats = graph->tensor(TensorAttributes()
                                   .set_name("lse")
                                   .set_uid(kStats)
                                   .set_dim({s.batch, s.heads, s.tokens, 1})
                                   .set_stride({s.heads * s.tokens, s.tokens, 1, 1})
                                   .set_data_type(fe::DataType_t::FLOAT));
    const char* wanted = std::getenv("PIPEMARK_DETERMINISTIC");
    auto options = fe::graph::SDPA_backward_attributes()
                       .set_name("attention/backward")
                       .set_causal_mask(true)
                       .set_attn_scale(scale)
                       .set_deterministic_algorithm(wanted == nullptr || *wanted != '0');
    auto [dq, dk, dv] = graph->sdpa_backward(q, k, v, o, d_o, stats, options);
    dq->set_output(true).set_dim(dim).set_stride(strides(3 * C)).set_uid(kDQ);
    dk->set_output(true).set_dim(dim).set_stride(strides(3 * C)).set_uid(kDK);
    dv->set_output(true).set_dim(dim).set_stride(strides(3 * C)).set_uid(kDV);
  }
  if (graph->validate().is_bad() || graph->build_operation_graph(handle_).is_bad() ||
      graph->create_execution_plans({fe::HeurMode_t::A}).is_bad() ||
      graph->check_support(handle_).is_bad() || graph->build_plans(handle_).is_bad()) {
    return nullptr;
  }
  return graph;
}

Graph* Frontend::graph(const AttentionShape& s, bool backward) {
  auto& graphs = backward ? backward_ : forward_;
  const Key key{s.batch, s.tokens, s.channels, s.heads};
  auto at = graphs.find(key);
  if (at == graphs.end()) at = graphs.emplace(key, build(s, backward)).first;
  return at->second.get();
}

/// cuDNN takes all operands as void*.
void* plain(const void* pointer) { return const_cast<void*>(pointer); }
void* plain_at(const void* base, std::int64_t elements) {
  return static_cast<std::byte*>(plain(base)) + elements * 2;
}

void Frontend::forward(cudaStream_t stream, const AttentionShape& s, const void* qkv, void* out,
                       float* lse, void* workspace) {
  use(stream);
  const std::int64_t C = s.channels;
  std::unordered_map<std::int64_t, void*> operands = {{kQ, plain(qkv)},
                                                      {kK, plain_at(qkv, C)},
                                                      {kV, plain_at(qkv, 2 * C)},
                                                      {kO, out},
                                                      {kStats, lse}};
  cudnn_check(graph(s, false)->execute(handle_, operands, workspace), "forward");
}

void Frontend::backward(cudaStream_t stream, const AttentionShape& s, const void* dout,
                        const void* qkv, const void* out, const float* lse, void* dqkv,
                        void* workspace) {
  use(stream);
  const std::int64_t C = s.channels;
  std::unordered_map<std::int64_t, void*> operands = {
      {kQ, plain(qkv)},   {kK, plain_at(qkv, C)},   {kV, plain_at(qkv, 2 * C)},
      {kO, plain(out)},   {kDO, plain(dout)},       {kStats, plain(lse)},
      {kDQ, plain(dqkv)}, {kDK, plain_at(dqkv, C)}, {kDV, plain_at(dqkv, 2 * C)}};
  cudnn_check(graph(s, true)->execute(handle_, operands, workspace), "backward");
}

}  // namespace

std::unique_ptr<CudnnAttention> CudnnAttention::make() {
  if (const char* wanted = std::getenv("PIPEMARK_CUDNN"); wanted != nullptr && *wanted == '0') {
    return nullptr;
  }
  cudnnHandle_t handle = nullptr;
  if (cudnnCreate(&handle) != CUDNN_STATUS_SUCCESS) return nullptr;
  return std::make_unique<Frontend>(handle);
}

}  // namespace pipemark::cuda

#else

namespace pipemark::cuda {

std::unique_ptr<CudnnAttention> CudnnAttention::make() { return nullptr; }

}  // namespace pipemark::cuda

#endif
