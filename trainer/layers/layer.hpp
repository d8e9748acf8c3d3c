// What the layers of a GPT share: shapes, a parameter's weight and gradient, the residual stream
// between layers, and the scratch of one layer at a time.
//
// Legend: B sequences of a micro-batch, T tokens, C channels, H heads, V vocabulary, Vp padded,
// N = B T rows, a bytes of an activation element.
#pragma once

#include <cstdint>

#include "kernels/arena.hpp"
#include "kernels/ops.hpp"
#include "trainer/config.hpp"

namespace pipemark {

struct LayerShape {
  int batch = 0;  ///< B
  int tokens = 0, channels = 0, heads = 0, vocabulary = 0, vocabulary_padded = 0;

  LayerShape(const ModelConfig& model, int sequences)
      : batch(sequences),
        tokens(model.context),
        channels(model.channels),
        heads(model.heads),
        vocabulary(model.vocabulary),
        vocabulary_padded(model.vocabulary_padded()) {}
  std::int64_t rows() const { return static_cast<std::int64_t>(batch) * tokens; }
  std::int64_t elements() const { return rows() * channels; }  ///< N C
  AttentionShape attention() const { return {batch, tokens, channels, heads}; }
};

/// A parameter as a layer sees it: the working weight and the fp32 gradient that is added to.
struct Weight {
  Tensor w, dw;
};

/// The residual stream between two layers. Its value is residual + addend (addend may be empty):
/// the sum is left to the next LayerNorm, which does both in one pass over memory.
struct Flow {
  Tensor residual, addend;
};

/// What the W of a block's attention needs beyond its activations: 4 N C elements.
struct AttentionDeferred {
  Tensor dresidual;  ///< [N, C] gradient of the attention's output
  Tensor dqkv;       ///< [N, 3C]
  static AttentionDeferred take(const LayerShape& shape, DType dtype, Arena& arena);
};

/// The same of a block: 8 N C elements.
struct BlockDeferred : AttentionDeferred {
  Tensor dpre;  ///< [N, 4C] gradient before the GELU
  static BlockDeferred take(const LayerShape& shape, DType dtype, Arena& arena);
};

/// Scratch of one layer at a time, shared by all stages of a rank (they run on one stream):
/// 12 N C elements, N fp32 losses, and the backend's workspace.
struct GptScratch {
  Tensor addend;        ///< [N, C] a projection's output before it joins the residual stream
  Tensor dnorm;         ///< [N, C] gradient of a LayerNorm's output; of attention's output before
  Tensor gradient[2];   ///< [N, C] gradient of the residual stream, read one, write the other
  BlockDeferred block;  ///< of the full backward
  Tensor row_losses;    ///< [N] fp32
  Tensor workspace;     ///< Ops::set_workspace's
  /// Whether the logits' memory serves as scratch while the head does not run, where one
  /// micro-batch lives at a time: `block` is then empty, `workspace` the head's, and the stage cuts
  /// both from the logits for its other layers; addend and dnorm are one, as no forward runs beside
  /// a backward.
  bool in_logits = false;

  /// Hands the workspace to `ops` unless the arena is planning.
  static GptScratch take(Ops& ops, const ModelConfig& model, int sequences, Arena& arena,
                         bool in_logits = false);
  /// Whether `block` and the workspace of all calls find room in the logits.
  static bool fits_in_logits(const Ops& ops, const ModelConfig& model, int sequences);
};

}  // namespace pipemark
