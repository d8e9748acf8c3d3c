// Files that ship with Pipemark and are called by name: layer profiles, device fingerprints.
#pragma once

#include <string>
#include <vector>

namespace pipemark {

/// `name` where there is such a file; else folder/name + suffix among the files that ship.
/// UserError with the nearest known name.
std::string find_shipped(const std::string& name, const std::string& folder,
                         const std::string& suffix);

/// The names that ship in a folder, sorted.
std::vector<std::string> shipped_names(const std::string& folder, const std::string& suffix);

}  // namespace pipemark
