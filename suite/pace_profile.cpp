// The TOML form of a PaceProfile.
#include <algorithm>
#include <optional>

#include "kernels/check.hpp"
#include "suite/config.hpp"
#include "suite/toml.hpp"
#include "trainer/nearest_name.hpp"

namespace pipemark {

namespace {
constexpr double kSecondsPerMs = 1e-3;

double positive(const toml::node& node, const std::string& where) {
  const auto value = node.value<double>();
  if (!node.is_number() || !value || !(*value > 0)) {
    throw UserError(fmt::format("{} = {} is not right", where, toml_text(node)),
                    "write a number above 0");
  }
  return *value;
}

/// One number, or a list of numbers.
std::vector<double> numbers(const toml::node& node, const std::string& where) {
  std::vector<double> values;
  if (const auto* list = node.as_array()) {
    for (const auto& entry : *list) values.push_back(positive(entry, where));
    if (values.empty()) throw UserError(where + " is an empty list", "write a number a stage");
  } else {
    values.push_back(positive(node, where));
  }
  return values;
}
}  // namespace

PaceProfile read_pace_profile(const std::string& path) {
  const toml::table table = parse_toml_file(path);
  const std::vector<std::string> known = {"times.forward_ms",     "times.input_grad_ms",
                                          "times.weight_grad_ms", "rank.speed",
                                          "experts.latency_ms",   "experts.gigabytes_per_s"};
  std::vector<double> values[6];
  bool is_list[6] = {};
  for (const auto& [section, inner] : table) {
    const auto* keys = inner.as_table();
    if (keys == nullptr) {
      throw UserError(
          fmt::format("{}:{}: unknown key {}", path, inner.source().begin.line, section.str()),
          "a profile has the sections [times], [rank] and [experts]");
    }
    for (const auto& [key, node] : *keys) {
      const std::string name = fmt::format("{}.{}", section.str(), key.str());
      const std::string where = fmt::format("{}:{}: {}", path, node.source().begin.line, name);
      const auto at = std::find(known.begin(), known.end(), name);
      if (at == known.end()) {
        throw UserError(fmt::format("{}:{}: unknown key {}", path, node.source().begin.line, name),
                        fmt::format("did you mean {}?", nearest_name(name, known)));
      }
      values[at - known.begin()] = numbers(node, where);
      is_list[at - known.begin()] = node.is_array();
    }
  }
  for (int k = 0; k < 3; ++k) {
    if (values[k].empty()) {
      throw UserError(fmt::format("{}: {} is missing", path, known[k]),
                      "a profile gives forward_ms, input_grad_ms and weight_grad_ms in [times]");
    }
    if (is_list[k] != is_list[0] || values[k].size() != values[0].size()) {
      throw UserError(
          fmt::format("{}: times.forward_ms has {} and {} has {}", path,
                      is_list[0] ? fmt::format("{} values", values[0].size()) : "one", known[k],
                      is_list[k] ? fmt::format("{} values", values[k].size()) : "one"),
          "give all three as one number, or all three as lists with one entry a stage");
    }
  }
  PaceProfile profile;
  profile.source = path;
  profile.speed = values[3];
  if (!values[4].empty()) profile.expert_latency_s = values[4].front() * kSecondsPerMs;
  if (!values[5].empty()) profile.expert_bytes_per_s = values[5].front() * 1e9;
  for (std::size_t s = 0; s < values[0].size(); ++s) {
    const StageCost cost{values[0][s] * kSecondsPerMs, values[1][s] * kSecondsPerMs,
                         values[2][s] * kSecondsPerMs};
    if (is_list[0]) {
      profile.stages.push_back(cost);
    } else {
      profile.whole = cost;
    }
  }
  return profile;
}

}  // namespace pipemark
