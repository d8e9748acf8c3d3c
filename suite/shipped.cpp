#include "suite/shipped.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "kernels/check.hpp"
#include "trainer/nearest_name.hpp"

namespace pipemark {

namespace {
namespace fs = std::filesystem;

/// $PIPEMARK_DATA, else the source tree of the build.
fs::path root() {
  const char* given = std::getenv("PIPEMARK_DATA");
  return given != nullptr ? fs::path(given) : fs::path(PIPEMARK_SOURCE_DIR);
}
}  // namespace

std::vector<std::string> shipped_names(const std::string& folder, const std::string& suffix) {
  std::vector<std::string> names;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(root() / folder, none)) {
    if (entry.path().extension() == suffix) names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string find_shipped(const std::string& name, const std::string& folder,
                         const std::string& suffix) {
  std::error_code none;
  if (fs::is_regular_file(name, none)) return name;
  const fs::path shipped = root() / folder / (name + suffix);
  if (name.find('/') == std::string::npos && fs::is_regular_file(shipped, none)) {
    return shipped.string();
  }
  const auto names = shipped_names(folder, suffix);
  throw UserError(
      fmt::format("{}: no such file", name),
      fmt::format("did you mean {}? {} has {}; PIPEMARK_DATA names another folder",
                  nearest_name(name, names), (root() / folder).string(), fmt::join(names, ", ")));
}

}  // namespace pipemark
