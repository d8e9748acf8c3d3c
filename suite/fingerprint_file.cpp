#include "suite/fingerprint_file.hpp"

#include <fmt/ranges.h>

#include <algorithm>

#include "kernels/check.hpp"
#include "suite/shipped.hpp"
#include "suite/toml.hpp"
#include "trainer/nearest_name.hpp"

namespace pipemark {

namespace {
constexpr double kGiga = 1e9, kTera = 1e12, kMicro = 1e-6;

/// Reads tables of one file, whose unknown keys and wrong values are errors with file and line.
class Reader {
 public:
  explicit Reader(std::string file) : file_(std::move(file)) {}

  std::string where(const toml::node& node, const std::string& key) const {
    return fmt::format("{}:{}: {}", file_, node.source().begin.line, key);
  }
  void check_keys(const toml::table& table, const std::vector<std::string>& known) const {
    for (const auto& [key, node] : table) {
      if (std::find(known.begin(), known.end(), key.str()) != known.end()) continue;
      throw UserError(where(node, fmt::format("unknown key {}", key.str())),
                      fmt::format("did you mean {}?", nearest_name(key.str(), known)));
    }
  }
  /// 0 where it isn't there.
  double number(const toml::table& table, const char* key) const {
    const toml::node* node = table.get(key);
    if (node == nullptr) return 0;
    const auto value = node->value<double>();
    if (!node->is_number() || !value || !(*value >= 0)) {
      throw UserError(where(*node, fmt::format("{} = {} is not right", key, toml_text(*node))),
                      "write a number of 0 or more");
    }
    return *value;
  }
  std::string text(const toml::table& table, const char* key) const {
    const toml::node* node = table.get(key);
    if (node == nullptr || !node->is_string()) {
      throw UserError(fmt::format("{}: {} is {}", file_, key,
                                  node == nullptr ? "missing" : describe_toml(*node)),
                      fmt::format("write {} = \"...\"", key));
    }
    return node->as_string()->get();
  }
  /// The tables of [[key]], none where it isn't there.
  std::vector<const toml::table*> tables(const toml::table& table, const char* key) const {
    std::vector<const toml::table*> list;
    const toml::node* node = table.get(key);
    if (node == nullptr) return list;
    const toml::array* array = node->as_array();
    if (array == nullptr || !array->is_array_of_tables()) {
      throw UserError(where(*node, key), fmt::format("write it as [[{}]] tables", key));
    }
    for (const auto& entry : *array) list.push_back(entry.as_table());
    return list;
  }

 private:
  std::string file_;
};
}  // namespace

Fingerprint read_fingerprint(const std::string& path) {
  const std::string file = find_shipped(path, "suite/fingerprints", ".toml");
  const toml::table table = parse_toml_file(file);
  const Reader reader(file);
  reader.check_keys(table, {"name", "kind", "source", "memory_gb", "memory_gbps", "tflops", "link",
                            "gemm", "op"});
  Fingerprint made;
  made.name = reader.text(table, "name");
  made.source = reader.text(table, "source");
  const std::string kind = reader.text(table, "kind");
  if (kind != "measured" && kind != "data sheet") {
    throw UserError(fmt::format("{}: kind = \"{}\"", file, kind),
                    "kind is \"measured\" or \"data sheet\"");
  }
  made.measured = kind == "measured";
  made.memory_bytes = kGiga * reader.number(table, "memory_gb");
  made.memory_bytes_per_s = kGiga * reader.number(table, "memory_gbps");
  if (const toml::table* peaks = table["tflops"].as_table()) {
    for (const auto& [key, node] : *peaks) {
      const std::string precision(key.str());
      made.peaks.push_back({precision, kTera * reader.number(*peaks, precision.c_str())});
    }
  }
  if (const toml::table* link = table["link"].as_table()) {
    reader.check_keys(*link, {"latency_us", "gbps"});
    made.link_latency_s = kMicro * reader.number(*link, "latency_us");
    made.link_bytes_per_s = kGiga * reader.number(*link, "gbps");
  }
  for (const toml::table* gemm : reader.tables(table, "gemm")) {
    reader.check_keys(*gemm, {"precision", "rows", "in", "out", "tflops"});
    made.gemms.push_back({reader.text(*gemm, "precision"), reader.number(*gemm, "rows"),
                          reader.number(*gemm, "in"), reader.number(*gemm, "out"),
                          kTera * reader.number(*gemm, "tflops")});
  }
  for (const toml::table* op : reader.tables(table, "op")) {
    reader.check_keys(*op, {"name", "gbps", "tflops"});
    made.ops.push_back({reader.text(*op, "name"), kGiga * reader.number(*op, "gbps"),
                        kTera * reader.number(*op, "tflops")});
  }
  return made;
}

std::string fingerprint_toml(const Fingerprint& made) {
  std::string out = fmt::format("name = {}\nkind = \"{}\"\nsource = {}\n", quote_toml(made.name),
                                made.measured ? "measured" : "data sheet", quote_toml(made.source));
  out += fmt::format("memory_gb = {:.6g}\nmemory_gbps = {:.6g}\n\n[tflops]\n",
                     made.memory_bytes / kGiga, made.memory_bytes_per_s / kGiga);
  for (const Peak& peak : made.peaks) {
    out += fmt::format("{} = {:.6g}\n", peak.precision, peak.flops_per_s / kTera);
  }
  if (made.link_bytes_per_s > 0) {
    out += fmt::format("\n[link]\nlatency_us = {:.6g}\ngbps = {:.6g}\n",
                       made.link_latency_s / kMicro, made.link_bytes_per_s / kGiga);
  }
  for (const GemmRate& rate : made.gemms) {
    out += fmt::format(
        "\n[[gemm]]\nprecision = \"{}\"\nrows = {:g}\nin = {:g}\nout = {:g}\ntflops = {:.6g}\n",
        rate.precision, rate.rows, rate.in, rate.out, rate.flops_per_s / kTera);
  }
  for (const OpRate& rate : made.ops) {
    out += fmt::format("\n[[op]]\nname = \"{}\"\n", rate.op);
    out += rate.flops_per_s > 0 ? fmt::format("tflops = {:.6g}\n", rate.flops_per_s / kTera)
                                : fmt::format("gbps = {:.6g}\n", rate.bytes_per_s / kGiga);
  }
  return out;
}

}  // namespace pipemark
