// The terminal grid; see the header for its form.
#include "schedules/grid.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "kernels/check.hpp"
#include "schedules/palette.hpp"
#include "schedules/text.hpp"

namespace pipemark {
namespace {

constexpr int kTickColumns = 20;
constexpr const char* kReset = "\x1b[0m";

/// Background of a kind, black text.
std::string colour_of(Kind kind) { return fmt::format("\x1b[30;48;5;{}m", style_of(kind).ansi); }

/// "F3", "F3+B1", or with the stage where a rank holds several.
std::string label_of(const Action& action, bool with_stage) {
  if (with_stage) return to_text(action);
  std::string text = to_text(action);
  if (action.kind != Kind::FB) return text.substr(text.find_first_not_of("0123456789"));
  return fmt::format("F{}+B{}", action.micro_batch, action.micro_batch_b);
}

struct Scale {
  double start = 0, per_column = 1;
  std::size_t column(double time) const {
    return static_cast<std::size_t>(std::llround((time - start) / per_column));
  }
};

/// The scale at which each action is a column wider than its label.
Scale scale_of(const Timeline& timeline, bool with_stage) {
  Scale scale{std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
  for (const auto& row : timeline.ranks) {
    for (const TimedAction& timed : row) {
      const auto needed = static_cast<double>(label_of(timed.action, with_stage).size() + 1);
      scale.start = std::min(scale.start, timed.start_s);
      const double duration = timed.end_s - timed.start_s;
      if (duration > 0) scale.per_column = std::min(scale.per_column, duration / needed);
    }
  }
  check(std::isfinite(scale.per_column), "render_grid: a timeline of no time cannot be drawn");
  return scale;
}

/// One line of cells of at most `columns`; colours do not count.
std::string cells_of(const std::vector<TimedAction>& row, const Scale& scale, std::size_t columns,
                     bool with_stage, bool colour) {
  std::string out;
  std::size_t at = 0;
  for (const TimedAction& timed : row) {
    const std::size_t begin = std::min(scale.column(timed.start_s), columns);
    const std::size_t end = std::min(scale.column(timed.end_s), columns);
    if (begin > at) out.append(begin - at, '.');
    at = std::max(at, begin);
    if (end <= at) continue;
    std::string cell = label_of(timed.action, with_stage).substr(0, end - at);
    cell.resize(end - at, colour ? ' ' : '-');
    // The last column of a cell is a gap, so that neighbours are told apart.
    if (end < columns && cell.size() > 1) cell.back() = colour ? ' ' : '|';
    if (colour) {
      out += colour_of(timed.action.kind) + cell.substr(0, cell.size() - 1) + kReset + cell.back();
    } else {
      out += cell;
    }
    at = end;
  }
  if (at < columns) out.append(columns - at, '.');
  return out;
}

std::string axis_of(const Scale& scale, std::size_t columns) {
  std::string axis;
  for (std::size_t at = 0; at < columns; at += kTickColumns) {
    axis.resize(at, ' ');
    axis += fmt::format("{:.4g}", static_cast<double>(at) * scale.per_column);
  }
  return axis.substr(0, columns);
}

std::string legend_of(const Schedule& schedule, bool with_stage, bool colour) {
  std::string out = "legend ";
  for (const KindStyle& style : kKindStyles) {
    const bool used = std::any_of(
        schedule.ranks.begin(), schedule.ranks.end(), [&](const std::vector<Action>& row) {
          return std::any_of(row.begin(), row.end(),
                             [&](const Action& action) { return action.kind == style.kind; });
        });
    if (!used) continue;
    out += colour ? fmt::format("{}{}{}  ", colour_of(style.kind), style.text, kReset)
                  : fmt::format("{}  ", style.text);
  }
  return out +
         (with_stage ? "(stage, kind, micro-batch)  . idle\n" : "(with the micro-batch)  . idle\n");
}

}  // namespace

std::string render_grid(const Schedule& schedule, const Timeline& timeline,
                        const GridOptions& options) {
  const bool with_stage =
      schedule.placement.stages * schedule.placement.replicas > schedule.placement.ranks;
  const Scale scale = scale_of(timeline, with_stage);
  const std::string last = fmt::format("rank {}", timeline.ranks.size() - 1);
  const std::size_t margin = std::max<std::size_t>(last.size(), 6) + 1;
  const std::size_t whole = scale.column(scale.start + timeline.makespan_s());
  std::size_t columns = whole;
  if (options.width > 0) {
    const auto width = static_cast<std::size_t>(options.width);
    if (margin + whole > width) columns = width > margin + 2 ? width - margin - 1 : 1;
  }
  const bool cut = columns < whole;
  std::string out = fmt::format("{:<{}}{}\n", "time", margin, axis_of(scale, columns));
  for (std::size_t r = 0; r < timeline.ranks.size(); ++r) {
    out += fmt::format("{:<{}}{}{}\n", fmt::format("rank {}", r), margin,
                       cells_of(timeline.ranks[r], scale, columns, with_stage, options.colour),
                       cut ? ">" : "");
  }
  if (cut) {
    out += fmt::format("> cut at time {:.4g} of {:.4g}: {} of {} columns; --width 0 shows all\n",
                       static_cast<double>(columns) * scale.per_column, timeline.makespan_s(),
                       columns, whole);
  }
  return out + legend_of(schedule, with_stage, options.colour);
}

}  // namespace pipemark
