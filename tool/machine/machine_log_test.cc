// Logs: lines with their time, no longer than they may be, and nothing that steers a terminal.
#include "tool/machine/machine_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "tool/machine/run_directory.h"
#include "tool/machine/runtime_directory.h"

namespace perdure::tool {
namespace {

using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class MachineLogTest : public ::testing::Test {
 protected:
  std::string contents(const std::filesystem::path& file) const {
    std::ifstream in(file, std::ios::binary);
    return {(std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>()};
  }
  static void kernel_says(const MachineLog& log, std::string_view text) {
    ASSERT_EQ(write(log.kernel_end(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  RunDirectory directory_;
  std::filesystem::path file_ = directory_.path() / "log";
};

TEST_F(MachineLogTest, WhatWasWrittenBeforeSyncIsThereAfterIt) {
  MachineLog log(file_, 1 << 20, false);
  kernel_says(log, "one\ntwo\nthr");
  log.sync();
  u64 seen = 0;
  EXPECT_THAT(log.after(seen), ElementsAre(EndsWith("Z one"), EndsWith("Z two")));
  EXPECT_EQ(seen, 2u);
  kernel_says(log, "ee\n");
  log.say("four");
  EXPECT_THAT(log.after(seen), ElementsAre(EndsWith("Z three"), EndsWith("Z machine: four")));
  EXPECT_THAT(log.after(seen), IsEmpty());
  EXPECT_THAT(contents(file_), HasSubstr("Z two\n"));
}

TEST_F(MachineLogTest, TheFileIsForItsUserAlone) {
  const MachineLog log(file_, 1 << 20, false);
  struct stat st = {};
  ASSERT_EQ(stat(file_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u);
}

TEST_F(MachineLogTest, TheFileAndTheOneBeforeItStayBelowTheLimit) {
  constexpr u64 kLimit = 4096;
  MachineLog log(file_, kLimit, false);
  for (int i = 0; i < 500; ++i) log.say("line " + std::to_string(i));
  EXPECT_LE(std::filesystem::file_size(file_), kLimit);
  EXPECT_LE(std::filesystem::file_size(directory_.path() / "log.1"), kLimit);
  EXPECT_GT(std::filesystem::file_size(directory_.path() / "log.1"), kLimit / 2);
  EXPECT_THAT(contents(file_), EndsWith("machine: line 499\n"));
}

TEST_F(MachineLogTest, OldLinesAreForgottenAndNumbersGoOn) {
  MachineLog log(file_, 1 << 20, false);
  for (int i = 0; i < 1500; ++i) log.say(std::to_string(i));
  EXPECT_EQ(log.last(), 1500u);
  u64 seen = 10;
  const auto lines = log.after(seen);
  EXPECT_THAT(lines, SizeIs(1000));
  EXPECT_THAT(lines.back(), EndsWith(" 1499"));
  EXPECT_EQ(seen, 1500u);
}

TEST_F(MachineLogTest, ControlCharactersAndEndlessLinesAreTamed) {
  MachineLog log(file_, 1 << 20, false);
  kernel_says(log, "a\x1b[2Jb\n");
  kernel_says(log, std::string(10'000, 'x'));
  log.sync();
  u64 seen = 0;
  const auto lines = log.after(seen);
  ASSERT_THAT(lines, SizeIs(::testing::Ge(2u)));
  EXPECT_THAT(lines[0], EndsWith("a?[2Jb"));
  for (const std::string& line : lines) EXPECT_LT(line.size(), 10'000u);
}

TEST_F(MachineLogTest, AFileThatCannotBeMadeIsAnError) {
  EXPECT_THROW(MachineLog(directory_.path() / "none" / "log", 4096, false), MachineError);
  // Nobody else's file is written to.
  ASSERT_EQ(symlink("/dev/null", file_.c_str()), 0);
  EXPECT_THROW(MachineLog(file_, 4096, false), MachineError);
}

TEST_F(MachineLogTest, WhoWaitsIsWokenByALine) {
  MachineLog log(file_, 1 << 20, false);
  EXPECT_FALSE(log.wait(0, 1));
  std::thread speaker([&] { log.say("now"); });
  EXPECT_TRUE(log.wait(0, 60'000));
  speaker.join();
}

}  // namespace
}  // namespace perdure::tool
