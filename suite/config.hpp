// RunConfig from TOML and the command line. Every key is one row of a table that names the member
// it fills, so that reading, overriding, the nearest known key, and the canonical text are the same
// list. Paths of files to read are looked for from the working folder first, then from the folder
// of the file that names them.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "trainer/config.hpp"
#include "trainer/pace.hpp"

namespace pipemark {

/// A dotted key with its value as TOML writes it: {"model.layers", "6"}.
struct Setting {
  std::string key;
  std::string value;
  std::string origin;  ///< "run.toml:7", "--set", for messages
};

/// The settings of a file in its order; no key is checked. UserError when it can't be read or
/// parsed, with file and line.
std::vector<Setting> read_settings(const std::string& path);

/// Settings in order, later ones win; a preset gives way to any size that is set. UserError naming
/// origin, key, value and what would be right.
RunConfig make_config(const std::vector<Setting>& settings);
/// "model.layers=6". A value that is no TOML is taken as text.
Setting parse_override(const std::string& text);

/// All keys, in a fixed order; make_config of it gives the same configuration.
std::string canonical_toml(const RunConfig& config);
RunConfig parse_canonical(const std::string& text, const std::string& origin);

/// Everything that can be said before work starts: values, grid against `ranks` (0: not known),
/// what the schedule refuses, fewer layers than stages. UserError.
void check_run(const RunConfig& config, int ranks);
/// UserError unless a file can be written there; leaves nothing behind.
void check_writable(const std::string& path);
/// Whether the value of a key is the path of a file.
bool is_path(const std::string& key, const std::string& value);
/// `path` if it is there, else beside `file`.
std::string find_beside(const std::string& path, const std::string& file);

/// A profile of [times] forward_ms, input_grad_ms, weight_grad_ms (a number: 1/P of the model; a
/// list: by stage) or [layers] embedding_ms, block_ms, head_ms = [F, I, W], overhead_ms, sequences;
/// [rank] speed = [...]; and [[change]] step, rank, factor, until.
PaceProfile read_pace_profile(const std::string& path);

/// Of canonical text without output.file, program and machine.
std::string fingerprint(const RunConfig& config, const std::string& program,
                        const std::string& machine);

}  // namespace pipemark
