// Another program's run in a record: what it tells comes back, verify() finds it sound and finds it
// changed, and a file that lacks something is refused by name.
#include "suite/peers.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "suite/verify.hpp"
#include "tests/suite/fake_report.hpp"

namespace pipemark {
namespace {
using testing::HasSubstr;
using testing::IsEmpty;

class PeersTest : public testing::Test {
 protected:
  PeersTest() {
    RunConfig config = fake_config();
    config.parallel.pipeline = 1;
    TrainReport report = fake_report();
    report.ranks = report.stages = 1;
    Record record;
    record.header = make_header("pipemark train run.toml", "cpu = test\n");
    record.header.configuration = canonical_toml(config);
    record.runs.push_back(make_run_record(config, report, 1.0));
    write_record(ours_, record);
    peer_ = {{"program", "torch"},
             {"settings", "compiled"},
             {"command", "peer.py"},
             {"like", ours_},
             {"step_s", std::vector<double>(12, 0.25)},
             {"loss", std::vector<double>(12, 5.0)},
             {"warm_up", 3},
             {"device_bytes", 4096}};
  }

  RunRecord read() {
    std::ofstream(json_) << peer_.dump();
    return read_peer_run(json_);
  }

  std::string ours_ = testing::TempDir() + "peers_ours.h5";
  std::string json_ = testing::TempDir() + "peers_peer.json";
  nlohmann::json peer_;
};

TEST_F(PeersTest, AreRunsOfTheSameTask) {
  for (const bool losses : {true, false}) {
    if (!losses) peer_["loss"] = nlohmann::json::array();
    Record record = read_record(ours_);
    record.runs.assign(1, read());
    const std::string path = testing::TempDir() + "peers_joined.h5";
    write_record(path, record);
    Record back = read_record(path);
    const RunRow& row = back.runs[0].row;
    EXPECT_EQ(row.role, kPeerRole);
    EXPECT_EQ(row.backend, "torch");
    EXPECT_THAT(row.factors, HasSubstr("compiled"));
    EXPECT_EQ(row.median_step_s, 0.25);
    EXPECT_EQ(row.tokens_per_s, static_cast<double>(row.tokens_per_step) / 0.25);
    EXPECT_EQ(row.peak_arena_bytes, 4096);
    EXPECT_EQ(std::isnan(row.last_loss), !losses);
    EXPECT_EQ(back.runs[0].values_of("step_s", true).size(), 9u);
    EXPECT_THAT(verify_record(back), IsEmpty());

    back.runs[0].row.tokens_per_s *= 1.01;
    EXPECT_FALSE(verify_record(back).empty());
    back.runs[0].row.tokens_per_s /= 1.01;
    back.runs[0].samples.pop_back();
    EXPECT_FALSE(verify_record(back).empty());
  }
}

TEST_F(PeersTest, ThatLackSomethingAreRefusedByName) {
  const auto message = [&] {
    try {
      read();
    } catch (const UserError& error) {
      return std::string(error.what());
    }
    return std::string("not refused");
  };
  peer_["step_s"] = std::vector<double>(11, 0.25);
  EXPECT_THAT(message(), HasSubstr("11 step times and 12 losses for the 12 steps"));
  peer_.erase("warm_up");
  EXPECT_THAT(message(), HasSubstr("warm_up"));
  EXPECT_THROW(read_peer_run("no such file.json"), UserError);
}

}  // namespace
}  // namespace pipemark
