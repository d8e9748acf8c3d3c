// AlgoCache: see algo_cache.hpp. Knows no CUDA.
#include "kernels/cuda/algo_cache.hpp"

#include <unistd.h>

#include <cctype>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <utility>

namespace pipemark::cuda {
namespace {

std::filesystem::path default_folder() {
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg != nullptr && *xdg != '\0') {
    return std::filesystem::path(xdg) / "pipemark";
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') {
    return std::filesystem::path(home) / ".cache" / "pipemark";
  }
  return std::filesystem::temp_directory_path() / "pipemark";
}

}  // namespace

AlgoCache::AlgoCache(const std::string& name, std::filesystem::path folder) {
  std::string stem;
  for (char c : name) {
    stem += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '-';
  }
  file_ = (folder.empty() ? default_folder() : std::move(folder)) / (stem + ".txt");
  read();
}

void AlgoCache::read() {
  std::ifstream in(file_);
  std::string line;
  while (std::getline(in, line)) {
    std::istringstream fields(line);
    std::string key;
    Entry entry;
    fields >> key >> entry.seconds >> std::hex;
    for (std::uint64_t& word : entry.words) fields >> word;
    if (fields) entries_.try_emplace(key, entry);  // ours win: this process has used them
  }
}

std::optional<AlgoCache::Entry> AlgoCache::find(const std::string& key) const {
  const auto at = entries_.find(key);
  if (at == entries_.end()) return std::nullopt;
  return at->second;
}

void AlgoCache::put(const std::string& key, const Entry& entry) {
  entries_[key] = entry;
  read();
  std::error_code ignored;
  std::filesystem::create_directories(file_.parent_path(), ignored);
  const std::filesystem::path part = file_.string() + "." + std::to_string(getpid()) + ".part";
  std::ofstream out(part);
  const std::map<std::string, Entry> sorted(entries_.begin(), entries_.end());
  for (const auto& [name, kept] : sorted) {
    out << name << ' ' << kept.seconds << std::hex;
    for (std::uint64_t word : kept.words) out << ' ' << word;
    out << std::dec << '\n';
  }
  out.close();
  if (out) {
    std::filesystem::rename(part, file_, ignored);
  } else {
    std::filesystem::remove(part, ignored);
  }
}

}  // namespace pipemark::cuda
