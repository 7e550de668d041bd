#include "tool/metal/transcript.h"

#include <fmt/format.h>

#include <algorithm>

namespace perdure::tool::metal {
namespace {

using nlohmann::json;

// A guest that does everything right, line by line; tests break it.
std::vector<std::string> good_run(unsigned hops) {
  std::vector<std::string> lines{
      "SeaBIOS (version 1.16.2)",
      R"({"event":"boot","hop":0,"release":"perdure-metal-a","gsts":0,"firmware":"qboot","mode":"legacy"})",
      "[   0.001234] info: up"};
  for (unsigned hop = 1; hop <= hops; ++hop) {
    lines.push_back(fmt::format(R"({{"event":"jump","number":{}}})", hop));
    lines.push_back(fmt::format(
        R"({{"event":"hop","number":{},"from":"{}","to":"{}","timeline":[{{"name":"freeze","begin_ns":100,"end_ns":200}},)"
        R"({{"name":"jump","begin_ns":200,"end_ns":1200}}]}})",
        hop, hop % 2 == 1 ? "a" : "b", hop % 2 == 1 ? "b" : "a"));
    for (const char* device : {"ohci", "edu"}) {
      lines.push_back(
          fmt::format(R"({{"event":"evidence","hop":{},"device":"{}","ok":true,"numbers":{{"frames":{}}},"what":""}})",
                      hop, device, 100 * hop));
    }
  }
  lines.push_back(fmt::format(R"({{"event":"end","ok":true,"hops":{}}})", hops));
  return lines;
}

Expected two_devices(unsigned hops) {
  return {.hops = hops, .devices = {"ohci", "edu"}, .quiet = false};
}

std::vector<HopReport> heard(Transcript& transcript, const std::vector<std::string>& lines) {
  u64 now = 0;
  for (const std::string& line : lines) transcript.take(line + "\r\n", ++now);
  transcript.end();
  return transcript.take_hops();
}

std::vector<HopReport> heard(const Expected& expected, const std::vector<std::string>& lines) {
  Transcript transcript(expected);
  return heard(transcript, lines);
}

std::string problems(const std::vector<HopReport>& hops) {
  std::string all;
  for (const HopReport& hop : hops) {
    for (const std::string& p : hop.problems) all += p + "\n";
  }
  return all;
}

bool clean(const std::vector<HopReport>& hops) {
  return !hops.empty() && std::all_of(hops.begin(), hops.end(), [](const HopReport& h) { return h.clean(); });
}

TEST(Transcript, AGoodRunIsClean) {
  Transcript transcript(two_devices(2));
  const std::vector<HopReport> hops = heard(transcript, good_run(2));
  EXPECT_EQ(problems(hops), "");
  EXPECT_TRUE(clean(hops));
  ASSERT_EQ(hops.size(), 2U);
  EXPECT_EQ(hops[1].from, "b");
  EXPECT_EQ(hops[1].evidence.size(), 2U);
  EXPECT_EQ(hops[1].evidence[0].numbers.at(0), (std::pair<std::string, s64>("frames", 200)));
  EXPECT_EQ(hops[0].blackout_ns(), 1100U);
  EXPECT_TRUE(transcript.guest_content());
  EXPECT_EQ(transcript.heard().boot_ns, 2U);
}

TEST(Transcript, PiecesOfAnySizeMakeTheSame) {
  std::string whole;
  for (const std::string& line : good_run(2)) whole += line + "\n";
  for (const usize size : {usize{1}, usize{7}, usize{1000}}) {
    Transcript transcript(two_devices(2));
    for (usize at = 0; at < whole.size(); at += size) transcript.take(std::string_view(whole).substr(at, size), at);
    transcript.end();
    EXPECT_TRUE(clean(transcript.take_hops())) << size;
  }
}

// Every line of the run matters: leaving one out, giving it twice or cutting it must show.
TEST(Transcript, NoEventCanBeMissingTwiceOrCut) {
  const std::vector<std::string> good = good_run(2);
  for (usize i = 0; i < good.size(); ++i) {
    // The log, and the announcement of a jump, are no evidence.
    const bool event = good[i].front() == '{' && good[i].find("\"jump\",\"number\"") == std::string::npos;
    if (!event) continue;
    std::vector<std::string> lines = good;
    lines.erase(lines.begin() + static_cast<std::ptrdiff_t>(i));
    EXPECT_FALSE(clean(heard(two_devices(2), lines))) << "without " << good[i];
    lines = good;
    lines.insert(lines.begin() + static_cast<std::ptrdiff_t>(i), good[i]);
    EXPECT_FALSE(clean(heard(two_devices(2), lines))) << "twice " << good[i];
    lines = good;
    lines[i].resize(lines[i].size() / 2);
    EXPECT_FALSE(clean(heard(two_devices(2), lines))) << "half of " << good[i];
  }
}

TEST(Transcript, OutputThatBreaksOffAnywhereIsNoSuccess) {
  std::string whole;
  for (const std::string& line : good_run(1)) whole += line + "\n";
  for (usize length = 0; length + 1 < whole.size(); ++length) {
    Transcript transcript(two_devices(1));
    transcript.take(std::string_view(whole).substr(0, length), 0);
    transcript.end();
    const std::vector<HopReport> hops = transcript.take_hops();
    ASSERT_FALSE(clean(hops)) << "after " << length << " bytes";
    ASSERT_NE(problems(hops), "") << "after " << length << " bytes";
  }
}

TEST(Transcript, TheOrderOfEventsMatters) {
  const std::vector<std::string> good = good_run(2);
  for (usize i = 1; i + 1 < good.size(); ++i) {
    std::vector<std::string> lines = good;
    std::swap(lines[i], lines[i + 1]);
    const auto kind = [](const std::string& line) { return line.substr(0, line.find(',')); };
    // Two devices may speak in any order; a log line may stand anywhere behind the boot.
    if (kind(lines[i]) == kind(lines[i + 1]) || lines[i].front() == '[' || lines[i + 1].front() == '[') continue;
    EXPECT_FALSE(clean(heard(two_devices(2), lines))) << lines[i] << "\nbefore\n" << lines[i + 1];
  }
}

TEST(Transcript, WhatTheGuestSaysIsWrongIsWrong) {
  const auto with = [](const std::string& line) {
    std::vector<std::string> lines = good_run(1);
    lines.insert(lines.end() - 1, line);
    return heard(two_devices(1), lines);
  };
  EXPECT_TRUE(clean(with("[   0.5] info: fine")));
  EXPECT_TRUE(clean(with(R"({"event":"memory","hop":1,"frames":1})")));
  for (const char* line :
       {"[   0.5] warn: not so fine", "[   0.5] error: bad", R"({"event":"problem","what":"x"})",
        R"({"event":"quarantined","bdf":"00:03.0","stopped":true})",
        R"({"event":"evidence","hop":1,"device":"ohci","ok":false,"numbers":{},"what":"stuck"})",
        R"({"event":"evidence","hop":1,"device":"floppy","ok":true,"numbers":{}})", R"({"event":"surprise"})",
        R"({"event":7})", R"({"what":"no event"})", R"({"event":"boot","hop":0})", "{", "{]",
        R"({"event":"hop","number":2,"from":"b","to":"a","timeline":[]})", R"({"event":"jump","number":5})"}) {
    EXPECT_FALSE(clean(with(line))) << line;
  }
}

TEST(Transcript, HopsThatCannotBe) {
  const auto with_hop = [](const std::string& hop) {
    std::vector<std::string> lines = good_run(1);
    for (std::string& line : lines) {
      if (line.find("\"event\":\"hop\"") != std::string::npos) line = hop;
    }
    return heard(two_devices(1), lines);
  };
  const std::string timeline = R"("timeline":[{"name":"freeze","begin_ns":1,"end_ns":2}])";
  EXPECT_TRUE(clean(with_hop(R"({"event":"hop","number":1,"from":"a","to":"b",)" + timeline + "}")));
  for (const std::string& hop :
       {R"({"event":"hop","number":1,"from":"a","to":"a",)" + timeline + "}",
        R"({"event":"hop","number":1,"to":"b",)" + timeline + "}",
        R"({"event":"hop","number":2,"from":"a","to":"b",)" + timeline + "}",
        R"({"event":"hop","number":-1,"from":"a","to":"b",)" + timeline + "}",
        R"({"event":"hop","number":1e300,"from":"a","to":"b",)" + timeline + "}",
        std::string(R"({"event":"hop","number":1,"from":"a","to":"b"})"),
        std::string(
            R"({"event":"hop","number":1,"from":"a","to":"b","timeline":[{"name":"x","begin_ns":5,"end_ns":2}]})"),
        std::string(R"({"event":"hop","number":1,"from":"a","to":"b","timeline":[7]})"),
        std::string(R"({"event":"hop","number":1,"from":"a","to":"b","timeline":[{"begin_ns":1,"end_ns":2}]})"),
        std::string(
            R"({"event":"hop","number":1,"from":"a","to":"b","timeline":[{"name":"x","begin_ns":-1,"end_ns":2}]})")}) {
    EXPECT_FALSE(clean(with_hop(hop))) << hop;
  }
}

TEST(Transcript, HostileOutputNeitherGrowsNorReachesTheTerminal) {
  Transcript transcript(two_devices(1));
  std::string shown;
  transcript.on_line = [&](std::string_view line) { shown += line; };
  transcript.take("\x1b[2J\x07 \xff\xfe\n", 1);
  EXPECT_TRUE(std::all_of(shown.begin(), shown.end(), [](char c) { return c >= 0x20 && c < 0x7f; })) << shown;
  const std::string much(100'000, 'x');
  for (int i = 0; i < 100; ++i) transcript.take(much, 1);
  transcript.take("\n", 1);
  for (int i = 0; i < 100'000; ++i) transcript.take("{\"event\":\"nonsense\"}\n", 1);
  transcript.end();
  const std::vector<HopReport> hops = transcript.take_hops();
  ASSERT_EQ(hops.size(), 1U);
  EXPECT_LT(hops[0].problems.size(), 300U);
  EXPECT_NE(problems(hops).find("more than 1 MiB"), std::string::npos) << problems(hops).substr(0, 2000);
}

TEST(Transcript, AQuietChainHasItsEvidenceAtTheEnd) {
  Expected expected = two_devices(20);
  expected.quiet = true;
  std::vector<std::string> lines;
  for (const std::string& line : good_run(20)) {
    const bool inner = line.find("evidence") != std::string::npos && line.find("\"hop\":20,") == std::string::npos;
    if (!inner) lines.push_back(line);
  }
  const std::vector<HopReport> hops = heard(expected, lines);
  EXPECT_EQ(problems(hops), "");
  EXPECT_TRUE(clean(hops));
  EXPECT_TRUE(hops[3].evidence_is_later);
  // One who says nothing at the end is not excused by it.
  std::erase_if(lines, [](const std::string& line) { return line.find("\"device\":\"edu\"") != std::string::npos; });
  EXPECT_FALSE(clean(heard(expected, lines)));
}

TEST(Transcript, WhoWaitsAtAJumpIsTold) {
  Transcript transcript(two_devices(2));
  std::vector<unsigned> jumps;
  transcript.on_jump = [&](unsigned number) { jumps.push_back(number); };
  std::vector<std::string> lines = good_run(2);
  lines.insert(lines.begin() + 3, R"({"event":"expect","boot_info":4096})");
  heard(transcript, lines);
  EXPECT_EQ(jumps, (std::vector<unsigned>{1, 2}));
  EXPECT_EQ(transcript.expectations().at("boot_info"), 4096);
}

}  // namespace
}  // namespace perdure::tool::metal
