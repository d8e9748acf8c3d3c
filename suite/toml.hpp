// toml++ as this project uses it: parse a file or one value, print a value, name what a value is.
#pragma once

#include <toml++/toml.h>

#include <string>

namespace pipemark {

/// UserError "file:line: what" with a hint.
toml::table parse_toml_file(const std::string& path);
toml::table parse_toml_text(const std::string& text, const std::string& origin);

std::string toml_text(const toml::node& node);      ///< as TOML writes the value
std::string describe_toml(const toml::node& node);  ///< "a string", "a whole number", ...
std::string quote_toml(const std::string& text);    ///< a basic string with its escapes

}  // namespace pipemark
