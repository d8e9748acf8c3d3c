#include "suite/toml.hpp"

#include <fstream>
#include <sstream>

#include "kernels/check.hpp"

namespace pipemark {

toml::table parse_toml_text(const std::string& text, const std::string& origin) {
  try {
    return toml::parse(text);
  } catch (const toml::parse_error& error) {
    throw UserError(
        fmt::format("{}:{}: {}", origin, error.source().begin.line, error.description()),
        "it must be TOML: [section] lines and key = value lines, text in \"quotes\"");
  }
}

toml::table parse_toml_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  if (!in || !(text << in.rdbuf())) {
    throw UserError(fmt::format("{}: cannot be read", path),
                    "give the path of a configuration file; suite/configs/ has examples");
  }
  return parse_toml_text(text.str(), path);
}

std::string toml_text(const toml::node& node) {
  std::ostringstream text;
  if (const auto* string = node.as_string()) return quote_toml(string->get());
  node.visit([&](const auto& value) { text << value; });
  return text.str();
}

std::string describe_toml(const toml::node& node) {
  if (node.is_string()) return "text";
  if (node.is_integer()) return "a whole number";
  if (node.is_floating_point()) return "a number with a point";
  if (node.is_boolean()) return "true or false";
  if (node.is_array()) return "a list";
  if (node.is_table()) return "a table";
  return "a date or time";
}

std::string quote_toml(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      quoted += fmt::format("\\u{:04X}", static_cast<int>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

}  // namespace pipemark
