// AlgoCache: what tuning found, kept in memory and on disk, so that a shape is tuned once on a
// machine and every later run (and every rank) takes the same algorithm, hence the same sums. One
// text file a device model and library version in $XDG_CACHE_HOME/pipemark (or ~/.cache/pipemark):
// a line is `key seconds word word ...`. A file that can't be read or written is no error: the
// shape is tuned again.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <unordered_map>

namespace pipemark::cuda {

class AlgoCache {
 public:
  static constexpr std::size_t kWords = 8;  ///< of an opaque cublasLtMatmulAlgo_t
  struct Entry {
    double seconds = 0;
    std::array<std::uint64_t, kWords> words{};
  };

  /// `name` becomes the file's; other than letters and digits turn into '-'. An empty `folder`
  /// means the default.
  explicit AlgoCache(const std::string& name, std::filesystem::path folder = {});
  std::optional<Entry> find(const std::string& key) const;
  /// Keeps the entry and rewrites the file (beside, then renamed), merging what others wrote since.
  void put(const std::string& key, const Entry& entry);
  const std::filesystem::path& file() const { return file_; }

 private:
  void read();

  std::filesystem::path file_;
  std::unordered_map<std::string, Entry> entries_;
};

}  // namespace pipemark::cuda
