// The text form of actions, and the terminal grid.
#pragma once

#include <string>
#include <string_view>

#include "schedules/schedule.hpp"

namespace pipemark {

std::string to_text(const Action& action);  ///< "2F0", "3I7", "(0F5;7B2)"
/// Replica is left 0. Throws UserError naming the token and what would be right.
Action parse_action(std::string_view token);
/// One line a rank, actions separated by spaces.
std::string to_text(const Schedule& schedule);

}  // namespace pipemark
