// Parameters: a stage's tensors in flat buffers, in the model's order: master weights (fp32),
// working weights (activation type; the same memory when that is fp32), gradients (fp32) and
// AdamW's moments m, v (fp32). 16 bytes a parameter with fp32 activations, 18 with bf16.
//
// Each tensor starts at a multiple of kParameterAlignment elements; the gap is zero and stays zero.
// Model order: embedding/token/weight [Vp, C], embedding/position/weight [T, C], twelve a block
// (with experts ten, router's among them, and four an expert), head/norm/{weight,bias}, and
// head/weight [Vp, C] when the model is not tied. The router's bias [E] has no gradient of its own:
// its place counts the loads of a step until the sums are made (GptStage).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/arena.hpp"
#include "kernels/ops.hpp"
#include "trainer/config.hpp"

namespace pipemark {

inline constexpr std::int64_t kParameterAlignment = 64;  ///< elements; 128 bytes in bf16

enum class Initial : std::uint8_t { zero, one, normal };

struct ParameterSpec {
  std::string name;               ///< "block/3/attention/qkv/weight"
  int model_index = 0;            ///< position in model_parameters()
  std::int64_t size = 0;          ///< elements, with the vocabulary's padding
  std::int64_t logical_size = 0;  ///< elements without padding: the first ones of `size`
  Initial initial = Initial::zero;
  double deviation = 0;  ///< standard deviation of Initial::normal
  bool decay = false;    ///< weight decay applies
  /// The head's copy of the tied table where the embedding is in another stage: same name and
  /// model_index as the embedding's; its gradient is only a part (Parameters' owner sums them).
  bool tied_copy = false;
  /// Of an expert: which one. Elsewhere -1.
  int expert = -1;
  /// Another rank's (or place's) tensor stands for it in sums over the model.
  bool replica = false;
};

/// Of one layer: 0 the embedding, 1..L the blocks, L + 1 the head. With tied weights the head's
/// last entry is the tied copy.
std::vector<ParameterSpec> layer_parameters(const ModelConfig& model, int layer);
/// Of one expert of a block's layer; layer_parameters() has all of them, after the others.
inline constexpr int kExpertTensors = 4;
std::vector<ParameterSpec> expert_parameters(const ModelConfig& model, int layer, int expert);
/// Of all layers, the tied table once: names[i] has model_index i.
std::vector<ParameterSpec> model_parameters(const ModelConfig& model);

struct Parameter : ParameterSpec {
  ParamRange range;  ///< in the flat buffers
};

/// Values of one tensor on the host, padding removed.
struct NamedTensor {
  std::string name;
  std::vector<float> values;
  bool operator==(const NamedTensor&) const = default;
};

class Parameters {
 public:
  Parameters(Ops& ops, const std::vector<ParameterSpec>& specs, Arena& arena);

  const std::vector<Parameter>& list() const { return list_; }
  const std::vector<ParamRange>& ranges() const { return ranges_; }
  /// Index into list(); throws LogicError when the stage has no such tensor.
  int find(const std::string& name) const;
  Tensor weight(int index) const { return cut(weights, index); }
  Tensor gradient(int index) const { return cut(gradients, index); }
  Tensor master_of(int index) const { return cut(master, index); }
  /// From the beginning of tensor `first` to the end of tensor `last` in one of the flat buffers.
  Tensor span(const Tensor& flat, int first, int last) const;
  /// From now on tensor `index` holds what `spec` names, of the same size (an expert that moved).
  void rename(int index, const ParameterSpec& spec);
  /// Logical elements, tied copies not counted.
  std::int64_t count() const;

  /// Weights by initialise(), moments and gradients zero. Waits for the device.
  void initialise(std::uint64_t seed);
  /// Waits for the device. `what` is one of the flat fp32 buffers below.
  std::vector<NamedTensor> read(Stream stream, const Tensor& what) const;

  /// Flat buffers of `size` elements each, for the optimizer and for checkpoints.
  Tensor master, weights, gradients, m, v;
  std::int64_t size = 0;

 private:
  Tensor cut(const Tensor& flat, int index) const;
  Ops& ops_;
  std::vector<Parameter> list_;
  std::vector<ParamRange> ranges_;
};

}  // namespace pipemark
