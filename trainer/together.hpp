// together: a step that may fail on one rank alone, made so that all ranks fail with it.
#pragma once

#include <string>

#include "kernels/check.hpp"
#include "trainer/cluster.hpp"

namespace pipemark {

/// Collective. Runs `make` on every rank; when it fails on any, every rank throws the first one's
/// error, so that none is left waiting in a collective call.
template <class Make>
auto together(Cluster& cluster, Make make) -> decltype(make()) {
  std::string failure;
  decltype(make()) made{};
  try {
    made = make();
  } catch (const EnvironmentError& error) {
    failure = fmt::format("3{}\n{}", error.what(), error.hint());
  } catch (const UserError& error) {
    failure = fmt::format("2{}\n{}", error.what(), error.hint());
  }
  for (const std::string& text : cluster.world().all_gather(failure)) {
    if (text.empty()) continue;
    const auto cut = text.find('\n');
    const std::string what = text.substr(1, cut - 1), hint = text.substr(cut + 1);
    if (text[0] == '3') throw EnvironmentError(what, hint);
    throw UserError(what, hint);
  }
  return made;
}

}  // namespace pipemark
