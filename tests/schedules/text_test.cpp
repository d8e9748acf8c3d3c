// The text form of actions and the names of the catalogue.
#include "schedules/text.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/check.hpp"
#include "schedules/catalogue.hpp"

namespace pipemark {

namespace {

using ::testing::HasSubstr;

TEST(Text, ActionsComeBackAsTheyWere) {
  for (const char* text : {"0F0", "2F0", "3I7", "3W7", "11B130", "(0F5;7B2)", "(12F345;0B6)"}) {
    EXPECT_EQ(to_text(parse_action(text)), text);
  }
  const Action pair = parse_action("(0F5;7B2)");
  EXPECT_EQ(pair.kind, Kind::FB);
  EXPECT_EQ(pair.stage, 0);
  EXPECT_EQ(pair.micro_batch, 5);
  EXPECT_EQ(pair.stage_b, 7);
  EXPECT_EQ(pair.micro_batch_b, 2);
}

TEST(Text, RefusesWhatIsNoAction) {
  for (const char* text :
       {"", "F", "2", "2F", "F0", "2X0", "2F0x", "-1F0", "2F-1", "-0F0", " 2F0", "(0F5;7B2",
        "0F5;7B2)", "(0B5;7F2)", "(0F5)", "(0F5;7B2))", "()", "99999F0", "0F99999999999"}) {
    try {
      parse_action(text);
      ADD_FAILURE() << "'" << text << "' was taken";
    } catch (const UserError& error) {
      EXPECT_THAT(error.what(), HasSubstr(text));
      EXPECT_THAT(error.hint(), HasSubstr("2F0"));
    }
  }
}

TEST(Text, OneLineARank) {
  ScheduleRequest request;
  request.ranks = 2;
  request.micro_batches = 2;
  EXPECT_EQ(to_text(make_schedule("1f1b", request)), "0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1\n");
  EXPECT_EQ(to_text(make_schedule("gpipe", request)), "0F0 0F1 0B0 0B1\n1F0 1F1 1B0 1B1\n");
}

TEST(Catalogue, UnknownNameGetsTheNearest) {
  try {
    find_schedule("dualpip");
    FAIL();
  } catch (const UserError& error) {
    EXPECT_THAT(error.hint(), HasSubstr("'dualpipe'"));
  }
}

TEST(Catalogue, HasEveryNameOfTheCommandLine) {
  for (const char* name :
       {"gpipe", "1f1b", "interleaved-1f1b", "breadth-first", "zb-h1", "zb-h2", "zb-v", "v-half",
        "v-min", "chimera", "hanayo", "dualpipe", "dualpipev", "zb-auto"}) {
    const CatalogueRow& row = find_schedule(name);
    EXPECT_FALSE(row.title.empty());
    EXPECT_FALSE(row.paper.empty());
    EXPECT_FALSE(row.constraints.empty());
  }
}

TEST(Catalogue, RefusalsNameKeyValueAndRemedy) {
  const auto why = [](const char* name, int ranks, int micro_batches, int chunks = 0) {
    ScheduleRequest request;
    request.ranks = ranks;
    request.micro_batches = micro_batches;
    request.chunks = chunks;
    return find_schedule(name).refuse(request);
  };
  EXPECT_THAT(why("dualpipe", 3, 8), HasSubstr("ranks = 3: dualpipe needs an even number"));
  EXPECT_THAT(why("dualpipe", 4, 9), HasSubstr("micro_batches = 9: dualpipe needs an even"));
  EXPECT_THAT(why("dualpipe", 4, 6), HasSubstr("needs at least 8"));
  EXPECT_THAT(why("dualpipev", 4, 6), HasSubstr("needs at least 8"));
  EXPECT_THAT(why("chimera", 3, 4), HasSubstr("even"));
  EXPECT_THAT(why("hanayo", 4, 4, 3), HasSubstr("chunks = 3"));
  EXPECT_THAT(why("zb-v", 4, 8, 4), HasSubstr("chunks = 4"));
  for (const CatalogueRow& row : catalogue()) {
    EXPECT_THAT(why(row.name.c_str(), 0, 8), HasSubstr("ranks = 0"));
    EXPECT_THAT(why(row.name.c_str(), 4, 0), HasSubstr("micro_batches = 0"));
    EXPECT_THAT(why(row.name.c_str(), 4, 8, -1), HasSubstr("chunks = -1"));
  }
  ScheduleRequest odd;
  odd.ranks = 3;
  EXPECT_THROW(make_schedule("dualpipe", odd), UserError);
}

}  // namespace

}  // namespace pipemark
