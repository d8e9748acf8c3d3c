// Dataset: formats, splits, batches that don't depend on the ranks, errors, and the bigram bar.
#include "trainer/data.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <vector>

#include "kernels/check.hpp"
#include "trainer/random.hpp"

namespace pipemark {
namespace {

using testing::HasSubstr;

class DatasetTest : public testing::Test {
 protected:
  DatasetTest()
      : folder_(std::filesystem::temp_directory_path() /
                ("pipemark-data-" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(folder_);
    model_.context = 4;
    model_.vocabulary = 256;
  }
  ~DatasetTest() override { std::filesystem::remove_all(folder_); }

  template <class T>
  std::string write(const std::string& name, const std::vector<T>& values) {
    const std::string path = folder_ / name;
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(values.data()),
               static_cast<std::streamsize>(values.size() * sizeof(T)));
    return path;
  }
  static std::vector<std::uint8_t> counting(int size) {
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(size));
    for (int i = 0; i < size; ++i)
      bytes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(i);
    return bytes;
  }
  Dataset open(const std::string& path, const std::string& format = "bytes",
               double validation = 0.25) const {
    return Dataset({path, format, validation}, model_, 1);
  }
  UserError error_of(const std::string& path, const std::string& format = "bytes",
                     double validation = 0.25) const {
    try {
      open(path, format, validation);
    } catch (const UserError& error) {
      return error;
    }
    ADD_FAILURE() << "no UserError";
    return UserError("");
  }

  std::filesystem::path folder_;
  ModelConfig model_;
};

TEST_F(DatasetTest, SplitsAndWindows) {
  const Dataset data = open(write("text", counting(200)));
  EXPECT_EQ(data.training_tokens(), 150);
  EXPECT_EQ(data.validation_tokens(), 50);
  std::vector<std::int32_t> tokens(64 * 4), targets(64 * 4);
  data.batch(3, 64, 0, 64, tokens, targets);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    EXPECT_EQ(targets[i], tokens[i] + 1);
    EXPECT_LT(targets[i], 150) << "a training batch reads the validation split";
    if (i % 4 != 0) {
      EXPECT_EQ(tokens[i], tokens[i - 1] + 1);
    }
  }
  // 12 windows of 4 (+ 1 target) in 50 tokens, then from the start again.
  data.validation_batch(1, 8, 0, 8, std::span(tokens).first(32), std::span(targets).first(32));
  EXPECT_EQ(tokens[0], 150 + 8 * 4);
  EXPECT_EQ(tokens[4 * 4], 150);
  EXPECT_EQ(targets[3], 150 + 8 * 4 + 4);
}

TEST_F(DatasetTest, ASequenceDoesNotDependOnWhoAsks) {
  const Dataset data = open(write("text", counting(250)));
  std::vector<std::int32_t> all(32 * 4), all_targets(32 * 4);
  data.batch(5, 32, 0, 32, all, all_targets);
  for (const int parts : {2, 4, 8, 32}) {
    std::vector<std::int32_t> joined, part(32 / parts * 4), part_targets(part.size());
    for (int p = 0; p < parts; ++p) {
      data.batch(5, 32, p * (32 / parts), 32 / parts, part, part_targets);
      joined.insert(joined.end(), part.begin(), part.end());
    }
    EXPECT_EQ(joined, all) << parts;
  }
  std::vector<std::int32_t> next(32 * 4);
  data.batch(6, 32, 0, 32, next, all_targets);
  EXPECT_NE(next, all);
}

TEST_F(DatasetTest, StartsAreSpreadOverTheWholeSplit) {
  const Dataset data = open(write("text", counting(200)), "bytes", 0);
  std::vector<std::int32_t> tokens(4096 * 4), targets(tokens.size());
  data.batch(0, 4096, 0, 4096, tokens, targets);
  std::vector<int> hits(196, 0);
  for (std::size_t i = 0; i < tokens.size(); i += 4) ++hits.at(static_cast<std::size_t>(tokens[i]));
  // 4096 draws over 196 starts: mean 20.9, deviation 4.6; 5 deviations on either side.
  for (const int hit : hits) EXPECT_NEAR(hit, 20.9, 5 * 4.6);
}

TEST_F(DatasetTest, RawAndHeaderedUint16AreTheSame) {
  model_.vocabulary = 50257;
  std::vector<std::uint16_t> raw;
  for (int i = 0; i < 100; ++i) raw.push_back(static_cast<std::uint16_t>(i * 500));
  std::vector<std::uint16_t> with_header(512, 0);
  const std::int32_t header[3] = {20240520, 1, 100};
  std::memcpy(with_header.data(), header, sizeof(header));
  with_header.insert(with_header.end(), raw.begin(), raw.end());
  const Dataset a = open(write("raw.bin", raw), "uint16");
  const Dataset b = open(write("llmc.bin", with_header), "uint16");
  EXPECT_EQ(a.training_tokens(), 75);
  EXPECT_EQ(b.training_tokens(), 75);
  std::vector<std::int32_t> ta(32), tb(32), ya(32), yb(32);
  a.batch(0, 8, 0, 8, ta, ya);
  b.batch(0, 8, 0, 8, tb, yb);
  EXPECT_EQ(ta, tb);
  EXPECT_EQ(ya, yb);
  EXPECT_EQ(ya[0], ta[0] + 500);
}

TEST_F(DatasetTest, MissingEmptyShort) {
  EXPECT_THAT(error_of(folder_ / "none").what(), HasSubstr("none\": No such file"));
  EXPECT_THAT(error_of(folder_).what(), HasSubstr("not a file"));
  EXPECT_THAT(error_of(write("empty", counting(0))).what(),
              HasSubstr("empty\": the file is empty"));
  EXPECT_THAT(error_of(write("short", counting(5))).what(),
              HasSubstr("short\": 4 tokens for training, a sequence needs 5"));
  EXPECT_THAT(error_of(write("short", counting(16))).what(),
              HasSubstr("4 tokens for validation, a sequence needs 5"));
  EXPECT_NO_THROW(open(write("enough", counting(5)), "bytes", 0));
  EXPECT_THAT(error_of(write("text", counting(50)), "bytes", 1.5).what(),
              HasSubstr("data.validation_fraction = 1.5"));
}

TEST_F(DatasetTest, UnknownFormatAndHeaders) {
  EXPECT_THAT(error_of(write("text", counting(50)), "byte").hint(),
              HasSubstr("did you mean \"bytes\""));
  EXPECT_THAT(error_of(write("odd", counting(51)), "uint16").what(), HasSubstr("51 bytes"));
  std::vector<std::int32_t> header(300, 0);
  header[0] = 20240520, header[1] = 2, header[2] = 88;
  EXPECT_THAT(error_of(write("v2", header), "uint16").what(), HasSubstr("version 2"));
  header[1] = 1, header[2] = 89;
  EXPECT_THAT(error_of(write("cut", header), "uint16").what(),
              HasSubstr("89 tokens, the file has room for 88"));
  header[0] = 20240801;
  EXPECT_THAT(error_of(write("wide", header), "uint16").what(), HasSubstr("uint32 tokens"));
}

TEST_F(DatasetTest, TokenBeyondTheVocabularyIsNamed) {
  model_.vocabulary = 128;
  std::vector<std::uint8_t> bytes(100, 65);
  bytes[70] = 200;
  EXPECT_THAT(error_of(write("text", bytes)).what(),
              HasSubstr("token 200 at position 70 is not below model.vocabulary = 128"));
  model_.vocabulary = 50257;
  std::vector<std::uint16_t> wide(100, 7);
  wide[99] = 50257;
  EXPECT_THAT(error_of(write("wide", wide), "uint16").what(),
              HasSubstr("token 50257 at position 99 is not below model.vocabulary = 50257"));
}

TEST_F(DatasetTest, BigramLossByHand) {
  // Training abababab, validation abab: from a always b. n(a) = 4, t(a) = 1, n(b) = 3, t(b) = 1;
  // add-one unigrams of a and b are (4 + 1) / (8 + V).
  const std::vector<std::uint16_t> tokens{0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1};
  const std::string path = write("ab", tokens);
  model_.context = 2;
  for (const int V : {4, 5000}) {  // counted in a table, in a map
    model_.vocabulary = V;
    const Dataset data = open(path, "uint16", 0.34);
    ASSERT_EQ(data.validation_tokens(), 4);
    const double p = 5.0 / (8 + V), ab = (4 + p) / 5, ba = (3 + p) / 4;
    EXPECT_NEAR(data.bigram_validation_loss(), -(2 * std::log(ab) + std::log(ba)) / 3, 1e-12);
  }
}

TEST_F(DatasetTest, BigramFindsAMarkovSourcesEntropy) {
  // The next byte is one of two, equally likely, by the last: ln 2 nats, plus counting's error of
  // about (contexts x followers) / tokens = 32 / 90000.
  model_.vocabulary = 16;
  std::vector<std::uint8_t> bytes(100000, 0);
  const CounterRandom random(3, 0);
  for (std::size_t i = 1; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::uint8_t>((bytes[i - 1] * 5 + 1 + random.below(i, 2) * 3) % 16);
  }
  const double loss = open(write("markov", bytes), "bytes", 0.1).bigram_validation_loss();
  EXPECT_NEAR(loss, std::log(2), 1e-3);
  EXPECT_EQ(open(write("markov", bytes), "bytes", 0).bigram_validation_loss(), -1);
}

}  // namespace
}  // namespace pipemark
