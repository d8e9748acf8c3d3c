// Dataset: tokens of a file, split into training (first) and validation (last part), and batches
// that depend on (seed, step) alone: sequence i of a step's global batch is the same whatever the
// ranks, and rank d of D data ranks takes sequences [d batch / D, (d + 1) batch / D).
//
// Formats: "bytes": each byte is a token. "uint16": little-endian tokens, raw as nanoGPT's
// prepare.py writes them, or behind llm.c's header of 256 int32 (magic 20240520, version 1, count),
// which is found by its magic. The file is mapped, not read, and checked once.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "trainer/config.hpp"

namespace pipemark {

class Dataset {
 public:
  /// Throws UserError naming the file (and position and value of a token that is not below
  /// model.vocabulary) when it is missing, empty, of another format, or too short for a sequence of
  /// model.context + 1 tokens in training and, with validation_fraction > 0, in validation.
  Dataset(const DataConfig& data, const ModelConfig& model, std::uint64_t seed);
  ~Dataset();
  Dataset(Dataset&&) noexcept;

  std::int64_t training_tokens() const { return training_; }
  std::int64_t validation_tokens() const { return size_ - training_; }

  /// Sequences [first, first + count) of the global batch of `step`: sequence i starts at a
  /// position drawn with replacement from (seed, step, i). tokens and targets are [count, T];
  /// targets are the tokens one further. `batch` is the global batch's size.
  void batch(std::int64_t step, int batch, int first, int count, std::span<std::int32_t> tokens,
             std::span<std::int32_t> targets) const;
  /// The same of the validation split: windows in order, step * batch + i, around again at its end.
  void validation_batch(std::int64_t step, int batch, int first, int count,
                        std::span<std::int32_t> tokens, std::span<std::int32_t> targets) const;

  /// Mean loss (nats a token) on the whole validation split of a bigram model counted on the
  /// training split, smoothed by Witten and Bell towards the (add-one) unigram: the bar that a
  /// trained model must pass. -1 without a validation split.
  double bigram_validation_loss() const;

 private:
  struct File;
  /// Steps data_ over a header; returns the number of uint16 tokens.
  std::int64_t find_tokens();
  std::int32_t token(std::int64_t position) const;
  void copy_window(std::int64_t start, std::span<std::int32_t> tokens,
                   std::span<std::int32_t> targets) const;
  template <class Start>
  void copy_windows(int count, std::span<std::int32_t> tokens, std::span<std::int32_t> targets,
                    const Start& start) const;
  void check_tokens() const;

  std::unique_ptr<File> file_;
  std::string path_;
  bool wide_ = false;                ///< uint16
  const std::byte* data_ = nullptr;  ///< first token
  std::int64_t size_ = 0, training_ = 0;
  int context_, vocabulary_;
  std::uint64_t seed_;
};

}  // namespace pipemark
