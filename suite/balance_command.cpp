// `pipemark balance`: plans without a run. `experts` is DeepSeek's balancer, or a placement that
// starts from the one in force; `partition` compares cuts of a model's layers;
// `elastic` and `train` judge and train the elastic balancer's policy.
#include "suite/balance_command.hpp"

#include <CLI/CLI.hpp>
#include <memory>

#include "suite/commands.hpp"

namespace pipemark {

void add_balance_command(CLI::App& app, Invocation& invocation) {
  CLI::App* command =
      app.add_subcommand("balance", "Plans where layers or experts go, from their loads");
  command->require_subcommand(1);
  add_balance_partition(*command, invocation);
  add_balance_experts(*command, invocation);
  add_balance_elastic(*command, invocation);
}

}  // namespace pipemark
