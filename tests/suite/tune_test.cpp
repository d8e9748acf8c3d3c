// The search of `pipemark tune` on times that are made up, so that what is best is known.
#include "suite/tune.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/check.hpp"
#include "suite/fingerprint_file.hpp"
#include "suite/layer_profile.hpp"
#include "suite/shipped.hpp"
#include "trainer/run_plan.hpp"
#include "trainer/time_model.hpp"

namespace pipemark {
namespace {

RunConfig config_of(int pipeline, int batch, int micro_batches) {
  RunConfig config;
  config.model = ModelConfig::from_preset("tiny");
  config.model.layers = 14;
  config.parallel.pipeline = pipeline;
  config.train.batch = batch;
  config.train.micro_batches = micro_batches;
  return config;
}

TuneProfile profile_of(const RunConfig& config, double fixed_s, double per_sequence_s) {
  TuneProfile profile;
  profile.at_zero = profile.per_sequence = layer_parameter_costs(config.model);
  for (auto& layer : profile.at_zero) {
    layer.forward_s = layer.input_grad_s = layer.weight_grad_s = fixed_s;
  }
  for (auto& layer : profile.per_sequence) {
    layer.forward_s = layer.input_grad_s = layer.weight_grad_s = per_sequence_s;
  }
  return profile;
}

TEST(Tune, FitsALineThroughTwoSizes) {
  std::vector<LayerCost> small{{"a", 0, 3, 5, 1}}, large{{"a", 0, 5, 9, 0.5}};
  const TuneProfile profile = fit_profile(small, 1, large, 2);
  const auto at3 = profile.layers(3);
  EXPECT_DOUBLE_EQ(at3[0].forward_s, 7);
  EXPECT_DOUBLE_EQ(at3[0].input_grad_s, 13);
  EXPECT_DOUBLE_EQ(at3[0].weight_grad_s, 1);  // falling: a constant
  EXPECT_DOUBLE_EQ(fit_profile(small, 2, small, 2).layers(4)[0].forward_s, 6);  // through 0
}

TEST(Tune, FindsWhatIsBest) {
  const RunConfig config = config_of(4, 32, 4);
  const TuneSpace space{{}, 0, 4};
  // No cost a call: the smallest micro-batches and the least bubble win; checkpointing only costs.
  const auto found = search(config, profile_of(config, 0, 1e-3), space);
  ASSERT_GT(found.size(), 50u);
  EXPECT_TRUE(std::is_sorted(found.begin(), found.end(),
                             [](auto& a, auto& b) { return a.step_s < b.step_s; }));
  EXPECT_EQ(found.front().config.train.micro_batches, 32);
  EXPECT_EQ(found.front().config.train.checkpointing, "none");
  const Candidate given = predict_candidate(config, profile_of(config, 0, 1e-3), space);
  EXPECT_LT(found.front().step_s, given.step_s);
  // Calls that cost far more than their work: few micro-batches win.
  const auto costly = search(config, profile_of(config, 1e-3, 1e-9), space);
  EXPECT_LT(costly.front().config.train.micro_batches, 8);
}

TEST(Tune, MemoryLimitIsKept) {
  const RunConfig config = config_of(4, 32, 4);
  const TuneProfile profile = profile_of(config, 0, 1e-3);
  const auto all = search(config, profile, {{}, 0, 4});
  double least = all.front().peak_bytes, most = least;
  for (const auto& candidate : all) {
    least = std::min(least, candidate.peak_bytes);
    most = std::max(most, candidate.peak_bytes);
  }
  const double limit = (least + most) / 2;
  const auto within = search(config, profile, {{}, limit, 4});
  ASSERT_FALSE(within.empty());
  EXPECT_LT(within.size(), all.size());
  for (const auto& candidate : within) EXPECT_LE(candidate.peak_bytes, limit);
  EXPECT_TRUE(search(config, profile, {{}, least / 2, 4}).empty());
}

TEST(Tune, TheRecipeWatchesTheRatioAndNotTheClock) {
  const RunConfig config = config_of(4, 32, 4);
  // Most of a call's time is fixed: more micro-batches have a smaller ratio and a longer step.
  const TuneProfile profile = profile_of(config, 1e-3, 1e-5);
  const Candidate found = recipe(config, profile, {{}, 0, 4});
  const Candidate given = predict_candidate(config, profile, {{}, 0, 4});
  EXPECT_EQ(found.config.train.micro_batches, 32);
  EXPECT_LT(found.bubble_ratio, given.bubble_ratio);
  EXPECT_GT(found.step_s, given.step_s);
}

TEST(Tune, OnlyTheSchedulesAskedFor) {
  const RunConfig config = config_of(2, 8, 4);
  for (const auto& c : search(config, profile_of(config, 0, 1e-3), {{"gpipe", "1f1b"}, 0, 4})) {
    EXPECT_TRUE(c.config.schedule.name == "gpipe" || c.config.schedule.name == "1f1b");
  }
}

// Sums that the papers state: 60.2 M, 335 M, 175 B (of 174.6), 671 B; 11.5 G multiply-adds.
TEST(Profiles, AddUpToThePublishedModels) {
  const auto total = [](const char* name) {
    double parameters = 0, flops = 0;
    for (const auto& layer : read_layer_profile(name).layers) {
      parameters += layer.parameters;
      flops += layer.forward_flops;
    }
    return std::pair{parameters, flops};
  };
  EXPECT_EQ(total("resnet152").first, 60192808);
  EXPECT_NEAR(total("resnet152").second / 2 / 11.5e9, 1, 0.01);
  EXPECT_NEAR(total("bert-large").first / 335e6, 1, 0.01);
  EXPECT_NEAR(total("gpt3").first / 174.6e9, 1, 0.001);
  EXPECT_NEAR(total("deepseek-v3").first / 671e9, 1, 0.001);
  EXPECT_THROW(read_layer_profile("resnet512"), UserError);
}

TEST(Fingerprints, WhatShipsIsReadAndWritten) {
  const auto names = shipped_names("suite/fingerprints", ".toml");
  ASSERT_GE(names.size(), 8u);
  for (const std::string& name : names) {
    const Fingerprint device = read_fingerprint(name);
    EXPECT_FALSE(device.measured) << name;
    EXPECT_GT(device.peak("fp32"), 1e12) << name;
    const std::string text = fingerprint_toml(device);
    EXPECT_NE(text.find("data sheet"), std::string::npos);
  }
  EXPECT_GT(read_fingerprint("h800").link_bytes_per_s, 0);
  EXPECT_LT(read_fingerprint("h800").link_bytes_per_s, read_fingerprint("h100").link_bytes_per_s);
}

// A block at a peak alone is its products: 24 N C^2 FLOPs forward beside attention's bytes.
TEST(TimeModel, APeakIsALowerBound) {
  Fingerprint device;
  device.peaks = {{"fp32", 1e12}};
  ModelConfig model = ModelConfig::from_preset("tiny");
  const auto layers = predict_layer_times(device, "fp32", 4, model, 2);
  const double N = 2.0 * model.context, C = model.channels;
  EXPECT_DOUBLE_EQ(layers[1].forward_s, 24 * N * C * C / 1e12);
  EXPECT_DOUBLE_EQ(layers[1].weight_grad_s, 24 * N * C * C / 1e12);
  EXPECT_EQ(layers[0].input_grad_s, 0);
  EXPECT_DOUBLE_EQ(stage_time(layers, 1, 3).forward, 2 * layers[1].forward_s);
}

}  // namespace
}  // namespace pipemark
