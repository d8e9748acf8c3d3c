// Bad input, each with one clear error that names the key and what would be right.
#include "suite/config.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "kernels/check.hpp"

namespace pipemark {
namespace {
using testing::HasSubstr;

std::string write_file(const std::string& name, const std::string& text) {
  const std::string path = testing::TempDir() + name;
  std::ofstream(path) << text;
  return path;
}
RunConfig read(const std::string& text) {
  return make_config(read_settings(write_file("config_test.toml", text)));
}
/// "what | hint" of the UserError, "" when none is thrown.
template <class Work>
std::string error_of(Work&& work) {
  try {
    work();
  } catch (const UserError& error) {
    return std::string(error.what()) + " | " + error.hint();
  }
  return "";
}

TEST(Config, ReadsTablesPresetAndOverrides) {
  auto settings = read_settings(
      write_file("a.toml", "[train]\nsteps = 7\n[model]\nlayers = 3\npreset = \"gpt2-124m\"\n"));
  settings.push_back(parse_override("model.heads = 4"));
  settings.push_back(parse_override("schedule.name=dualpipe"));
  const RunConfig config = make_config(settings);
  EXPECT_EQ(config.train.steps, 7);
  EXPECT_EQ(config.model.layers, 3);
  EXPECT_EQ(config.model.channels, 768);
  EXPECT_EQ(config.model.heads, 4);
  EXPECT_EQ(config.schedule.name, "dualpipe");
}

TEST(Config, CanonicalTextGivesTheSameConfiguration) {
  RunConfig config = read("[train]\nlearning_rate = 0.1\n[data]\ntrain = \"a \\\"b\\\" \\\\c\"\n");
  config.balancer.partition = {0, 3, 6};
  config.train.epsilon = 1e-300;
  const std::string text = canonical_toml(config);
  EXPECT_EQ(canonical_toml(parse_canonical(text, "text")), text);
  EXPECT_EQ(parse_canonical(text, "text").train.epsilon, 1e-300);
  EXPECT_EQ(parse_canonical(text, "text").data.train, "a \"b\" \\c");
}

TEST(Config, UnknownKeyNamesFileLineAndTheNearest) {
  const std::string error = error_of([] { read("[train]\n\nstepz = 3\n"); });
  EXPECT_THAT(error, HasSubstr("config_test.toml:3: unknown key train.stepz"));
  EXPECT_THAT(error, HasSubstr("did you mean train.steps?"));
}

TEST(Config, WrongTypesSayWhatIsRight) {
  EXPECT_THAT(error_of([] { read("[train]\nbatch = \"32\"\n"); }),
              HasSubstr(":2: train.batch = \"32\" is text; it must be a whole number"));
  EXPECT_THAT(error_of([] { read("[train]\nbatch = 3.5\n"); }), HasSubstr("a whole number"));
  EXPECT_THAT(error_of([] { read("[model]\ntied = 1\n"); }), HasSubstr("true or false"));
  EXPECT_THAT(error_of([] { read("[train]\nsteps = 99999999999\n"); }), HasSubstr("out of range"));
  EXPECT_THAT(error_of([] { read("[train]\nseed = -1\n"); }), HasSubstr("out of range"));
  EXPECT_THAT(error_of([] { read("[train]\nclip = nan\n"); }), HasSubstr("not finite"));
  EXPECT_THAT(error_of([] { read("[train]\nclip = [1]\n"); }), HasSubstr("is a list"));
  EXPECT_THAT(error_of([] { read("train = 3\n"); }), HasSubstr("unknown key train"));
}

TEST(Config, BrokenOrMissingFile) {
  EXPECT_THAT(error_of([] { read("[train\nsteps = 1\n"); }), HasSubstr("config_test.toml:1"));
  EXPECT_THAT(error_of([] { read_settings("/nowhere/run.toml"); }), HasSubstr("cannot be read"));
  EXPECT_THAT(error_of([] { parse_override("steps"); }), HasSubstr("KEY=VALUE"));
}

TEST(Config, CrossChecks) {
  const auto checked = [](const std::string& text, int ranks) {
    return error_of([&] { check_run(read(text), ranks); });
  };
  EXPECT_EQ(checked("[parallel]\npipeline = 2\n", 2), "");
  EXPECT_THAT(checked("[parallel]\npipeline = 3\ndata = 2\n[train]\nbatch = 48\n", 4),
              HasSubstr("mpirun -n 6"));
  EXPECT_THAT(checked("[train]\nbatch = 30\n", 1), HasSubstr("multiple of 8"));
  EXPECT_NE(checked("[parallel]\npipeline = 3\n[schedule]\nname = \"dualpipe\"\n", 3), "");
  EXPECT_NE(checked("[parallel]\npipeline = 4\n[schedule]\nname = \"dualpipe\"\n[train]\n"
                    "micro_batches = 9\nbatch = 36\n",
                    4),
            "");
  EXPECT_THAT(checked("[parallel]\npipeline = 8\n[schedule]\nname = \"1f1b\"\n", 8),
              HasSubstr("fewer than the 8 stages"));
  EXPECT_THAT(checked("[schedule]\nname = \"dualpip\"\n", 1), HasSubstr("dualpipe"));
}

TEST(Config, OutputIsTriedAndNothingIsLeft) {
  EXPECT_THAT(error_of([] { check_writable("/nowhere/at/all/run.h5"); }), HasSubstr("output.file"));
  EXPECT_THAT(error_of([] { check_writable(testing::TempDir()); }), HasSubstr("folder"));
  const std::string folder = testing::TempDir() + "writable_test";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directory(folder);
  check_writable(folder + "/run.h5");
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

TEST(Config, FingerprintSeesAllButTheOutput) {
  RunConfig config, other;
  other.output.file = "elsewhere.h5";
  const std::string print = fingerprint(config, "program", "machine");
  EXPECT_EQ(print, fingerprint(other, "program", "machine"));
  other.train.seed = 2;
  EXPECT_NE(print, fingerprint(other, "program", "machine"));
  EXPECT_NE(print, fingerprint(config, "program2", "machine"));
  EXPECT_NE(print, fingerprint(config, "program", "machine2"));
}

TEST(PaceProfile, FormsAndMistakes) {
  const auto profile = [](const std::string& text) {
    return read_pace_profile(write_file("pace_test.toml", text));
  };
  const auto whole = profile("[times]\nforward_ms = 2\ninput_grad_ms = 3\nweight_grad_ms = 4.5\n");
  EXPECT_DOUBLE_EQ(whole.whole.weight_grad, 4.5e-3);
  EXPECT_TRUE(whole.stages.empty());
  const auto staged = profile(
      "[times]\nforward_ms = [1, 2]\ninput_grad_ms = [1, 2]\nweight_grad_ms = [1, 2]\n"
      "[rank]\nspeed = [1.0, 0.5]\n");
  ASSERT_EQ(staged.stages.size(), 2u);
  EXPECT_DOUBLE_EQ(staged.stages[1].forward, 2e-3);
  EXPECT_EQ(staged.speed, (std::vector<double>{1, 0.5}));
  EXPECT_THAT(error_of([&] { profile("[times]\nforward_ms = 1\n"); }), HasSubstr("is missing"));
  EXPECT_THAT(error_of([&] { profile("[times]\nforwards_ms = 1\n"); }),
              HasSubstr("did you mean times.forward_ms?"));
  EXPECT_THAT(error_of([&] { profile("[times]\nforward_ms = -1\n"); }), HasSubstr("above 0"));
  EXPECT_THAT(error_of([&] {
                profile("[times]\nforward_ms = [1, 2]\ninput_grad_ms = 1\nweight_grad_ms = 1\n");
              }),
              HasSubstr("has 2 values"));
}

TEST(PaceProfile, LayersAndChanges) {
  const std::string layers =
      "[layers]\nsequences = 2\nembedding_ms = [1, 0, 1]\nblock_ms = [3, 3, 3]\n"
      "head_ms = [4, 4, 4]\noverhead_ms = 0.5\n";
  const auto profile = [&](const std::string& text) {
    return read_pace_profile(write_file("pace_test.toml", text));
  };
  const auto p = profile(layers +
                         "[rank]\nspeed = [1, 0.5]\n"
                         "[[change]]\nstep = 5\nrank = 0\nfactor = 1.5\nuntil = 8\n");
  const Partition partition{{0, 2, 4}};  // embedding + block, block + head
  EXPECT_DOUBLE_EQ(p.cost_model(2, partition, 2, 0).of(0, 0).forward, 4.5e-3);
  EXPECT_DOUBLE_EQ(p.cost_model(2, partition, 4, 0).of(0, 0).forward, 8.5e-3);
  EXPECT_DOUBLE_EQ(p.cost_model(2, partition, 2, 4).of(1, 1).input_grad, 15e-3);
  EXPECT_DOUBLE_EQ(p.cost_model(2, partition, 2, 5).of(0, 0).forward, 1.5 * 4.5e-3);
  EXPECT_DOUBLE_EQ(p.cost_model(2, partition, 2, 8).of(0, 0).forward, 4.5e-3);
  EXPECT_TRUE(p.changes_at(5) && p.changes_at(8));
  EXPECT_FALSE(p.changes_at(6));
  EXPECT_THAT(error_of([&] { profile("[layers]\nblock_ms = [1, 1, 1]\n"); }),
              HasSubstr("layers.embedding_ms has 0 values"));
  EXPECT_THAT(error_of([&] { profile(layers + "[times]\nforward_ms = 1\n"); }),
              HasSubstr("both [times] and [layers]"));
  EXPECT_THAT(error_of([&] { profile(layers + "[[change]]\nstep = 5\nrank = 0\n"); }),
              HasSubstr("has no factor"));
  EXPECT_THAT(error_of([&] { profile(layers + "[[change]]\nstop = 5\n"); }),
              HasSubstr("change.step"));
  EXPECT_THAT(error_of([&] { p.cost_model(1, {{0, 4}}, 2, 0); }), HasSubstr("speed has 2 entries"));
}

}  // namespace
}  // namespace pipemark
