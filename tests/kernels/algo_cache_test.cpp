// AlgoCache: what one process found, another reads; a spoiled or unwritable file is no error.
#include "kernels/cuda/algo_cache.hpp"

#include <gtest/gtest.h>

#include <fstream>

namespace pipemark::cuda {
namespace {

class AlgoCacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("pipemark-algo-cache-" +
               std::to_string(::testing::UnitTest::GetInstance()->random_seed()) +
               ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path folder_;
};

constexpr AlgoCache::Entry kEntry{1.5e-4, {1, 0xdeadbeefcafef00d, 0, 4, 5, 6, 7, ~0ull}};

TEST_F(AlgoCacheTest, AnotherProcessReadsWhatOneWrote) {
  AlgoCache one("a GPU/1", folder_);
  EXPECT_FALSE(one.find("matmul/1x2x3"));
  one.put("matmul/1x2x3", kEntry);
  const AlgoCache other("a GPU/1", folder_);
  ASSERT_TRUE(other.find("matmul/1x2x3"));
  EXPECT_EQ(other.find("matmul/1x2x3")->words, kEntry.words);
  EXPECT_DOUBLE_EQ(other.find("matmul/1x2x3")->seconds, kEntry.seconds);
  EXPECT_FALSE(AlgoCache("another GPU", folder_).find("matmul/1x2x3"));
}

TEST_F(AlgoCacheTest, WritersDontLoseEachOthersEntries) {
  AlgoCache one("gpu", folder_);
  AlgoCache two("gpu", folder_);
  one.put("one", kEntry);
  two.put("two", kEntry);
  const AlgoCache reader("gpu", folder_);
  EXPECT_TRUE(reader.find("one"));
  EXPECT_TRUE(reader.find("two"));
  EXPECT_TRUE(two.find("one")) << "put() takes over what others wrote";
}

TEST_F(AlgoCacheTest, SpoiledLinesAreLeftOut) {
  AlgoCache one("gpu", folder_);
  one.put("good", kEntry);
  std::ofstream(one.file(), std::ios::app) << "short 1.0 1 2\nnonsense\n\n";
  const AlgoCache reader("gpu", folder_);
  EXPECT_TRUE(reader.find("good"));
  EXPECT_FALSE(reader.find("short"));
  EXPECT_FALSE(reader.find("nonsense"));
}

TEST_F(AlgoCacheTest, AFolderThatCantBeMadeIsNoError) {
  std::ofstream(folder_) << "a file where the folder should be";
  AlgoCache cache("gpu", folder_ / "below");
  cache.put("key", kEntry);
  EXPECT_TRUE(cache.find("key"));
}

}  // namespace
}  // namespace pipemark::cuda
