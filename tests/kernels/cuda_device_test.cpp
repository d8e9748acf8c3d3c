// CudaDevice and the promises of the CUDA backend that are not numbers: memory errors that say what
// was asked and what is free, streams that order by events, calls that a CUDA graph can hold, and
// matrix algorithms that come back from the cache.
#include <cuda_runtime_api.h>

#include "tests/kernels/cuda_fixture.hpp"

namespace pipemark::testing {
namespace {

class CudaDeviceTest : public CudaFixture {};

TEST_F(CudaDeviceTest, OutOfMemorySaysBytesAskedAndFree) {
  Device& device = cuda().device();
  const auto info = device.memory_info();
  EXPECT_GT(info.free_bytes, 0u);
  try {
    device.allocate(info.total_bytes * 2, MemoryKind::device);
    FAIL() << "twice the device's memory was given";
  } catch (const EnvironmentError& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find(std::to_string(info.total_bytes * 2)), std::string::npos) << what;
    EXPECT_NE(what.find("free"), std::string::npos) << what;
    EXPECT_FALSE(error.hint().empty());
  }
  void* memory = device.allocate(1 << 20, MemoryKind::device);  // the error is not sticky
  EXPECT_NE(memory, nullptr);
  device.release(memory, MemoryKind::device);
}

TEST_F(CudaDeviceTest, ADeviceThatIsNotThereIsNamed) {
  try {
    make_cuda_ops(1000);
    FAIL();
  } catch (const EnvironmentError& error) {
    EXPECT_NE(std::string(error.what()).find("1000"), std::string::npos);
  }
}

TEST_F(CudaDeviceTest, EventsOrderStreamsAndMeasure) {
  Device& device = cuda().device();
  Arena memory(device, MemoryKind::device, std::size_t{1} << 29);
  Arena host(device, MemoryKind::host, std::size_t{1} << 20);
  const Tensor big = memory.take(std::int64_t{1} << 26, DType::f32, "big");
  const Tensor seen = host.take(1, DType::f32, "seen");
  const Stream compute = device.stream(StreamRole::compute);
  const Stream send = device.stream(StreamRole::send);
  ASSERT_NE(compute.handle, send.handle);
  const Event begin = device.make_event(), end = device.make_event();
  const float value = 7.0f;
  for (int round = 0; round < 4; ++round) {
    *seen.f32() = 0;
    device.record(begin, compute);
    for (int i = 0; i < 20; ++i) device.fill_zero(compute, big.data, big.bytes());
    device.copy(compute, big.slice(big.size - 1, 1).data, &value, sizeof(value));
    device.record(end, compute);
    device.wait(send, end);
    device.copy(send, seen.data, big.slice(big.size - 1, 1).data, sizeof(float));
    device.synchronize(send);
    EXPECT_EQ(*seen.f32(), value) << "the send stream did not wait for the compute stream";
    EXPECT_TRUE(device.done(end));
    EXPECT_GT(device.elapsed_s(begin, end), 0.0);
  }
  device.destroy(begin);
  device.destroy(end);
}

/// A block's forward and backward, captured after one plain run, replays to the same bits on new
/// inputs: no call allocates, waits or reads device memory from the host.
TEST_F(CudaDeviceTest, CallsCanBeCapturedInAGraph) {
  constexpr int B = 2, T = 128, C = 128, H = 2, V = 500, Vp = 512, N = B * T;
  Side s(cuda());
  s.workspace({B, T, C, H}, Vp);
  const LinearShape up{N, C, 4 * C}, down{N, 4 * C, C}, head{N, C, Vp};
  const Tensor ids = s.i32(draw_tokens(N, V, 1)), x = s.act(draw(N * C, 1));
  const Tensor w = s.act(draw(C, 2)), b = s.act(draw(4 * C, 3)), mean = s.f32_out(N);
  const Tensor rstd = s.f32_out(N), y = s.act_out(N * C), pre = s.act_out(N * 4 * C);
  const Tensor act = s.act_out(N * 4 * C), wu = s.act(draw(4 * C * C, 4, 0.1f));
  const Tensor wd = s.act(draw(4 * C * C, 5, 0.1f)), z = s.act_out(N * C);
  const Tensor wte = s.act(draw(Vp * C, 6, 0.1f)), logits = s.act_out(std::int64_t{N} * Vp);
  const Tensor losses = s.f32_out(N), loss = s.f32({0.0f}), qkv = s.act(draw(3 * N * C, 7));
  const Tensor lse = s.f32_out(B * H * T), dqkv = s.act_out(3 * N * C);
  const Tensor dwte = s.f32(Floats(Vp * C)), dwpe = s.f32(Floats(T * C)),
               dwu = s.f32(Floats(4 * C * C));
  const Tensor dbu = s.f32(Floats(4 * C)), dw = s.f32(Floats(C)), db = s.f32(Floats(C));
  const auto enqueue = [&] {
    Ops& o = s.ops;
    for (const Tensor& g : {dwte, dwpe, dwu, dbu, dw, db, loss}) {
      o.device().fill_zero(s.stream, g.data, g.bytes());
    }
    o.layer_norm_forward(s.stream, x, w, w, y, mean, rstd, N, C);
    o.linear_gelu_forward(s.stream, up, y, wu, b, pre, act);
    o.linear_forward(s.stream, down, act, wd, w, z);
    o.attention_forward(s.stream, {B, T, C, H}, qkv, y, lse);
    o.linear_forward(s.stream, head, z, wte, {}, logits);
    o.softmax_cross_entropy(s.stream, logits, ids, losses, N, V, Vp, 1.0f / N, true);
    o.add_scaled_sum(s.stream, losses, N, 1.0f / N, loss);
    o.linear_backward_input(s.stream, head, logits, wte, z);
    o.linear_backward_weight(s.stream, head, logits, y, dwte, {});
    o.linear_gelu_backward_input(s.stream, down, z, wd, pre, act);
    o.linear_backward_weight(s.stream, up, act, y, dwu, dbu);
    o.attention_backward(s.stream, {B, T, C, H}, z, qkv, y, lse, dqkv);
    o.layer_norm_backward(s.stream, y, x, w, mean, rstd, {}, z, dw, db, N, C);
    o.embedding_backward(s.stream, ids, z, dwte, dwpe, N, T, C);
  };
  const auto results = [&] {
    return Outputs{s.read(loss), s.read(dwte), s.read(dwpe),
                   s.read(dwu),  s.read(dbu),  s.read(dqkv)};
  };
  enqueue();  // the first step tunes and builds
  const auto stream = static_cast<cudaStream_t>(s.stream.handle);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  enqueue();
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  s.upload(x, draw(N * C, 11));
  s.upload(qkv, draw(3 * N * C, 12));
  enqueue();
  const Outputs plain = results();
  ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  const Outputs replayed = results();
  for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_EQ(plain[i], replayed[i]) << "output " << i;
  EXPECT_GT(plain[0][0], 0.0f);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
}

}  // namespace
}  // namespace pipemark::testing
