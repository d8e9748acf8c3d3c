// Fingerprints as TOML. suite/fingerprints/ ships data sheets; `pipemark fingerprint -o` writes
// what it measured in the same form.
#pragma once

#include <string>

#include "balancers/fingerprint.hpp"

namespace pipemark {

/// `path`, or the name of one that ships ("h100"). UserError naming file, line, key and value.
Fingerprint read_fingerprint(const std::string& path);
std::string fingerprint_toml(const Fingerprint& fingerprint);

}  // namespace pipemark
