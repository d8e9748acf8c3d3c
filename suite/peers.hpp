// Runs of other programs (PyTorch, llm.c), measured by scripts/peers and told in a JSON file, as
// runs of a record: role "peer". They have step times, memory and perhaps losses; no schedule and
// no timeline.
#pragma once

#include <string>

#include "suite/results.hpp"

namespace pipemark {

inline constexpr const char* kPeerRole = "peer";

/// Keys: program, settings, command, like (path of a Pipemark record whose first run has the same
/// model, data and batch), step_s (each step's), loss (each step's, or none), warm_up (steps that
/// don't count), device_bytes. UserError naming the file and the key that is missing or wrong.
RunRecord read_peer_run(const std::string& path);

}  // namespace pipemark
