#include "suite/config.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "kernels/check.hpp"
#include "schedules/catalogue.hpp"
#include "suite/config_keys.hpp"
#include "suite/environment.hpp"
#include "suite/toml.hpp"
#include "trainer/device_links.hpp"
#include "trainer/device_slices.hpp"
#include "trainer/nearest_name.hpp"
#include "trainer/run_plan.hpp"

namespace pipemark {

namespace {
namespace fs = std::filesystem;

void flatten(const toml::table& table, const std::string& prefix, const std::string& path,
             std::vector<Setting>& settings) {
  for (const auto& [key, node] : table) {
    const std::string name = prefix + std::string(key.str());
    if (const auto* inner = node.as_table()) {
      flatten(*inner, name + ".", path, settings);
    } else {
      settings.push_back(
          {name, toml_text(node), fmt::format("{}:{}", path, node.source().begin.line)});
    }
  }
}

[[noreturn]] void wrong_type(const Setting& setting, const toml::node& node, const char* expected,
                             const std::string& example) {
  throw UserError(fmt::format("{}: {} = {} is {}; it must be {}", setting.origin, setting.key,
                              setting.value, describe_toml(node), expected),
                  fmt::format("write {} = {}", setting.key, example));
}

/// Assigns a TOML value to the member, or says what is wrong with it.
struct Assign {
  const Setting& setting;
  const toml::node& node;

  template <class Integer>
  void whole(Integer* member) const {
    const auto value = node.as_integer();
    if (!value) wrong_type(setting, node, "a whole number", fmt::format("{}", *member));
    const std::int64_t given = value->get();
    const bool fits =
        std::is_same_v<Integer, std::uint64_t>
            ? given >= 0
            : given >= std::numeric_limits<int>::min() && given <= std::numeric_limits<int>::max();
    if (!fits) {
      throw UserError(
          fmt::format("{}: {} = {} is out of range", setting.origin, setting.key, setting.value),
          fmt::format("write {} = {}", setting.key, *member));
    }
    *member = static_cast<Integer>(given);
  }
  void operator()(int* member) const { whole(member); }
  void operator()(std::uint64_t* member) const { whole(member); }
  void operator()(double* member) const {
    const auto value = node.value<double>();
    if (!value || !node.is_number()) {
      wrong_type(setting, node, "a number", fmt::format("{}", *member));
    }
    if (!std::isfinite(*value)) {
      throw UserError(
          fmt::format("{}: {} = {} is not finite", setting.origin, setting.key, setting.value),
          fmt::format("write {} = {}", setting.key, *member));
    }
    *member = *value;
  }
  void operator()(bool* member) const {
    const auto value = node.as_boolean();
    if (!value) wrong_type(setting, node, "true or false", fmt::format("{}", *member));
    *member = value->get();
  }
  void operator()(std::string* member) const {
    const auto value = node.as_string();
    if (!value) wrong_type(setting, node, "text in quotes", quote_toml(*member));
    *member = value->get();
  }
  void operator()(std::vector<int>* member) const {
    const auto* list = node.as_array();
    if (!list) wrong_type(setting, node, "a list of whole numbers", "[0, 3, 6]");
    member->clear();
    for (const auto& entry : *list) {
      const auto value = entry.as_integer();
      if (!value) wrong_type(setting, entry, "a list of whole numbers", "[0, 3, 6]");
      member->push_back(static_cast<int>(value->get()));
    }
  }
};

void assign(RunConfig& config, const Setting& setting) {
  const auto keys = config_keys(config);
  const auto key =
      std::find_if(keys.begin(), keys.end(), [&](auto& k) { return k.name == setting.key; });
  if (key == keys.end()) {
    std::vector<std::string> known;
    for (const auto& k : keys) known.push_back(k.name);
    throw UserError(fmt::format("{}: unknown key {}", setting.origin, setting.key),
                    fmt::format("did you mean {}?", nearest_name(setting.key, known)));
  }
  const toml::table table = parse_toml_text("value = " + setting.value, setting.origin);
  std::visit(Assign{setting, *table.get("value")}, key->member);
}

struct Print {
  std::string operator()(const int* value) const { return fmt::format("{}", *value); }
  std::string operator()(const std::uint64_t* value) const { return fmt::format("{}", *value); }
  std::string operator()(const bool* value) const { return *value ? "true" : "false"; }
  std::string operator()(const std::string* value) const { return quote_toml(*value); }
  std::string operator()(const double* value) const {
    std::string text = fmt::format("{}", *value);  // the shortest that reads back the same
    if (text.find_first_of(".e") == std::string::npos) text += ".0";
    return text;
  }
  std::string operator()(const std::vector<int>* value) const {
    std::string text = "[";
    for (const int entry : *value) text += fmt::format("{}{}", text == "[" ? "" : ", ", entry);
    return text + "]";
  }
};
}  // namespace

std::vector<Setting> read_settings(const std::string& path) {
  std::vector<Setting> settings;
  flatten(parse_toml_file(path), "", path, settings);
  for (Setting& setting : settings) {
    const auto table = parse_toml_text("value = " + setting.value, setting.origin);
    if (const auto* text = table["value"].as_string(); text && is_path(setting.key, text->get())) {
      setting.value = quote_toml(find_beside(text->get(), path));
    }
  }
  return settings;
}

Setting parse_override(const std::string& text) {
  const auto equals = text.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw UserError(fmt::format("--set {}: no key = value", text),
                    "write --set KEY=VALUE, for example --set model.layers=6");
  }
  const auto trim = [](std::string part) {
    part.erase(0, part.find_first_not_of(" \t"));
    part.erase(part.find_last_not_of(" \t") + 1);
    return part;
  };
  Setting setting{trim(text.substr(0, equals)), trim(text.substr(equals + 1)), "--set"};
  try {
    parse_toml_text("value = " + setting.value, setting.origin);
  } catch (const UserError&) {
    setting.value = quote_toml(setting.value);
  }
  return setting;
}

RunConfig make_config(const std::vector<Setting>& settings) {
  RunConfig config;
  for (const Setting& setting : settings) {  // the preset first: sizes that are set win
    if (setting.key == "model.preset") assign(config, setting);
  }
  config.model = ModelConfig::from_preset(config.model.preset);
  for (const Setting& setting : settings) assign(config, setting);
  return config;
}

std::string canonical_toml(const RunConfig& config) {
  RunConfig copy = config;
  std::string text, section;
  for (const ConfigKey& key : config_keys(copy)) {
    const auto dot = key.name.find('.');
    if (key.name.substr(0, dot) != section) {
      section = key.name.substr(0, dot);
      text += fmt::format("{}[{}]\n", text.empty() ? "" : "\n", section);
    }
    text += fmt::format("{} = {}\n", key.name.substr(dot + 1), std::visit(Print{}, key.member));
  }
  return text;
}

RunConfig parse_canonical(const std::string& text, const std::string& origin) {
  std::vector<Setting> settings;
  flatten(parse_toml_text(text, origin), "", origin, settings);
  return make_config(settings);
}

bool is_path(const std::string& key, const std::string& value) {
  return key == "data.train" || key == "device.pace" ||
         (key == "schedule.name" && is_schedule_file(value));
}

std::string find_beside(const std::string& path, const std::string& file) {
  if (path.empty() || fs::path(path).is_absolute() || fs::exists(path)) return path;
  const fs::path beside = fs::path(file).parent_path() / path;
  return fs::exists(beside) ? beside.string() : path;
}

namespace {
void check_device(const DeviceConfig& device, const ParallelConfig& parallel) {
  const auto slices = parse_slices(device.devices);
  if (!slices.empty() && static_cast<int>(slices.size()) != parallel.ranks()) {
    throw UserError(fmt::format("device.devices = \"{}\" makes {} slices, but the run has {} ranks",
                                device.devices, slices.size(), parallel.ranks()),
                    fmt::format("write \"mps:{}\", or change [parallel]", parallel.ranks()));
  }
  const auto backends = backends_of(device, parallel.pipeline);
  for (const std::string& backend : backends) {
    if (slices.empty() || backend == "cuda") continue;
    throw UserError(fmt::format("device.devices = \"{}\" slices a GPU, but device.backend = \"{}\"",
                                device.devices, device.backend),
                    "set device.backend = \"cuda\", or leave out device.devices");
  }
  if (device.nccl_channels < 1) {
    throw UserError(fmt::format("device.nccl_channels = {}", device.nccl_channels),
                    "device.nccl_channels must be at least 1");
  }
}
}  // namespace

void check_run(const RunConfig& config, int ranks) {
  check_model(config.model);
  check_train(config.train, config.parallel);
  check_experts(config);
  const auto& parallel = config.parallel;
  if (ranks > 0 && parallel.ranks() != ranks) {
    throw UserError(
        fmt::format("parallel.pipeline = {} x parallel.data = {} x parallel.expert = {}"
                    " needs {} ranks, but the job has {}",
                    parallel.pipeline, parallel.data, parallel.expert, parallel.ranks(), ranks),
        fmt::format("launch it with mpirun -n {}, or change [parallel]", parallel.ranks()));
  }
  check_device(config.device, parallel);
  ScheduleRequest request;
  request.ranks = parallel.pipeline;
  request.micro_batches = config.train.micro_batches;
  request.chunks = config.schedule.chunks;
  request.memory_limit = config.schedule.memory_limit * parallel.pipeline;
  // A synthesised schedule is made later, for the run's own times.
  const int stages = is_synthesised(config)
                         ? synthesised_placement(config).stages
                         : make_schedule(config.schedule.name, request).placement.stages;
  const int layers = config.model.layers + 2;  // embedding, blocks, head
  if (layers < stages) {
    throw UserError(
        fmt::format("model.layers = {} gives {} layers with embedding and head, fewer than the {} "
                    "stages of schedule \"{}\"",
                    config.model.layers, layers, stages, config.schedule.name),
        fmt::format("set model.layers to at least {}, or use fewer ranks or chunks", stages - 2));
  }
}

void check_writable(const std::string& path) {
  const fs::path target(path);
  const fs::path folder = target.parent_path().empty() ? fs::path(".") : target.parent_path();
  const auto refuse = [&](const std::string& why) {
    throw UserError(fmt::format("output.file = \"{}\" cannot be written: {}", path, why),
                    "give --output a file in a folder that is there and that you may write to");
  };
  if (path.empty()) refuse("it is empty");
  if (fs::is_directory(target)) refuse("it is a folder");
  std::error_code failed;
  if (!fs::is_directory(folder, failed)) refuse(folder.string() + " is not a folder");
  const std::string probe = fmt::format("{}.{}.part", path, getpid());
  const bool good = std::ofstream(probe).good();
  fs::remove(probe, failed);
  if (!good) refuse("permission denied, or the disk is read-only or full");
}

std::string fingerprint(const RunConfig& config, const std::string& program,
                        const std::string& machine) {
  RunConfig copy = config;
  copy.output.file.clear();
  const std::string all = canonical_toml(copy) + '\0' + program + '\0' + machine;
  return fmt::format("{:016x}", hash_bytes(all.data(), all.size()));
}

}  // namespace pipemark
