// A lost job ends by itself, with one message and the right exit code, long before its work (five
// minutes) would be over: this program's ctest time-out of a minute is the bound.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <string>

namespace {

using ::testing::HasSubstr;

struct Outcome {
  int exit_code = -1;
  std::string output;
};

Outcome run_job(const std::string& fault) {
  const std::string command =
      std::string(PIPEMARK_MPIRUN) + " 4 " + PIPEMARK_FAULT_JOB + " " + fault + " 2>&1";
  Outcome outcome;
  FILE* pipe = popen(command.c_str(), "r");
  for (int c; pipe != nullptr && (c = std::fgetc(pipe)) != EOF;) outcome.output += char(c);
  const int status = pipe == nullptr ? -1 : pclose(pipe);
  if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);
  return outcome;
}

int count_of(const std::string& text, const std::string& part) {
  int count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++count;
  }
  return count;
}

TEST(Fault, AKilledRankEndsTheJob) {
  const Outcome outcome = run_job("kill");
  EXPECT_NE(outcome.exit_code, 0) << outcome.output;
}

TEST(Fault, ARankThatStopsSendingIsNamedByItsReceiver) {
  const Outcome outcome = run_job("silent");
  EXPECT_EQ(outcome.exit_code, 3) << outcome.output;
  EXPECT_EQ(count_of(outcome.output, "error: "), 1) << outcome.output;
  EXPECT_EQ(count_of(outcome.output, "hint: "), 1) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("activation of stage "));
  EXPECT_THAT(outcome.output, HasSubstr("in step 3"));
}

TEST(Fault, AFaultOnAllRanksIsToldOnce) {
  const Outcome outcome = run_job("all");
  EXPECT_EQ(outcome.exit_code, 3) << outcome.output;
  EXPECT_EQ(count_of(outcome.output, "error: every rank sees this"), 1) << outcome.output;
}

}  // namespace
