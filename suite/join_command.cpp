// pipemark join -o OUT.h5 FILE...: the runs of several records, and peers' runs told in JSON
// (suite/peers.hpp), in one record. Configuration and environment are the first file's.
#include <CLI/CLI.hpp>
#include <memory>

#include "suite/commands.hpp"
#include "suite/peers.hpp"

namespace pipemark {

namespace {
struct JoinOptions {
  std::string output, command_line;
  std::vector<std::string> files;
};

int run_join(const JoinOptions& options) {
  Record joined = read_record(options.files.front());
  joined.header.uuid = make_header("", "").uuid;
  joined.header.command_line = options.command_line;
  for (std::size_t i = 1; i < options.files.size(); ++i) {
    const std::string& file = options.files[i];
    if (file.ends_with(".json")) {
      joined.runs.push_back(read_peer_run(file));
      continue;
    }
    for (RunRecord& run : read_record(file).runs) {
      if (run.row.reference_run >= 0) {
        throw UserError(
            fmt::format("{}: run {} rests on a reference run of its file", file, run.row.run),
            "only files of independent runs can be joined");
      }
      joined.runs.push_back(std::move(run));
    }
  }
  write_record(options.output, joined);
  fmt::print("{}: {} runs of {} files\n", options.output, joined.runs.size(), options.files.size());
  return kGood;
}
}  // namespace

void add_join_command(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<JoinOptions>();
  CLI::App* command =
      app.add_subcommand("join", "Joins records, and other programs' runs, into one record");
  command->add_option("files", options->files, "R.h5, then R.h5 or a peer's JSON")->required();
  command->add_option("-o,--output", options->output, "OUT.h5")->required();
  command->callback([=, &invocation] {
    options->command_line = invocation.command_line;
    invocation.run = [=] { return run_join(*options); };
  });
}

}  // namespace pipemark
