#include "suite/schedule_table.hpp"

#include <algorithm>
#include <cmath>

#include "schedules/simulate.hpp"

namespace pipemark {
namespace {

constexpr int kRanks = 8, kMicroBatches = 20;
/// Sums of some thousand times in another order: n 2^-53 of the sum.
constexpr double kSame = 1e-9;

/// One cell: what is published, what the simulation gives (by rank), and how they compare.
std::string cell(double published, const std::vector<double>& simulated) {
  const auto [least, most] = std::minmax_element(simulated.begin(), simulated.end());
  const double slack = kSame * std::max(1.0, std::abs(published));
  const bool above = *most > published + slack, below = *least < published - slack;
  const char* mark = above ? "differs" : below ? "bound" : "exact";
  const std::string shown = *most - *least <= slack ? fmt::format("{:.6g}", *most)
                                                    : fmt::format("{:.6g}..{:.6g}", *least, *most);
  return fmt::format("{:.6g} | {} {}", published, shown, mark);
}

/// A catalogue row at one size, in the times of 1/P of the model of the row's own ranks.
struct TableRow {
  std::string title;
  const CatalogueRow* row;
  ScheduleRequest request;
  StageCost whole;
  double unit =
      1;  ///< activations and parameters: 1/P of the model of the row in those of the table
};

struct Figures {
  std::vector<double> bubble, activations, parameters;  ///< by rank
};

Figures simulate_row(const TableRow& table, double message) {
  const Schedule schedule = table.row->generate(table.request);
  const Placement& placement = schedule.placement;
  CostModel cost = CostModel::uniform(placement.ranks, placement.stages, table.whole, message);
  cost.overlap = table.request.overlap;
  const Simulation made = simulate(schedule, cost, true);
  Figures figures;
  const double share = static_cast<double>(placement.ranks) / placement.stages;
  for (int r = 0; r < placement.ranks; ++r) {
    const auto& timeline = made.timeline.ranks[static_cast<std::size_t>(r)];
    const double span = table.row->closed_form.of_span
                            ? timeline.back().end_s - timeline.front().start_s
                            : made.makespan;
    figures.bubble.push_back(span - made.busy[static_cast<std::size_t>(r)]);
    figures.activations.push_back(made.peak_activations[static_cast<std::size_t>(r)] * table.unit);
    figures.parameters.push_back(static_cast<double>(placement.held_by(r).size()) * share *
                                 table.unit);
  }
  // Of spans the longest counts, as in span_bubble_rate.
  if (table.row->closed_form.of_span) {
    figures.bubble = {*std::max_element(figures.bubble.begin(), figures.bubble.end())};
  }
  return figures;
}

std::string line(const std::vector<std::string>& cells) {
  constexpr int kWidths[] = {36, 24, 26, 26};
  std::string out;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    out += i + 1 == cells.size() ? cells[i] : fmt::format("{:<{}}", cells[i], kWidths[i]);
  }
  out.erase(out.find_last_not_of(' ') + 1);
  return out + "\n";
}

std::string row_of(const TableRow& table, double message) {
  const CatalogueRow& row = *table.row;
  if (const std::string why = row.refuse(table.request); !why.empty()) {
    return line({table.title, "not at this size: " + why});
  }
  const ClosedForm& form = row.closed_form;
  const Figures figures = simulate_row(table, message);
  std::string bubble = "no closed form", activations = bubble, reason;
  if (form.bubble) {
    bubble = cell(form.bubble(table.request, table.whole.forward, table.whole.input_grad,
                              table.whole.weight_grad),
                  figures.bubble);
    if (!bubble.ends_with("exact")) {
      reason = message > 0 ? "the form is without messages" : "the form assumes " + form.assumes;
    }
  }
  if (form.peak_activations) {
    double most = 0;
    for (int r = 0; r < table.request.ranks; ++r) {
      most = std::max(most, form.peak_activations(table.request, r));
    }
    activations = cell(most * table.unit, figures.activations);
    if (activations.ends_with("bound")) {
      reason += (reason.empty() ? "" : "; ") + std::string("the form is of the fullest rank");
    }
  }
  return line({table.title, cell(form.parameters * table.unit, figures.parameters), activations,
               bubble, reason});
}

}  // namespace

std::string schedule_table(const ScheduleOptions& options) {
  if (!options.uniform()) {
    throw UserError("--table compares closed forms, which are for equal stages",
                    "give one --time-forward, --time-input-grad and --time-weight-grad");
  }
  ScheduleOptions sized = options;
  if (sized.ranks == 0) sized.ranks = kRanks;
  if (sized.micro_batches == 0) sized.micro_batches = kMicroBatches;
  ScheduleRequest request = request_of(sized);
  request.overlap = options.overlap();
  const StageCost whole = options.whole();
  const std::string head =
      line({"", "parameters", "activations", "bubble", ""}) +
      line({"", "published | simulated", "published | simulated", "published | simulated", ""});
  std::string out = fmt::format(
      "{} stages, {} micro-batches, F {:g}, I {:g}, W {:g}, FB {:g}, messages {:g}; exact: equal; "
      "bound: at most; differs: more\n\n",
      sized.ranks, sized.micro_batches, whole.forward, whole.input_grad, whole.weight_grad,
      request.overlap * (whole.forward + whole.backward()), options.message);
  out +=
      "DeepSeek-AI, DualPipe repository: 1F1B, ZB1P, DualPipe, DualPipeV (B the full backward)\n" +
      head;
  const auto add = [&](std::string title, const char* name, const ScheduleRequest& of,
                       StageCost times, double unit) {
    out += row_of({std::move(title), &find_schedule(name), of, times, unit}, options.message);
  };
  add("1F1B: (P-1)(F+B)", "1f1b", request, whole, 1);
  add("ZB1P: (P-1)(F+B-2W)", "zb-h1", request, whole, 1);
  add("DualPipe: (P/2-1)(FB+B-3W)", "dualpipe", request, whole, 1);
  // The P stages lie on P/2 ranks: each has 2/P of the model, and takes twice the times.
  ScheduleRequest half = request;
  half.ranks = request.ranks / 2;
  const StageCost twice{2 * whole.forward, 2 * whole.input_grad, 2 * whole.weight_grad};
  add(fmt::format("DualPipeV on {} ranks: as DualPipe", half.ranks), "dualpipev", half, twice, 2);
  out += fmt::format("\nEvery schedule on {} ranks\n", sized.ranks) + head;
  for (const CatalogueRow& row : catalogue()) {
    if (row.name != "zb-auto") add(row.name, row.name.c_str(), request, whole, 1);
  }
  return out;
}

}  // namespace pipemark
