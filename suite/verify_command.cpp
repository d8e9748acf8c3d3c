// pipemark verify R.h5: exit code 0 when every number follows, 1 with what is wrong and where.
#include <CLI/CLI.hpp>
#include <memory>

#include "suite/commands.hpp"
#include "suite/verify.hpp"

namespace pipemark {

void add_verify_command(CLI::App& app, Invocation& invocation) {
  auto file = std::make_shared<std::string>();
  CLI::App* command =
      app.add_subcommand("verify", "Recomputes a result file's numbers from its samples");
  command->add_option("file", *file, "R.h5")->required();
  command->callback([=, &invocation] {
    invocation.run = [=] {
      const Record record = read_record(*file);
      const auto faults = verify_record(record);
      if (faults.empty()) {
        fmt::print("{}: {} runs, schema {}, every derived number follows\n", *file,
                   record.runs.size(), kSchemaVersion);
        return kGood;
      }
      for (const std::string& fault : faults) fmt::print("{}: {}\n", *file, fault);
      print_error(fmt::format("{}: {} numbers or rules are wrong", *file, faults.size()),
                  "the file was changed after it was written, or a record is faulty");
      return kWrongResult;
    };
  });
}

}  // namespace pipemark
