// pipemark: the one binary. Reads the arguments, runs one sub-command, turns what went wrong into
// one `error:` and one `hint:` line and an exit code: 0 good, 1 a wrong or regressed result, 2 the
// user's mistake, 3 the environment's.
#include <CLI/CLI.hpp>

#include "kernels/check.hpp"
#include "suite/commands.hpp"
#include "suite/environment.hpp"
#include "trainer/nearest_name.hpp"

namespace pipemark {
namespace {

/// What CLI11 says of a wrong argument, with the nearest known name.
void print_usage_error(const CLI::App& app, const CLI::ParseError& error, int argc, char** argv) {
  const CLI::App* chosen = &app;
  std::string name = "pipemark";
  int depth = 1;  // the word that chooses the next sub-command
  while (!chosen->get_subcommands().empty()) {
    chosen = chosen->get_subcommands().front();
    name += " " + chosen->get_name();
    ++depth;
  }
  const CLI::App& at = *chosen;
  std::vector<std::string> known;
  for (const CLI::App* command : at.get_subcommands({})) known.push_back(command->get_name());
  const bool needs_command = !known.empty();
  for (const CLI::Option* option : at.get_options()) known.push_back(option->get_name());
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word.rfind("--", 0) == 0) word = word.substr(0, word.find('='));
    const bool is_option = word.size() > 1 && word[0] == '-';
    const bool unknown = std::find(known.begin(), known.end(), word) == known.end();
    const bool named = std::string(error.what()).find(word) != std::string::npos;
    if (unknown && (is_option ? named : needs_command && i == depth)) {
      print_error(
          fmt::format("{}: {} \"{}\" is not known", name, is_option ? "option" : "command", word),
          fmt::format("did you mean {}? {} --help lists what there is", nearest_name(word, known),
                      name));
      return;
    }
  }
  print_error(fmt::format("{}: {}", name, error.what()),
              fmt::format("{} --help shows how it is used", name));
}

int run(int argc, char** argv) {
  Invocation invocation;
  invocation.command_line = join_command_line(argc, argv);
  CLI::App app{"Pipemark: a benchmark suite and reference trainer for pipeline parallelism"};
  app.name("pipemark");
  app.set_version_flag("--version", version_text());
  app.require_subcommand(1);
  add_train_command(app, invocation);
  add_sweep_command(app, invocation);
  add_schedule_command(app, invocation);
  add_simulate_command(app, invocation);
  add_verify_command(app, invocation);
  add_balance_command(app, invocation);
  add_fingerprint_command(app, invocation);
  add_tune_command(app, invocation);
  add_join_command(app, invocation);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    if (launched_rank() == 0) print_usage_error(app, error, argc, argv);
    return kUserMistake;
  }
  return invocation.run();
}

}  // namespace

void print_error(const std::string& what, const std::string& hint) {
  fmt::print(stderr, "error: {}\n", what);
  if (!hint.empty()) fmt::print(stderr, "hint: {}\n", hint);
}

}  // namespace pipemark

int main(int argc, char** argv) {
  using namespace pipemark;
  try {
    return run(argc, argv);
  } catch (const EnvironmentError& error) {
    print_error(error.what(), error.hint());
    return kEnvironmentFault;
  } catch (const UserError& error) {
    print_error(error.what(), error.hint());
    return kUserMistake;
  } catch (const std::exception& error) {
    print_error(error.what(), "this should not happen; please report it with the command line");
    return kEnvironmentFault;
  }
}
