#include "suite/layer_profile.hpp"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/check.hpp"
#include "suite/shipped.hpp"

namespace pipemark {

namespace {
double number_of(const nlohmann::json& layer, const std::string& where, const char* key) {
  const auto at = layer.find(key);
  const bool right = at != layer.end() && at->is_number() && at->get<double>() >= 0;
  if (!right) {
    throw UserError(
        fmt::format("{}: {} is {}", where, key,
                    at == layer.end() ? std::string("missing") : at->dump()),
        "give a number of 0 or more; scripts/layer_profiles.py says what each key means");
  }
  return at->get<double>();
}
}  // namespace

ModelProfile read_layer_profile(const std::string& path) {
  const std::string file = find_shipped(path, "balancers/profiles", ".json");
  std::ifstream in(file);
  const nlohmann::json json = nlohmann::json::parse(in, nullptr, false);
  if (json.is_discarded() || !json.is_object() || !json.contains("layers") ||
      !json["layers"].is_array() || json["layers"].empty()) {
    throw UserError(fmt::format("{}: it is no layer profile", file),
                    "it must be JSON with a list \"layers\"; balancers/profiles has examples");
  }
  ModelProfile profile;
  profile.name = json.value("name", std::filesystem::path(file).stem().string());
  profile.sample = json.value("sample", "sample");
  profile.source = json.value("source", "");
  for (const auto& layer : json["layers"]) {
    const std::string where = fmt::format("{}: layer {}", file, profile.layers.size());
    if (!layer.is_object()) throw UserError(where + " is no object", "give name, parameters, ...");
    profile.layers.push_back(
        {layer.value("name", where), number_of(layer, where, "parameters"),
         number_of(layer, where, "forward_flops"), number_of(layer, where, "input_grad_flops"),
         number_of(layer, where, "weight_grad_flops"), number_of(layer, where, "activation_bytes"),
         number_of(layer, where, "output_bytes")});
  }
  return profile;
}

}  // namespace pipemark
