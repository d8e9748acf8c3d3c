// The sub-commands. Each adds itself to the CLI11 application and, when chosen, leaves what is to
// be run in `Invocation::run`; main() runs it once all arguments are read and catches once. A new
// command is one declaration here, one line in main() and a file <name>_command.cpp:
//
//   void add_schedule_command(CLI::App& app, Invocation& invocation) {
//     auto options = std::make_shared<Options>();
//     CLI::App* command = app.add_subcommand("schedule", "Draws and checks a schedule");
//     command->add_option("name", options->name, "...")->required();
//     command->callback([=, &invocation] { invocation.run = [=] { return run(*options); }; });
//   }
#pragma once

#include <functional>
#include <string>

namespace CLI {
class App;
}

namespace pipemark {

enum ExitCode { kGood = 0, kWrongResult = 1, kUserMistake = 2, kEnvironmentFault = 3 };

struct Invocation {
  std::string command_line;  ///< as typed, for the record
  /// Returns the exit code; throws UserError, EnvironmentError or anything else.
  std::function<int()> run;
};

/// One line `error: ...` and one line `hint: ...` (where there is one) on standard error.
void print_error(const std::string& what, const std::string& hint);

void add_train_command(CLI::App& app, Invocation& invocation);
void add_sweep_command(CLI::App& app, Invocation& invocation);
void add_schedule_command(CLI::App& app, Invocation& invocation);
void add_simulate_command(CLI::App& app, Invocation& invocation);
void add_verify_command(CLI::App& app, Invocation& invocation);
void add_balance_command(CLI::App& app, Invocation& invocation);
void add_fingerprint_command(CLI::App& app, Invocation& invocation);
void add_tune_command(CLI::App& app, Invocation& invocation);
void add_join_command(CLI::App& app, Invocation& invocation);

}  // namespace pipemark
