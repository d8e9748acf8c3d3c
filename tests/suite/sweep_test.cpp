// Planning, order, resuming, stopping and judging of a sweep, with a runner that trains nothing.
#include "suite/sweep.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <numeric>

#include "kernels/check.hpp"
#include "suite/verify.hpp"
#include "tests/suite/fake_report.hpp"

namespace pipemark {
namespace {
using testing::HasSubstr;
using testing::IsEmpty;

SweepPlan plan(const std::string& rules, const std::string& factors) {
  const std::string folder = testing::TempDir();
  std::ofstream(folder + "sweep_base.toml") << "[train]\nsteps = 12\nbatch = 8\nmicro_batches = 4\n"
                                               "[parallel]\npipeline = 2\n";
  std::ofstream(folder + "sweep.toml") << "[base]\npath = \"sweep_base.toml\"\n[factors]\n"
                                       << factors << "[rules]\n"
                                       << rules;
  return plan_sweep(folder + "sweep.toml", folder + "sweep_test.h5");
}
const char* const kFactors =
    "\"schedule.name\" = [\"1f1b\", \"dualpipe\"]\n\"train.micro_batches\" = [4, 2]\n";

/// Step times spread by `spread`; losses moved by `shift` unless it is the reference.
CellRunner fake_runner(int& calls, double spread = 0.001, double shift = 0) {
  return [&calls, spread, shift](const RunConfig& config, const SweepRules&) {
    ++calls;
    TrainReport report = fake_report();
    report.micro_batches = config.train.micro_batches;
    report.ranks = config.parallel.ranks();
    report.tokens_per_step = config.train.batch * config.model.context;
    report.rank_reports.resize(static_cast<std::size_t>(report.ranks));
    report.timeline.ranks.resize(static_cast<std::size_t>(report.ranks));
    report.idle.total = {report.timeline.bubble_ratio(), 0, 0, 0};
    report.idle.ranks.assign(static_cast<std::size_t>(report.ranks), report.idle.total);
    for (auto& step : report.steps) {
      step.step_s = 0.1 * (1 + spread * static_cast<double>(step.step));
      if (report.ranks > 1) step.loss += shift;
    }
    return make_run_record(config, report, 1.0);
  };
}

TEST(SweepPlan, CellsInFactorOrderAndRefusals) {
  const SweepPlan p = plan("", kFactors);
  ASSERT_EQ(p.cells.size(), 4u);
  EXPECT_EQ(p.cells[1].factors, "schedule.name = 1f1b; train.micro_batches = 2");
  EXPECT_EQ(p.cells[2].config.schedule.name, "dualpipe");
  EXPECT_EQ(p.cells[2].refused, "");
  EXPECT_NE(p.cells[3].refused, "");  // DualPipe on 2 ranks needs 4 micro-batches
  EXPECT_EQ(p.references.size(), 2u);
  EXPECT_EQ(p.references[0].parallel.ranks(), 1);
  EXPECT_EQ(p.cells[0].reference, p.cells[2].reference);
}

TEST(SweepPlan, MistakesNameTheKey) {
  const auto error_of = [](const std::string& rules, const std::string& factors) -> std::string {
    try {
      plan(rules, factors);
    } catch (const UserError& error) {
      return std::string(error.what()) + " | " + error.hint();
    }
    return "";
  };
  EXPECT_THAT(error_of("repetition = 3\n", ""), HasSubstr("did you mean repetitions?"));
  EXPECT_THAT(error_of("repetitions = 0\n", ""), HasSubstr("at least 1"));
  EXPECT_THAT(error_of("", "\"schedule.nam\" = [\"1f1b\"]\n"), HasSubstr("schedule.name"));
  EXPECT_THAT(error_of("", "\"train.batch\" = [\"8\"]\n"), HasSubstr("whole number"));
  EXPECT_THAT(error_of("", "\"train.batch\" = 8\n"), HasSubstr("no list"));
}

TEST(BlockOrder, IsAPermutationThatChangesWithTheBlock) {
  auto order = block_order(20, 0, 1);
  EXPECT_EQ(order, block_order(20, 0, 1));
  EXPECT_NE(order, block_order(20, 1, 1));
  EXPECT_NE(order, block_order(20, 0, 2));
  std::sort(order.begin(), order.end());
  std::vector<int> all(20);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(order, all);
}

TEST(Sweep, RecordsAllAndResumesWithoutRunningAgain) {
  const SweepPlan p = plan("ci_half_width = 0.5\n", kFactors);
  int calls = 0;
  const Record record = run_sweep(p, fake_runner(calls), {}, "test");
  EXPECT_EQ(calls, 2 + 3);
  ASSERT_EQ(record.runs.size(), 2u + 4u);
  EXPECT_THAT(verify_record(read_record(p.output)), IsEmpty());
  const auto refused = std::find_if(record.runs.begin(), record.runs.end(),
                                    [](auto& run) { return run.row.cell == 3; });
  ASSERT_NE(refused, record.runs.end());
  EXPECT_THAT(refused->row.failure, HasSubstr("refused"));

  const Record again = run_sweep(p, fake_runner(calls), read_record(p.output), "test");
  EXPECT_EQ(calls, 5);
  EXPECT_EQ(again.runs.size(), record.runs.size());
  const SweepPlan other = plan("ci_half_width = 0.5\n", "\"train.seed\" = [2]\n");
  run_sweep(other, fake_runner(calls), record, "test");
  EXPECT_EQ(calls, 7);  // another configuration: nothing is taken over
}

TEST(Sweep, StopsByTheIntervalOrTheCap) {
  const std::string one = "\"schedule.name\" = [\"1f1b\"]\n";
  int calls = 0;
  const Record narrow = run_sweep(plan("max_repetitions = 4\nci_half_width = 0.1\n", one),
                                  fake_runner(calls, 0.001), {}, "");
  EXPECT_EQ(narrow.runs.size(), 2u);
  EXPECT_EQ(narrow.runs.back().row.stopped_by, "narrow interval");
  const Record capped = run_sweep(plan("max_repetitions = 4\nci_half_width = 0.001\n", one),
                                  fake_runner(calls, 0.1), {}, "");
  EXPECT_EQ(capped.runs.size(), 5u);
  EXPECT_EQ(capped.runs.back().row.stopped_by, "cap");
}

TEST(Sweep, LossesThatDifferFromTheReferenceAreInvalid) {
  int calls = 0;
  const SweepPlan p = plan("", "\"schedule.name\" = [\"1f1b\"]\n");
  EXPECT_TRUE(run_sweep(p, fake_runner(calls), {}, "").runs.back().row.valid);
  const Record wrong = run_sweep(p, fake_runner(calls, 0.001, 1e-3), {}, "");
  EXPECT_FALSE(wrong.runs.back().row.valid);
  EXPECT_THAT(wrong.runs.back().row.invalid_reason, HasSubstr("losses differ"));
}

TEST(Sweep, AFailedCellHasARowAndIsTriedAgainOnResume) {
  const SweepPlan p = plan("", "\"schedule.name\" = [\"1f1b\"]\n");
  int calls = 0;
  const CellRunner good = fake_runner(calls);
  const CellRunner failing = [&](const RunConfig& config, const SweepRules& rules) {
    if (config.parallel.ranks() == 1) return good(config, rules);
    RunRecord run;
    run.configuration = canonical_toml(config);
    run.row.failure = "timed out after 1 s";
    run.row.invalid_reason = "the run is not complete";
    return run;
  };
  const Record failed = run_sweep(p, failing, {}, "");
  EXPECT_EQ(failed.runs.back().row.failure, "timed out after 1 s");
  EXPECT_THAT(verify_record(failed), IsEmpty());
  EXPECT_TRUE(run_sweep(p, good, failed, "").runs.back().row.valid);
}

TEST(RunProcess, ExitCodesAndTheTimeOutOfAGroup) {
  const std::string log = testing::TempDir() + "process.log";
  EXPECT_EQ(run_process({"sh", "-c", "exit 7"}, log, 10).exit_code, 7);
  EXPECT_THROW(run_process({"/nowhere/mpirun"}, log, 10), EnvironmentError);
  const ProcessResult slow = run_process({"sh", "-c", "sleep 60 & echo $!; wait"}, log, 0.2);
  EXPECT_TRUE(slow.timed_out);
  std::string child;
  std::ifstream(log) >> child;
  std::string state;  // the group's sleep is gone, or a zombie that nobody has reaped yet
  for (std::ifstream in("/proc/" + child + "/status"); std::getline(in, state);) {
    if (state.rfind("State:", 0) == 0) break;
  }
  EXPECT_TRUE(state.empty() || state.find('Z') != std::string::npos) << state;
}

TEST(LaunchWords, TemplateIsFilled) {
  EXPECT_EQ(launch_words("srun -n {ranks} --mpi=pmix", 6),
            (std::vector<std::string>{"srun", "-n", "6", "--mpi=pmix"}));
}

}  // namespace
}  // namespace pipemark
