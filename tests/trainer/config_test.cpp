// ModelConfig's counts against the published models, and the checks' messages.
#include "trainer/config.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/check.hpp"
#include "trainer/parameters.hpp"

namespace pipemark {
namespace {

using testing::HasSubstr;

template <class Call>
UserError error_of(Call call) {
  try {
    call();
  } catch (const UserError& error) {
    return error;
  }
  ADD_FAILURE() << "no UserError";
  return UserError("");
}

TEST(ModelConfig, ParametersOfThePublishedModels) {
  // GPT-2's released checkpoints: 124,439,808 and 1,557,611,200 parameters.
  EXPECT_EQ(ModelConfig::from_preset("gpt2-124m").parameters(), 124439808);
  EXPECT_EQ(ModelConfig::from_preset("350m").parameters(), 354823168);
  EXPECT_EQ(ModelConfig::from_preset("774m").parameters(), 774030080);
  EXPECT_EQ(ModelConfig::from_preset("1558m").parameters(), 1557611200);
}

TEST(ModelConfig, ParametersAreThoseOfTheTensors) {
  for (const std::string& name : ModelConfig::preset_names()) {
    for (const bool tied : {true, false}) {
      ModelConfig model = ModelConfig::from_preset(name);
      model.tied = tied;
      check_model(model);
      std::int64_t sum = 0;
      int index = 0;
      for (const ParameterSpec& spec : model_parameters(model)) {
        EXPECT_EQ(spec.model_index, index++) << spec.name;
        sum += spec.logical_size;
      }
      EXPECT_EQ(model.parameters(), sum) << name;
    }
  }
}

TEST(ModelConfig, FlopsPerToken) {
  // By hand for L 1, C 2, T 3, V 5: blocks 12*4 + 13*2 = 74, final norm 4, head 10; 6LCT = 36.
  ModelConfig model;
  model.layers = 1, model.channels = 2, model.heads = 1, model.context = 3, model.vocabulary = 5;
  EXPECT_DOUBLE_EQ(model.flops_per_token(), 6.0 * (74 + 4 + 10) + 36);
  model.tied = false;  // one table more is held, but the same is multiplied by
  EXPECT_DOUBLE_EQ(model.flops_per_token(), 6.0 * (74 + 4 + 10) + 36);
}

TEST(ModelConfig, VocabularyIsPaddedAboveAThousand) {
  EXPECT_EQ(ModelConfig::from_preset("gpt2-124m").vocabulary_padded(), 50304);
  EXPECT_EQ(ModelConfig::from_preset("tiny").vocabulary_padded(), 256);
}

TEST(ModelConfig, UnknownPresetNamesTheNearest) {
  const UserError error = error_of([] { ModelConfig::from_preset("gpt2-124"); });
  EXPECT_THAT(error.what(), HasSubstr("gpt2-124"));
  EXPECT_THAT(error.hint(), HasSubstr("did you mean \"gpt2-124m\""));
}

TEST(ModelConfig, WrongValuesAreNamedByTheirKey) {
  ModelConfig model;
  model.heads = 5;
  EXPECT_THAT(error_of([&] { check_model(model); }).what(),
              HasSubstr("model.heads = 5 does not divide model.channels = 64"));
  model = {};
  model.layers = 0;
  EXPECT_THAT(error_of([&] { check_model(model); }).what(), HasSubstr("model.layers = 0"));
}

TEST(TrainConfig, WrongValuesAreNamedByTheirKey) {
  TrainConfig train;
  ParallelConfig parallel;
  EXPECT_NO_THROW(check_train(train, parallel));
  parallel.data = 3;
  const UserError error = error_of([&] { check_train(train, parallel); });
  EXPECT_THAT(error.what(), HasSubstr("train.batch = 32"));
  EXPECT_THAT(error.hint(), HasSubstr("multiple of 24"));
  parallel.data = 1;
  train.beta2 = 1;
  EXPECT_THAT(error_of([&] { check_train(train, parallel); }).what(), HasSubstr("train.beta2 = 1"));
  train = {};
  train.learning_rate = 0;
  EXPECT_THAT(error_of([&] { check_train(train, parallel); }).what(),
              HasSubstr("train.learning_rate = 0"));
}

}  // namespace
}  // namespace pipemark
