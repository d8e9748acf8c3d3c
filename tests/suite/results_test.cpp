// A record comes back as it was written; a changed number fails verify, which names it.
#include "suite/results.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "suite/verify.hpp"
#include "tests/suite/fake_report.hpp"

namespace pipemark {
namespace {
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Record fake_record() {
  Record record;
  record.header = make_header("pipemark train run.toml", "cpu = test\n");
  record.header.configuration = canonical_toml(fake_config());
  record.runs.push_back(make_run_record(fake_config(), fake_report(), 1.0));
  return record;
}

// The file stays for check_record.py (a ctest that needs this one).
TEST(Results, ComeBackAsTheyWereWritten) {
  Record record = fake_record();
  write_record("suite_record.h5", record);
  EXPECT_FALSE(std::filesystem::exists("suite_record.h5.part"));
  const Record back = read_record("suite_record.h5");
  EXPECT_EQ(back.header.uuid, record.header.uuid);
  EXPECT_EQ(back.header.configuration, record.header.configuration);
  ASSERT_EQ(back.runs.size(), 1u);
  const RunRecord& run = back.runs[0];
  EXPECT_EQ(run.configuration, record.runs[0].configuration);
  EXPECT_EQ(run.row.median_step_s, record.runs[0].row.median_step_s);
  EXPECT_TRUE(std::isnan(run.row.mfu));
  EXPECT_TRUE(run.row.valid);
  EXPECT_EQ(run.row.invalid_reason, "");
  const auto dense = std::count_if(sample_metrics().begin(), sample_metrics().end(),
                                   [](const SampleMetric& metric) { return !metric.of_experts; });
  EXPECT_EQ(static_cast<std::ptrdiff_t>(run.samples.size()), 12 * dense);
  EXPECT_EQ(run.timeline.size(), 8u);
  EXPECT_EQ(run.timeline[3].action, "0B1");
  EXPECT_EQ(run.memory[1].arena_bytes, 1001);
  ASSERT_EQ(run.decisions.size(), 1u);
  EXPECT_EQ(run.decisions[0].partition, "0 3 6");
  EXPECT_EQ(run.decisions[0].reason, "rank 1 is 1.5 times slower");
  EXPECT_TRUE(run.decisions[0].applied);
  EXPECT_EQ(run.decisions[0].moved_bytes, 4096);
  EXPECT_THAT(verify_record(back), IsEmpty());
}

TEST(Results, MergedFilesAreNumberedAnew) {
  Record record = fake_record();
  record.runs.push_back(record.runs[0]);
  const std::string path = testing::TempDir() + "merged.h5";
  write_record(path, record);
  const Record back = read_record(path);
  EXPECT_EQ(back.runs[1].row.run, 1);
  EXPECT_EQ(back.runs[1].samples.size(), back.runs[0].samples.size());
  EXPECT_THAT(verify_record(back), IsEmpty());
}

TEST(Results, AnotherSchemaOrNoRecordIsRefused) {
  const std::string path = testing::TempDir() + "schema.h5";
  {
    Hdf5File file = Hdf5File::create(path);
    file.write_attribute("/", "format", kFormatName);
    file.write_attribute("/", "schema_version", kSchemaVersion + 1);
  }
  EXPECT_THROW(
      {
        try {
          read_record(path);
        } catch (const UserError& error) {
          EXPECT_THAT(error.what(), HasSubstr("schema version 3"));
          throw;
        }
      },
      UserError);
  { Hdf5File::create(path); }
  EXPECT_THROW(read_record(path), UserError);
  EXPECT_THROW(read_record("/nowhere.h5"), UserError);
  EXPECT_THROW(read_record("/proc/self/exe"), UserError);
}

TEST(Results, AnIncompleteRunIsTruthful) {
  TrainReport report = fake_report();
  report.steps.resize(3);
  report.timeline = {};
  report.complete = false;
  report.failure = "rank 1 died";
  Record record;
  record.runs.push_back(make_run_record(fake_config(), report, 1.0));
  RunRow& row = record.runs[0].row;
  EXPECT_FALSE(row.valid);
  EXPECT_EQ(row.steps_done, 3);
  EXPECT_TRUE(std::isnan(row.bubble_ratio));
  EXPECT_THAT(verify_record(record), IsEmpty());
  row.complete = true;
  EXPECT_THAT(verify_record(record), testing::Contains(HasSubstr("/runs[0].complete")));
}

struct Tamper {
  const char* named;
  void (*change)(RunRecord&);
};
class Verify : public testing::TestWithParam<Tamper> {};

TEST_P(Verify, NamesWhatWasChanged) {
  Record record = fake_record();
  ASSERT_THAT(verify_record(record), IsEmpty());
  GetParam().change(record.runs[0]);
  EXPECT_THAT(verify_record(record), testing::Contains(HasSubstr(GetParam().named)));
}

INSTANTIATE_TEST_SUITE_P(
    Numbers, Verify,
    testing::Values(
        Tamper{".median_step_s is", [](RunRecord& r) { r.row.median_step_s *= 1.000001; }},
        Tamper{".ci_low_s is", [](RunRecord& r) { r.row.ci_low_s *= 0.99; }},
        Tamper{".tokens_per_s is", [](RunRecord& r) { r.row.tokens_per_s *= 2; }},
        Tamper{".model_flops_per_s is", [](RunRecord& r) { r.row.model_flops_per_s *= 2; }},
        Tamper{".bubble_ratio is", [](RunRecord& r) { r.row.bubble_ratio -= 1e-6; }},
        Tamper{".bubble_ratio is", [](RunRecord& r) { r.timeline[0].end_s -= 0.5; }},
        Tamper{".span_bubble_rate is", [](RunRecord& r) { r.row.span_bubble_rate = 0; }},
        Tamper{".makespan_error is", [](RunRecord& r) { r.row.predicted_makespan_s = 3; }},
        Tamper{".idle_* is", [](RunRecord& r) { r.row.idle_overhead = 0; }},
        Tamper{".last_loss is", [](RunRecord& r) { r.row.last_loss = 1; }},
        Tamper{"/loss/0[4].loss is", [](RunRecord& r) { r.losses[4].loss = 1; }},
        Tamper{".steps_done is", [](RunRecord& r) { r.samples.pop_back(); }},
        Tamper{".peak_arena_bytes is", [](RunRecord& r) { r.row.peak_arena_bytes = 1; }},
        Tamper{".ranks is", [](RunRecord& r) { r.row.ranks = 4; }},
        Tamper{".valid is true but it is measured", [](RunRecord& r) { r.row.ranks_per_core = 2; }},
        Tamper{".valid is true but its ranks shared",
               [](RunRecord& r) { r.row.evidence = "oversubscribed"; }},
        Tamper{".valid is true but the loss of step 3",
               [](RunRecord& r) { r.losses[3].loss = NAN; }},
        Tamper{".reference_run is", [](RunRecord& r) { r.row.reference_run = 0; }}));

TEST(ReferenceLoss, BoundGrowsWithTheSteps) {
  const std::vector<LossRow> reference = {{0, 5}, {1, 4}, {2, 3}};
  auto losses = reference;
  EXPECT_EQ(reference_loss_error(losses, reference, 1e-5), 0);
  losses[2].loss += 3 * 2.9e-5;
  EXPECT_NEAR(reference_loss_error(losses, reference, 1e-5), 2.9 / 3, 1e-6);
  losses[0].loss += 5 * 1.1e-5;
  EXPECT_GT(reference_loss_error(losses, reference, 1e-5), 1);
  losses.pop_back();
  EXPECT_TRUE(std::isinf(reference_loss_error(losses, reference, 1e-5)));
}

}  // namespace
}  // namespace pipemark
