// `pipemark balance experts LOADS`: replicas of experts to devices, as text or JSON. Times are
// relative: the experts' part of a step as a multiple of a perfectly even one.
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include <memory>
#include <nlohmann/json.hpp>

#include "balancers/expert_moves.hpp"
#include "kernels/check.hpp"
#include "suite/balance_command.hpp"
#include "suite/commands.hpp"
#include "suite/load_matrix.hpp"

namespace pipemark {
namespace {

struct ExpertOptions {
  std::string loads, dataset, current, format = "text";
  ExpertGrid grid;
  MoveCosts costs{{}, 1, 1, 0};
  bool adapt = false;  ///< an option of the own placement was given
};

struct Plan {
  ExpertPlacement before;  ///< the one in force; else expert p mod E on replica p
  ExpertPlacement placement;
  ExpertBalance balance, balance_before;
  int moved = 0;
};

void check_costs(const ExpertOptions& options) {
  const auto& costs = options.costs;
  const auto refuse = [](const std::string& what, const std::string& hint) {
    throw UserError(what, hint);
  };
  if (!costs.speeds.empty() && costs.speeds.size() != static_cast<std::size_t>(options.grid.gpus)) {
    refuse(fmt::format("--speeds has {} values for {} devices", costs.speeds.size(),
                       options.grid.gpus),
           "give one speed a device, 1 for one as fast as the loads say");
  }
  for (const double speed : costs.speeds) {
    if (!(speed > 0)) refuse(fmt::format("--speeds: {}", speed), "a speed is above 0");
  }
  if (!(costs.steps > 0)) refuse(fmt::format("--steps = {}", costs.steps), "give more than 0");
  if (!(costs.move_s >= 0)) {
    refuse(fmt::format("--move-cost = {}", costs.move_s), "give 0 or more, in the loads' unit");
  }
}

Plan plan_of(const ExpertOptions& options) {
  const Matrix<float> loads = read_loads(options.loads, options.dataset);
  check_expert_grid(options.grid, loads.columns);
  check_costs(options);
  Plan plan;
  if (options.current.empty()) {
    plan.before = ExpertPlacement::plain(loads.rows, loads.columns, options.grid.replicas);
  } else {
    Matrix<int> phy2log = read_phy2log(options.current);
    if (phy2log.rows != loads.rows || phy2log.columns != options.grid.replicas) {
      throw UserError(fmt::format("{}: {} layers of {} replicas", options.current, phy2log.rows,
                                  phy2log.columns),
                      fmt::format("the loads and --replicas ask for {} layers of {}", loads.rows,
                                  options.grid.replicas));
    }
    plan.before = ExpertPlacement::of(std::move(phy2log), loads.columns);
  }
  plan.placement = options.adapt
                       ? adapt_experts(loads, options.grid, plan.before, options.costs).placement
                       : rebalance_experts(loads, options.grid);
  const int gpus = options.grid.gpus;
  plan.moved = cost_of_change(loads, gpus, plan.before, plan.placement, options.costs).moved;
  plan.balance = expert_balance(plan.placement, loads, gpus, options.costs.speeds);
  plan.balance_before = expert_balance(plan.before, loads, gpus, options.costs.speeds);
  return plan;
}

nlohmann::json rows_of(const Matrix<int>& matrix) {
  nlohmann::json rows = nlohmann::json::array();
  for (int r = 0; r < matrix.rows; ++r) {
    rows.push_back(std::vector<int>(matrix.row(r), matrix.row(r) + matrix.columns));
  }
  return rows;
}

std::string json_of(const ExpertOptions& options, const Plan& plan) {
  const ExpertPlacement& placement = plan.placement;
  nlohmann::ordered_json out;
  out["policy"] = options.grid.hierarchical() ? "hierarchical" : "global";
  out["phy2log"] = rows_of(placement.phy2log);
  nlohmann::json log2phy = nlohmann::json::array();
  for (int layer = 0; layer < placement.layers(); ++layer) {
    Matrix<int> experts(placement.experts(), placement.max_count);
    std::copy_n(placement.log2phy.row(layer), experts.values.size(), experts.values.begin());
    log2phy.push_back(rows_of(experts));
  }
  out["log2phy"] = std::move(log2phy);
  out["counts"] = rows_of(placement.counts);
  out["imbalance"] = plan.balance.imbalance;
  out["time_factor"] = plan.balance.time_factor;
  out["time_factor_before"] = plan.balance_before.time_factor;
  out["moved"] = plan.moved;
  return out.dump() + "\n";
}

std::string text_of(const ExpertOptions& options, const Plan& plan) {
  const ExpertPlacement& placement = plan.placement;
  std::string out =
      fmt::format("plan              {}, {} layers, {} experts on {} replicas, {} nodes, {} GPUs\n",
                  options.adapt                 ? "from the placement in force"
                  : options.grid.hierarchical() ? "hierarchical"
                                                : "global",
                  placement.layers(), placement.experts(), placement.replicas(), options.grid.nodes,
                  options.grid.gpus);
  const auto line = [](const char* name, const ExpertBalance& balance) {
    return fmt::format(
        "{:<17} {:.4f} x an even step; the worst layer's max/mean over GPUs {:.4f}\n", name,
        balance.time_factor, balance.worst_imbalance);
  };
  out += line(options.current.empty() ? "plain layout" : "in force", plan.balance_before);
  out += line("this plan", plan.balance);
  out += fmt::format("expert time       {:+.2f} %, {} experts brought to another GPU\n",
                     100 * (plan.balance.slowest_sum / plan.balance_before.slowest_sum - 1),
                     plan.moved);
  for (int layer = 0; layer < placement.layers(); ++layer) {
    const int* row = placement.phy2log.row(layer);
    out += fmt::format("layer {:<3} {:.4f}  {}\n", layer,
                       plan.balance.imbalance[static_cast<std::size_t>(layer)],
                       fmt::join(row, row + placement.replicas(), " "));
  }
  return out;
}

int run(const ExpertOptions& options) {
  const Plan plan = plan_of(options);
  fmt::print("{}", options.format == "json" ? json_of(options, plan) : text_of(options, plan));
  return kGood;
}
}  // namespace

void add_balance_experts(CLI::App& balance, Invocation& invocation) {
  auto options = std::make_shared<ExpertOptions>();
  CLI::App* command = balance.add_subcommand(
      "experts",
      "Replicas of experts to devices (DeepSeek's EPLB, or from the placement in force)");
  command->add_option("loads", options->loads, "JSON [[...]], CSV or HDF5; rows are layers")
      ->required();
  command->add_option("--replicas", options->grid.replicas, "physical experts of a layer")
      ->required();
  command->add_option("--groups", options->grid.groups, "groups of experts (1)");
  command->add_option("--nodes", options->grid.nodes, "nodes (1)");
  command->add_option("--gpus", options->grid.gpus, "devices on all nodes")->required();
  command->add_option("--dataset", options->dataset, "HDF5: the dataset (loads, or the only one)");
  command->add_option("--format", options->format, "text or json")
      ->check(CLI::IsMember({"text", "json"}));
  const std::vector<CLI::Option*> own{
      command->add_option("--current", options->current,
                          "the placement in force: a JSON plan; starts from it"),
      command->add_option("--move-cost", options->costs.move_s,
                          "of bringing an expert to a device, in the loads' unit"),
      command->add_option("--steps", options->costs.steps, "that the loads will hold (1)"),
      command->add_option("--speeds", options->costs.speeds, "of the devices, 1,1,0.5,...")
          ->delimiter(',')};
  command->callback([=, &invocation] {
    for (const CLI::Option* option : own) options->adapt = options->adapt || option->count() > 0;
    invocation.run = [=] { return run(*options); };
  });
}

}  // namespace pipemark
