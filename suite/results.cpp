#include "suite/results.hpp"

#include <filesystem>

namespace pipemark {

namespace {
std::string place(const char* group, int run) { return fmt::format("{}/{}", group, run); }

void write_header(Hdf5File& file, const RecordHeader& header) {
  file.write_attribute("/", "format", kFormatName);
  file.write_attribute("/", "schema_version", kSchemaVersion);
  file.write_attribute("/", "uuid", header.uuid);
  file.write_attribute("/", "created", header.created);
  file.write_attribute("/", "command_line", header.command_line);
  file.write_attribute("/", "git_hash", header.git_hash);
  file.write_attribute("/", "git_dirty", static_cast<std::int64_t>(header.git_dirty));
  file.write_attribute("/", "seed", header.seed);
  file.write_attribute("/", "configuration", header.configuration);
  file.write_attribute("/", "environment", header.environment);
}

RecordHeader read_header(const Hdf5File& file, const std::string& path) {
  if (!file.has_attribute("/", "format") || !file.has_attribute("/", "schema_version") ||
      file.text_attribute("/", "format") != kFormatName) {
    throw UserError(fmt::format("{}: not a Pipemark result file", path),
                    "its root must have the attributes format = \"pipemark\" and schema_version");
  }
  const std::int64_t version = file.int_attribute("/", "schema_version");
  if (version != kSchemaVersion) {
    throw UserError(fmt::format("{}: schema version {}, but this program reads {}", path, version,
                                kSchemaVersion),
                    version > kSchemaVersion ? "use the pipemark that wrote it, or a newer one"
                                             : "run it again with this pipemark");
  }
  RecordHeader header;
  header.uuid = file.text_attribute("/", "uuid");
  header.created = file.text_attribute("/", "created");
  header.command_line = file.text_attribute("/", "command_line");
  header.git_hash = file.text_attribute("/", "git_hash");
  header.git_dirty = file.int_attribute("/", "git_dirty") != 0;
  header.seed = file.int_attribute("/", "seed");
  header.configuration = file.text_attribute("/", "configuration");
  header.environment = file.text_attribute("/", "environment");
  return header;
}

void write_tables(Hdf5File& file, Record& record) {
  std::vector<RunRow> rows;
  std::vector<SampleRow> samples;
  std::vector<ConfigurationRow> configurations;
  for (RunRecord& run : record.runs) {
    const int id = static_cast<int>(rows.size());
    run.row.run = id;
    for (SampleRow& sample : run.samples) sample.run = id;
    rows.push_back(run.row);
    samples.insert(samples.end(), run.samples.begin(), run.samples.end());
    configurations.push_back({id, run.configuration});
  }
  write_table(file, "/runs", run_columns(), rows);
  write_table(file, "/samples", sample_columns(), samples);
  write_table(file, "/configurations", configuration_columns(), configurations);
  for (const auto& [metric, unit, of_experts] : sample_metrics()) {
    file.write_attribute("/samples", fmt::format("units_of_{}", metric).c_str(), std::string(unit));
  }
  for (const char* group : {"/timeline", "/predicted_timeline", "/idle", "/loss", "/memory",
                            "/layers", "/decisions", "/recoveries"}) {
    file.make_group(group);
  }
  for (const RunRecord& run : record.runs) {
    write_table(file, place("/timeline", run.row.run), timeline_columns(), run.timeline);
    write_table(file, place("/predicted_timeline", run.row.run), timeline_columns(),
                run.predicted_timeline);
    write_table(file, place("/idle", run.row.run), idle_columns(), run.idle);
    write_table(file, place("/loss", run.row.run), loss_columns(), run.losses);
    write_table(file, place("/memory", run.row.run), memory_columns(), run.memory);
    write_table(file, place("/layers", run.row.run), layer_columns(), run.layers);
    write_table(file, place("/decisions", run.row.run), decision_columns(), run.decisions);
  }
}
}  // namespace

void write_record(const std::string& path, Record& record) {
  const std::string part = path + ".part";
  {
    Hdf5File file = Hdf5File::create(part);
    write_header(file, record.header);
    write_tables(file, record);
  }
  std::error_code failed;
  std::filesystem::rename(part, path, failed);
  if (failed) {
    throw EnvironmentError(fmt::format("{}: {}", path, failed.message()),
                           fmt::format("the record lies in {}", part));
  }
}

Record read_record(const std::string& path) {
  const Hdf5File file = Hdf5File::open(path);
  Record record;
  record.header = read_header(file, path);
  for (RunRow& row : read_table(file, "/runs", run_columns())) {
    if (row.run != static_cast<int>(record.runs.size())) {
      throw UserError(
          fmt::format("{}: /runs row {} has run = {}", path, record.runs.size(), row.run),
          "runs are numbered 0, 1, ...; the file was changed");
    }
    RunRecord run;
    run.timeline = read_table(file, place("/timeline", row.run), timeline_columns());
    run.predicted_timeline =
        read_table(file, place("/predicted_timeline", row.run), timeline_columns());
    run.idle = read_table(file, place("/idle", row.run), idle_columns());
    run.losses = read_table(file, place("/loss", row.run), loss_columns());
    run.memory = read_table(file, place("/memory", row.run), memory_columns());
    run.layers = read_table(file, place("/layers", row.run), layer_columns());
    if (file.has(place("/decisions", row.run))) {  // records of before lack it
      run.decisions = read_table(file, place("/decisions", row.run), decision_columns());
    }
    run.row = std::move(row);
    record.runs.push_back(std::move(run));
  }
  const auto runs = static_cast<int>(record.runs.size());
  for (SampleRow& sample : read_table(file, "/samples", sample_columns())) {
    if (sample.run < 0 || sample.run >= runs) {
      throw UserError(
          fmt::format("{}: /samples has a row of run {}, which /runs lacks", path, sample.run),
          "the file was changed");
    }
    record.runs[static_cast<std::size_t>(sample.run)].samples.push_back(std::move(sample));
  }
  for (ConfigurationRow& row : read_table(file, "/configurations", configuration_columns())) {
    if (row.run >= 0 && row.run < runs) {
      record.runs[static_cast<std::size_t>(row.run)].configuration = std::move(row.toml);
    }
  }
  return record;
}

std::vector<double> RunRecord::values_of(const std::string& metric, bool timed_only) const {
  std::vector<double> values;
  for (const SampleRow& sample : samples) {
    if (sample.metric == metric && !(timed_only && sample.warmup)) values.push_back(sample.value);
  }
  return values;
}

}  // namespace pipemark
