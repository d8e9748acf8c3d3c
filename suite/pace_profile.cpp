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

double positive(const toml::node& node, const std::string& where, bool zero_allowed = false) {
  const auto value = node.value<double>();
  if (!node.is_number() || !value || !(*value > 0 || (zero_allowed && *value == 0))) {
    throw UserError(fmt::format("{} = {} is not right", where, toml_text(node)),
                    zero_allowed ? "write a number, 0 or more" : "write a number above 0");
  }
  return *value;
}

/// One number, or a list of numbers.
std::vector<double> numbers(const toml::node& node, const std::string& where, bool zero_allowed) {
  std::vector<double> values;
  if (const auto* list = node.as_array()) {
    for (const auto& entry : *list) values.push_back(positive(entry, where, zero_allowed));
    if (values.empty()) throw UserError(where + " is an empty list", "write a number a stage");
  } else {
    values.push_back(positive(node, where, zero_allowed));
  }
  return values;
}

/// The keys of a profile, each with its numbers; a list stays marked as one.
struct Entry {
  std::vector<double> values;
  bool is_list = false;
};
const std::vector<std::string> kKeys = {
    "times.forward_ms", "times.input_grad_ms", "times.weight_grad_ms",
    "rank.speed",       "layers.embedding_ms", "layers.block_ms",
    "layers.head_ms",   "layers.overhead_ms",  "layers.sequences",
    "rank.memory_mib",  "experts.latency_ms",  "experts.gigabytes_per_s"};

StageCost three_times(const Entry& entry, const std::string& path, const char* key) {
  if (entry.values.size() != 3) {
    throw UserError(fmt::format("{}: {} has {} values", path, key, entry.values.size()),
                    "give three: the times of F, I and W");
  }
  return {entry.values[0] * kSecondsPerMs, entry.values[1] * kSecondsPerMs,
          entry.values[2] * kSecondsPerMs};
}

PaceProfile::LayerTimes layer_times(const std::vector<Entry>& entries, const std::string& path) {
  PaceProfile::LayerTimes times;
  times.embedding = three_times(entries[4], path, "layers.embedding_ms");
  times.block = three_times(entries[5], path, "layers.block_ms");
  times.head = three_times(entries[6], path, "layers.head_ms");
  if (!entries[7].values.empty()) times.overhead_s = entries[7].values[0] * kSecondsPerMs;
  if (!entries[8].values.empty()) times.sequences = static_cast<int>(entries[8].values[0]);
  if (times.sequences < 1) {
    throw UserError(fmt::format("{}: layers.sequences = {}", path, times.sequences),
                    "give the sequences of the micro-batch that the times are of, 1 or more");
  }
  return times;
}

/// A [[change]] of the profile.
PaceProfile::Change read_change(const toml::table& table, const std::string& path) {
  const std::vector<std::string> known = {"step", "until", "rank", "factor"};
  PaceProfile::Change change;
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    const std::string where = fmt::format("{}:{}: change.{}", path, node.source().begin.line, name);
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      throw UserError(
          fmt::format("{}:{}: unknown key change.{}", path, node.source().begin.line, name),
          fmt::format("did you mean change.{}?", nearest_name(name, known)));
    }
    if (name == "factor") {
      change.factor = positive(node, where);
      continue;
    }
    const auto value = node.value<std::int64_t>();
    if (!node.is_integer() || *value < 0) {
      throw UserError(fmt::format("{} = {} is not right", where, toml_text(node)),
                      "write a whole number, 0 or more");
    }
    if (name == "rank") change.rank = static_cast<int>(*value);
    if (name == "step") change.step = *value;
    if (name == "until") change.until = *value;
  }
  for (const char* needed : {"step", "rank", "factor"}) {
    if (table.contains(needed)) continue;
    throw UserError(
        fmt::format("{}:{}: a [[change]] has no {}", path, table.source().begin.line, needed),
        "a change is step = 50, rank = 3, factor = 1.5 (times as long), and until = "
        "80 where it ends");
  }
  return change;
}

void read_keys(const toml::table& table, const std::string& path, std::vector<Entry>& entries,
               PaceProfile& profile) {
  for (const auto& [section, inner] : table) {
    const auto* changes = inner.as_array();
    if (section == "change" && changes != nullptr && changes->is_array_of_tables()) {
      for (const auto& change : *changes) {
        profile.changes.push_back(read_change(*change.as_table(), path));
      }
      continue;
    }
    const auto* keys = inner.as_table();
    if (keys == nullptr) {
      throw UserError(
          fmt::format("{}:{}: unknown key {}", path, inner.source().begin.line, section.str()),
          "a profile has the sections [times] or [layers], [rank], [experts] and [[change]]");
    }
    for (const auto& [key, node] : *keys) {
      const std::string name = fmt::format("{}.{}", section.str(), key.str());
      const std::string place = fmt::format("{}:{}", path, node.source().begin.line);
      const auto at = std::find(kKeys.begin(), kKeys.end(), name);
      if (at == kKeys.end()) {
        throw UserError(fmt::format("{}: unknown key {}", place, name),
                        fmt::format("did you mean {}?", nearest_name(name, kKeys)));
      }
      const auto index = static_cast<std::size_t>(at - kKeys.begin());
      const bool zero_allowed = section == "layers";
      entries[index] = {numbers(node, place + ": " + name, zero_allowed), node.is_array()};
    }
  }
}

void set_times(const std::vector<Entry>& entries, const std::string& path, PaceProfile& profile) {
  for (std::size_t k = 0; k < 3; ++k) {
    const Entry &entry = entries[k], &first = entries[0];
    if (entry.values.empty()) {
      throw UserError(fmt::format("{}: {} is missing", path, kKeys[k]),
                      "a profile gives forward_ms, input_grad_ms and weight_grad_ms in [times], or "
                      "embedding_ms, block_ms and head_ms in [layers]");
    }
    const auto size_text = [](const Entry& e) {
      return e.is_list ? fmt::format("{} values", e.values.size()) : std::string("one");
    };
    if (entry.is_list != first.is_list || entry.values.size() != first.values.size()) {
      throw UserError(fmt::format("{}: times.forward_ms has {} and {} has {}", path,
                                  size_text(first), kKeys[k], size_text(entry)),
                      "give all three as one number, or all three as lists with one entry a stage");
    }
  }
  for (std::size_t s = 0; s < entries[0].values.size(); ++s) {
    const StageCost cost{entries[0].values[s] * kSecondsPerMs, entries[1].values[s] * kSecondsPerMs,
                         entries[2].values[s] * kSecondsPerMs};
    if (entries[0].is_list) {
      profile.stages.push_back(cost);
    } else {
      profile.whole = cost;
    }
  }
}
}  // namespace

PaceProfile read_pace_profile(const std::string& path) {
  PaceProfile profile;
  profile.source = path;
  std::vector<Entry> entries(kKeys.size());
  read_keys(parse_toml_file(path), path, entries, profile);
  profile.speed = entries[3].values;
  for (const double mib : entries[9].values) profile.memory_bytes.push_back(mib * 1024 * 1024);
  if (!entries[10].values.empty()) {
    profile.expert_latency_s = entries[10].values.front() * kSecondsPerMs;
  }
  if (!entries[11].values.empty()) profile.expert_bytes_per_s = entries[11].values.front() * 1e9;
  const auto given = [&](std::size_t k) { return !entries[k].values.empty(); };
  const bool times = given(0) || given(1) || given(2);
  const bool layers = given(4) || given(5) || given(6);
  if (times && layers) {
    throw UserError(fmt::format("{}: it has both [times] and [layers]", path),
                    "[times] are of 1/P of the model or by stage, [layers] by kind of layer: give "
                    "one of them");
  }
  if (layers) {
    profile.layers = layer_times(entries, path);
  } else {
    set_times(entries, path, profile);
  }
  return profile;
}

}  // namespace pipemark
