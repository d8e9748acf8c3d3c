// Reads and writes the CSV of torch.distributed.pipelining; see the header for what its cells mean.
#include "schedules/csv.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <fstream>
#include <map>
#include <sstream>

#include "kernels/check.hpp"
#include "schedules/text.hpp"

namespace pipemark {
namespace {

constexpr std::string_view kPairSuffix = "OVERLAP_F_B";
/// Cells that carry no computation; those of a message name their micro-batch.
constexpr std::array<std::string_view, 6> kMessageKinds = {"SEND_F", "RECV_F",      "SEND_B",
                                                           "RECV_B", "WAIT_SEND_F", "WAIT_SEND_B"};
constexpr std::array<std::string_view, 4> kStateKinds = {"UNSHARD", "RESHARD", "REDUCE_GRAD",
                                                         "WAIT_REDUCE_GRAD"};

std::string_view trim(std::string_view cell, std::size_t& column) {
  while (!cell.empty() && std::isspace(static_cast<unsigned char>(cell.front()))) {
    cell.remove_prefix(1);
    ++column;
  }
  while (!cell.empty() && std::isspace(static_cast<unsigned char>(cell.back()))) {
    cell.remove_suffix(1);
  }
  return cell;
}

/// True for "1SEND_F2", "0UNSHARD", ...
bool is_communication(std::string_view token) {
  const auto digits = [](std::string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(),
                                        [](unsigned char c) { return std::isdigit(c) != 0; });
  };
  const auto begin = token.find_first_not_of("0123456789");
  if (begin == 0 || begin == std::string_view::npos) return false;
  const auto end = token.find_last_not_of("0123456789") + 1;
  const std::string_view kind = token.substr(begin, end - begin), index = token.substr(end);
  if (std::find(kMessageKinds.begin(), kMessageKinds.end(), kind) != kMessageKinds.end()) {
    return digits(index);
  }
  return std::find(kStateKinds.begin(), kStateKinds.end(), kind) != kStateKinds.end() &&
         index.empty();
}

Action parse_cell(std::string_view token, const std::string& place) {
  std::string_view text = token;
  try {
    const bool pair = text.front() == '(';
    if (!pair) return parse_action(text);
    if (text.ends_with(kPairSuffix)) {
      text.remove_suffix(kPairSuffix.size());
      return parse_action(text);
    }
  } catch (const UserError&) {  // said below, with the place
  }
  throw UserError(
      fmt::format("{}: '{}' is not an action of torch.distributed.pipelining", place, token),
      "write <stage><F|B|I|W><micro-batch> as in 2F0, a pair (0F5;7B2)OVERLAP_F_B, a "
      "message 2SEND_F0, 2UNSHARD or 2REDUCE_GRAD; or leave the cell empty");
}

struct Reader {
  const std::string& file;
  CsvSchedule out{};
  int last_stage = -1, last_micro_batch = -1;

  std::string at(CsvSchedule::Place place) const {
    return fmt::format("{}:{}:{}", file, place.line, place.column);
  }

  void read_line(std::string_view line, int number) {
    auto& row = out.schedule.ranks.emplace_back();
    auto& places = out.places.emplace_back();
    for (std::size_t begin = 0; begin <= line.size();) {
      const std::size_t end = std::min(line.find(',', begin), line.size());
      std::size_t column = begin + 1;
      const std::string_view token = trim(line.substr(begin, end - begin), column);
      begin = end + 1;
      if (token.empty() || is_communication(token)) continue;
      const CsvSchedule::Place place{number, static_cast<int>(column)};
      const Action action = parse_cell(token, at(place));
      row.push_back(action);
      places.push_back(place);
      note(action.stage, action.micro_batch);
      if (action.kind == Kind::FB) note(action.stage_b, action.micro_batch_b);
    }
    if (row.empty()) {
      throw UserError(fmt::format("{}:{}:1: rank {} has no F, B, I or W", file, number,
                                  out.schedule.ranks.size() - 1),
                      "give each rank one line; a rank without work has no place in a schedule");
    }
  }

  void note(int stage, int micro_batch) {
    last_stage = std::max(last_stage, stage);
    last_micro_batch = std::max(last_micro_batch, micro_batch);
  }

  /// Where the forward of each stage of one micro-batch ran; -1 where none did.
  using Path = std::vector<int>;

  /// The places of a stage's first action on each rank that runs it.
  std::map<int, CsvSchedule::Place> ranks_of(int stage) const {
    std::map<int, CsvSchedule::Place> ranks;
    for (std::size_t r = 0; r < out.schedule.ranks.size(); ++r) {
      for (std::size_t i = 0; i < out.schedule.ranks[r].size(); ++i) {
        const Action& action = out.schedule.ranks[r][i];
        if (action.stage == stage || (action.kind == Kind::FB && action.stage_b == stage)) {
          ranks.emplace(static_cast<int>(r), out.places[r][i]);
        }
      }
    }
    return ranks;
  }

  /// Fills placement; returns the replica of each micro-batch.
  std::vector<int> place_stages() {
    Placement& placement = out.schedule.placement;
    placement.ranks = static_cast<int>(out.schedule.ranks.size());
    placement.stages = last_stage + 1;
    std::vector<std::map<int, CsvSchedule::Place>> held;
    std::size_t most = 0, least = 2;
    for (int stage = 0; stage <= last_stage; ++stage) {
      held.push_back(ranks_of(stage));
      if (held.back().empty()) {
        throw UserError(fmt::format("{}: stage {} runs on no rank, though stage {} exists", file,
                                    stage, last_stage),
                        "number the stages from 0 without gaps");
      }
      most = std::max(most, held.back().size());
      least = std::min(least, held.back().size());
    }
    if (most == 1) {
      for (const auto& ranks : held) placement.rank.push_back(ranks.begin()->first);
      return std::vector<int>(static_cast<std::size_t>(last_micro_batch + 1), 0);
    }
    if (most > 2 || least != 2) refuse_spread(held);
    return place_two_replicas();
  }

  [[noreturn]] void refuse_spread(const std::vector<std::map<int, CsvSchedule::Place>>& held) {
    const bool single = std::count_if(held.begin(), held.end(), [](const auto& ranks) {
                          return ranks.size() == 2;
                        }) != static_cast<std::ptrdiff_t>(held.size());
    for (std::size_t stage = 0; single && stage < held.size(); ++stage) {
      if (held[stage].size() < 2) continue;
      const auto first = *held[stage].begin(), second = *std::next(held[stage].begin());
      throw UserError(
          fmt::format("{}: stage {} runs on rank {} and on rank {} ({})", at(second.second), stage,
                      first.first, second.first, at(first.second)),
          "a stage has one rank, or all stages have two (a bidirectional schedule)");
    }
    throw UserError(fmt::format("{}: the two ranks of each stage make no two replicas", file),
                    "all the forwards of a micro-batch run on one replica's ranks");
  }

  std::vector<int> place_two_replicas() {
    Placement& placement = out.schedule.placement;
    const auto stages = static_cast<std::size_t>(placement.stages);
    std::vector<Path> paths(static_cast<std::size_t>(last_micro_batch + 1), Path(stages, -1));
    for (std::size_t r = 0; r < out.schedule.ranks.size(); ++r) {
      for (const Action& action : out.schedule.ranks[r]) {
        if (action.kind != Kind::F && action.kind != Kind::FB) continue;
        paths[static_cast<std::size_t>(action.micro_batch)]
             [static_cast<std::size_t>(action.stage)] = static_cast<int>(r);
      }
    }
    std::vector<Path> replicas;  // the distinct whole paths, lower entry first
    for (const Path& path : paths) {
      const bool whole = std::find(path.begin(), path.end(), -1) == path.end();
      if (whole && std::find(replicas.begin(), replicas.end(), path) == replicas.end()) {
        replicas.push_back(path);
      }
    }
    if (replicas.size() != 2) refuse_spread({});
    std::sort(replicas.begin(), replicas.end());
    placement.replicas = 2;
    for (const Path& path : replicas) {
      placement.rank.insert(placement.rank.end(), path.begin(), path.end());
    }
    std::vector<int> replica_of;  // a micro-batch with a forward missing goes where most agree
    for (const Path& path : paths) {
      std::array<int, 2> agreeing{};
      for (std::size_t s = 0; s < stages; ++s) {
        for (std::size_t k = 0; k < 2; ++k) agreeing[k] += path[s] == replicas[k][s] ? 1 : 0;
      }
      replica_of.push_back(agreeing[1] > agreeing[0] ? 1 : 0);
    }
    return replica_of;
  }

  void finish() {
    if (last_stage < 0) {
      throw UserError(fmt::format("{}: no actions", file), "give one line of actions a rank");
    }
    out.schedule.name = file;
    out.schedule.micro_batches = last_micro_batch + 1;
    const std::vector<int> replica = place_stages();
    for (auto& row : out.schedule.ranks) {
      for (Action& action : row) {
        action.replica =
            static_cast<std::int8_t>(replica[static_cast<std::size_t>(action.micro_batch)]);
        if (action.kind != Kind::FB) continue;
        action.replica_b =
            static_cast<std::int8_t>(replica[static_cast<std::size_t>(action.micro_batch_b)]);
      }
    }
  }
};

}  // namespace

CsvSchedule parse_torch_csv(std::string_view text, const std::string& file) {
  Reader reader{file};
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) {
    text.remove_suffix(1);
  }
  int number = 0;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    reader.read_line(text.substr(0, end), ++number);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  reader.finish();
  return std::move(reader.out);
}

CsvSchedule read_torch_csv(const std::string& path) {
  std::ifstream stream(path);
  std::stringstream text;
  text << stream.rdbuf();
  if (!stream) {
    throw UserError(fmt::format("schedule '{}': the file cannot be read", path),
                    "give the path of a CSV of torch.distributed.pipelining");
  }
  return parse_torch_csv(text.str(), path);
}

std::string to_torch_csv(const Schedule& schedule) {
  std::string out;
  for (const auto& row : schedule.ranks) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (i > 0) out += ',';
      out += to_text(row[i]);
      if (row[i].kind == Kind::FB) out += kPairSuffix;
    }
    out += '\n';
  }
  return out;
}

}  // namespace pipemark
