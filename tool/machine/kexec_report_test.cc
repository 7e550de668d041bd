// What a report makes of a kernel's timeline: total, budget, words.
#include "tool/machine/kexec_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tool/machine/duration.h"

namespace perdure::tool {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Loaded at 0, then nothing until 1000; a gap of 5 before "jump".
KexecReport report() {
  return {.from = "perdure-a",
          .to = "perdure-b",
          .hop = 3,
          .phases = {{"load", 0, 900},
                     {"audit", 1000, 1010},
                     {"freeze", 1010, 1040},
                     {"jump", 1045, 1100},
                     {"ready", 1100, 1100}},
          .asked_ns = 2000,
          .log = {"a line"}};
}

TEST(KexecReport, LoadingAndWhatCameBetweenItAndTheUpdateDoNotCount) {
  EXPECT_EQ(report().total_ns(), 100u);
}

TEST(KexecReport, APhaseThatIsToldTwiceCountsOnce) {
  KexecReport r = report();
  r.phases.insert(r.phases.begin() + 2, {"part of audit", 1002, 1008});
  EXPECT_EQ(r.total_ns(), 100u);
}

TEST(KexecReport, TheBudgetIsBrokenByThePhaseInWhichItRunsOut) {
  EXPECT_EQ(report().broke(100), std::nullopt);
  EXPECT_EQ(report().broke(99), "jump");
  // The gap before "jump" is its own.
  EXPECT_EQ(report().broke(40), "jump");
  EXPECT_EQ(report().broke(39), "freeze");
  EXPECT_EQ(report().broke(0), "audit");
}

TEST(KexecReport, BetweenTheOldKernelsWorkAndTheJumpProgramsEnd) {
  const auto phases = phases_of(nlohmann::json::parse(R"({"timeline": [
    {"phase": "quiesce", "begin_ns": 10, "end_ns": 20}, {"phase": "jump", "begin_ns": 50, "end_ns": 60},
    {"phase": "carve", "begin_ns": 61, "end_ns": 70}]})"));
  ASSERT_EQ(phases.size(), 4u);
  EXPECT_EQ(phases[1].name, "programs");
  EXPECT_EQ(phases[1].begin_ns, 20u);
  EXPECT_EQ(phases[1].end_ns, 50u);
}

TEST(KexecReport, AsJsonThereAndBack) {
  const KexecReport back = kexec_report(to_json(report()));
  EXPECT_EQ(to_json(back), to_json(report()));
  EXPECT_EQ(back.broke(39), "freeze");
  EXPECT_EQ(to_json(report()).at("total_ns"), 100);
}

TEST(KexecReport, InWords) {
  const std::string text = render(report());
  EXPECT_THAT(text, HasSubstr("perdure-a -> perdure-b (hop 3)"));
  EXPECT_THAT(text, HasSubstr("jump            60 ns"));
  EXPECT_THAT(text, HasSubstr("total          100 ns"));
  EXPECT_THAT(text, HasSubstr("a line"));
  EXPECT_THAT(text, Not(HasSubstr("load")));
  EXPECT_THAT(render({.from = "a", .to = "b", .phases = {}, .log = {}}), HasSubstr("total            0 ns"));
}

TEST(KexecReport, Times) {
  EXPECT_EQ(duration_of("500ms"), 500'000'000u);
  EXPECT_EQ(duration_of("1.5 s"), 1'500'000'000u);
  EXPECT_EQ(duration_of("150us"), 150'000u);
  EXPECT_EQ(duration_of("7ns"), 7u);
  EXPECT_EQ(duration_of("20"), 20'000'000u);
  for (const char* wrong : {"", "ms", "-1s", "1h", "nan", "inf", "1e30s", "1 2", "0x10ms"}) {
    EXPECT_EQ(duration_of(wrong), std::nullopt) << wrong;
  }
}

}  // namespace
}  // namespace perdure::tool
