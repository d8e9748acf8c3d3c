#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>
#include <sstream>

#include "suite/sweep.hpp"
#include "suite/toml.hpp"
#include "trainer/device_links.hpp"
#include "trainer/nearest_name.hpp"

namespace pipemark {

namespace {
struct Factor {
  std::string key, origin;
  std::vector<std::string> values;
};

std::string origin_of(const std::string& path, const toml::node& node) {
  return fmt::format("{}:{}", path, node.source().begin.line);
}

[[noreturn]] void unknown(const std::string& origin, const std::string& key,
                          const std::vector<std::string>& known) {
  throw UserError(fmt::format("{}: unknown key {}", origin, key),
                  fmt::format("did you mean {}?", nearest_name(key, known)));
}

/// Leaves of a table by dotted key; a list is a leaf.
void leaves(const toml::table& table, const std::string& prefix,
            const std::function<void(const std::string&, const toml::node&)>& visit) {
  for (const auto& [key, node] : table) {
    const std::string name = prefix + std::string(key.str());
    if (const auto* inner = node.as_table()) {
      leaves(*inner, name + ".", visit);
    } else {
      visit(name, node);
    }
  }
}

std::vector<Setting> base_settings(const toml::table& sweep, const std::string& path) {
  std::vector<Setting> settings;
  const auto* base = sweep["base"].as_table();
  if (base == nullptr) {
    throw UserError(fmt::format("{}: no [base]", path),
                    "give [base] path = \"run.toml\", or its tables as [base.model] ...");
  }
  if (const auto* node = base->get("path")) {
    const auto* text = node->as_string();
    if (text == nullptr) {
      throw UserError(fmt::format("{}: base.path = {} is {}; it must be text",
                                  origin_of(path, *node), toml_text(*node), describe_toml(*node)),
                      "write path = \"run.toml\"");
    }
    settings = read_settings(find_beside(text->get(), path));
  }
  leaves(*base, "", [&](std::string key, const toml::node& node) {
    if (key == "path") return;
    if (key.rfind("set.", 0) == 0) key = key.substr(4);
    std::string value = toml_text(node);
    if (const auto* text = node.as_string(); text && is_path(key, text->get())) {
      value = quote_toml(find_beside(text->get(), path));
    }
    settings.push_back({key, value, origin_of(path, node)});
  });
  return settings;
}

SweepRules read_rules(const toml::table& sweep, const std::string& path) {
  SweepRules rules;
  const auto* table = sweep["rules"].as_table();
  if (table == nullptr) return rules;
  const std::vector<std::string> known = {
      "repetitions", "max_repetitions", "ci_half_width",  "confidence", "seed",
      "timeout_s",   "reference",       "loss_tolerance", "launcher"};
  for (const auto& [key, node] : *table) {
    const std::string name(key.str()), origin = origin_of(path, node);
    const auto wrong = [&](const char* right) {
      throw UserError(fmt::format("{}: rules.{} = {} is not right", origin, name, toml_text(node)),
                      fmt::format("it must be {}", right));
    };
    const auto whole = [&](auto& member, std::int64_t least) {
      const auto* value = node.as_integer();
      if (!value || value->get() < least) {
        wrong(fmt::format("a whole number, at least {}", least).c_str());
      } else {
        member = static_cast<std::decay_t<decltype(member)>>(value->get());
      }
    };
    const auto real = [&](double& member, double below) {
      const auto value = node.value<double>();
      if (!node.is_number() || !value || !(*value > 0 && *value < below)) {
        wrong(fmt::format("a number above 0 and below {}", below).c_str());
      } else {
        member = *value;
      }
    };
    if (name == "repetitions") {
      whole(rules.repetitions, 1);
    } else if (name == "max_repetitions") {
      whole(rules.max_repetitions, 1);
    } else if (name == "seed") {
      whole(rules.seed, 0);
    } else if (name == "ci_half_width") {
      real(rules.ci_half_width, 1);
    } else if (name == "confidence") {
      real(rules.confidence, 1);
    } else if (name == "timeout_s") {
      real(rules.timeout_s, 1e7);
    } else if (name == "loss_tolerance") {
      real(rules.loss_tolerance, 1);
    } else if (name == "reference") {
      if (!node.is_boolean()) wrong("true or false");
      rules.reference = node.value_or(true);
    } else if (name == "launcher") {
      if (!node.is_string()) wrong("text, such as \"srun -n {ranks}\"");
      rules.launcher = node.value_or(std::string());
    } else {
      unknown(origin, "rules." + name, known);
    }
  }
  return rules;
}

std::vector<Factor> read_factors(const toml::table& sweep, const std::string& path) {
  std::vector<Factor> factors;
  if (const auto* table = sweep["factors"].as_table()) {
    leaves(*table, "", [&](const std::string& key, const toml::node& node) {
      const auto* list = node.as_array();
      if (list == nullptr || list->empty()) {
        throw UserError(fmt::format("{}: factors.{} = {} is no list of values",
                                    origin_of(path, node), key, toml_text(node)),
                        fmt::format("write \"{}\" = [VALUE, VALUE]", key));
      }
      Factor factor{key, origin_of(path, node), {}};
      for (const auto& entry : *list) {
        const auto* text = entry.as_string();
        factor.values.push_back(text && is_path(key, text->get())
                                    ? quote_toml(find_beside(text->get(), path))
                                    : toml_text(entry));
      }
      factors.push_back(std::move(factor));
    });
  }
  std::sort(factors.begin(), factors.end(), [](const Factor& a, const Factor& b) {
    const auto line = [](const Factor& f) {
      return std::stoi(f.origin.substr(f.origin.rfind(':') + 1));
    };
    return line(a) < line(b);  // as written: the tables are kept sorted by name
  });
  return factors;
}
}  // namespace

RunConfig reference_of(const RunConfig& config) {
  RunConfig reference = config;
  reference.train.micro_batches = config.train.micro_batches * config.parallel.data;
  reference.train.checkpointing = "none";
  reference.parallel = {1, 1, 1};
  reference.schedule = ScheduleConfig{};
  reference.balancer = BalancerConfig{};
  reference.device.pace.clear();
  reference.device.devices.clear();
  reference.device.transport = "auto";
  reference.device.backend = backends_of(config.device, config.parallel.pipeline).front();
  reference.output.file.clear();
  return reference;
}

std::vector<int> block_order(int cells, int block, std::int64_t seed) {
  std::vector<int> order(static_cast<std::size_t>(cells));
  std::iota(order.begin(), order.end(), 0);
  std::mt19937_64 random(static_cast<std::uint64_t>(seed) * 1000003u +
                         static_cast<std::uint64_t>(block));
  for (std::size_t i = order.size(); i > 1; --i) {  // std::shuffle differs between libraries
    std::swap(order[i - 1], order[random() % i]);
  }
  return order;
}

SweepPlan plan_sweep(const std::string& path, const std::string& output,
                     const std::string& devices) {
  const toml::table sweep = parse_toml_file(path);
  for (const auto& [key, node] : sweep) {
    if (key.str() != "base" && key.str() != "factors" && key.str() != "rules" &&
        key.str() != "output") {
      unknown(origin_of(path, node), std::string(key.str()),
              {"base", "factors", "rules", "output"});
    }
  }
  std::vector<Setting> base = base_settings(sweep, path);
  if (!devices.empty()) base.push_back({"device.devices", quote_toml(devices), "--devices"});
  const std::vector<Factor> factors = read_factors(sweep, path);
  SweepPlan plan;
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  plan.text = text.str();
  plan.rules = read_rules(sweep, path);
  plan.rules.max_repetitions = std::max(plan.rules.max_repetitions, plan.rules.repetitions);
  const std::filesystem::path beside(make_config(base).output.file);
  plan.output =
      !output.empty()
          ? output
          : sweep["output"]["file"].value_or((beside.parent_path() / "sweep.h5").string());

  std::vector<std::size_t> digit(factors.size(), 0);
  std::vector<std::string> reference_texts;
  while (true) {
    SweepCell cell;
    cell.index = static_cast<int>(plan.cells.size());
    std::vector<Setting> settings = base;
    for (std::size_t f = 0; f < factors.size(); ++f) {
      const std::string& value = factors[f].values[digit[f]];
      settings.push_back({factors[f].key, value, factors[f].origin});
      const bool quoted = value.size() > 1 && value.front() == '"';
      cell.factors += fmt::format("{}{} = {}", f == 0 ? "" : "; ", factors[f].key,
                                  quoted ? value.substr(1, value.size() - 2) : value);
    }
    cell.config = make_config(settings);
    cell.config.output.file.clear();
    try {
      check_run(cell.config, 0);
    } catch (const UserError& error) {
      cell.refused = error.what();
    }
    if (plan.rules.reference && cell.refused.empty()) {
      const RunConfig reference = reference_of(cell.config);
      const std::string canonical = canonical_toml(reference);
      const auto at = std::find(reference_texts.begin(), reference_texts.end(), canonical);
      cell.reference = static_cast<int>(at - reference_texts.begin());
      if (at == reference_texts.end()) {
        reference_texts.push_back(canonical);
        plan.references.push_back(reference);
      }
    }
    plan.cells.push_back(std::move(cell));
    std::size_t f = factors.size();
    while (f > 0 && ++digit[f - 1] == factors[f - 1].values.size()) digit[--f] = 0;
    if (f == 0) return plan;
  }
}

}  // namespace pipemark
