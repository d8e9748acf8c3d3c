// The text form of actions: "2F0", "3I7", "3W7", "(0F5;7B2)".
#include "schedules/text.hpp"

#include <charconv>
#include <cstdint>
#include <limits>

#include "kernels/check.hpp"

namespace pipemark {

namespace {

void append_half(std::string& out, int stage, char kind, int micro_batch) {
  out += std::to_string(stage);
  out += kind;
  out += std::to_string(micro_batch);
}

char letter(Kind kind) {
  switch (kind) {
    case Kind::F:
      return 'F';
    case Kind::B:
      return 'B';
    case Kind::I:
      return 'I';
    case Kind::W:
      return 'W';
    case Kind::FB:
      break;
  }
  throw LogicError("FB has no single letter");
}

[[noreturn]] void refuse(std::string_view token) {
  throw UserError(fmt::format("'{}' is not an action", token),
                  "write <stage><F|B|I|W><micro-batch>, as in 2F0, or a pair (0F5;7B2)");
}

/// Reads a number in [0, limit] from the front of `rest`.
int take_number(std::string_view& rest, int limit, std::string_view token) {
  int value = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
  if (error != std::errc{} || value < 0 || value > limit || rest.front() == '-') refuse(token);
  rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
  return value;
}

struct Half {
  Kind kind;
  std::int16_t stage;
  std::int32_t micro_batch;
};

Half parse_half(std::string_view half, std::string_view token) {
  std::string_view rest = half;
  const int stage = take_number(rest, std::numeric_limits<std::int16_t>::max(), token);
  if (rest.empty()) refuse(token);
  const std::size_t kind = std::string_view("FBIW").find(rest.front());
  if (kind == std::string_view::npos) refuse(token);
  rest.remove_prefix(1);
  const int micro_batch = take_number(rest, std::numeric_limits<std::int32_t>::max(), token);
  if (!rest.empty()) refuse(token);
  return {static_cast<Kind>(kind), static_cast<std::int16_t>(stage), micro_batch};
}

}  // namespace

std::string to_text(const Action& action) {
  std::string out;
  if (action.kind != Kind::FB) {
    append_half(out, action.stage, letter(action.kind), action.micro_batch);
    return out;
  }
  out += '(';
  append_half(out, action.stage, 'F', action.micro_batch);
  out += ';';
  append_half(out, action.stage_b, 'B', action.micro_batch_b);
  out += ')';
  return out;
}

Action parse_action(std::string_view token) {
  Action action;
  if (token.empty()) refuse(token);
  if (token.front() != '(') {
    const Half half = parse_half(token, token);
    action.kind = half.kind;
    action.stage = half.stage;
    action.micro_batch = half.micro_batch;
    return action;
  }
  const std::size_t middle = token.find(';');
  if (token.back() != ')' || middle == std::string_view::npos) refuse(token);
  const Half forward = parse_half(token.substr(1, middle - 1), token);
  const Half backward = parse_half(token.substr(middle + 1, token.size() - middle - 2), token);
  if (forward.kind != Kind::F || backward.kind != Kind::B) refuse(token);
  action.kind = Kind::FB;
  action.stage = forward.stage;
  action.micro_batch = forward.micro_batch;
  action.stage_b = backward.stage;
  action.micro_batch_b = backward.micro_batch;
  return action;
}

std::string to_text(const Schedule& schedule) {
  std::string out;
  for (const std::vector<Action>& row : schedule.ranks) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (i > 0) out += ' ';
      out += to_text(row[i]);
    }
    out += '\n';
  }
  return out;
}

}  // namespace pipemark
