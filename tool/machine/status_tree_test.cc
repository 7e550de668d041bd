// Trees of status: lists by name, and parts of them by path.
#include "tool/machine/status_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

namespace perdure::tool {
namespace {

using nlohmann::json;

json status() {
  return json::parse(R"({
    "release": "perdure-a",
    "sessions": [{"name": "vm/1", "files": [{"token": 5, "type": "memfd"}, {"token": 6, "type": "iommufd"}]},
                 {"name": "vm", "files": []}],
    "devices": [{"function": "0000:00:03.0", "ownership": "owned"}],
    "domains": [{"context": 7, "hwpt": 2, "mapped_bytes": 4096}],
    "same": [{"name": "x"}, {"name": "x"}],
    "numbers": [1, 2],
    "timeline": [{"phase": "load", "begin_ns": 1, "end_ns": 2}]})");
}

std::string part(std::string_view path) {
  const json tree = status_tree(status());
  std::string there;
  const json* found = find_part(tree, path, there);
  return found == nullptr ? "none below \"" + there + "\"" : found->dump();
}

TEST(StatusTree, PartsByPath) {
  EXPECT_EQ(part("release"), "\"perdure-a\"");
  EXPECT_EQ(part("devices/0000:00:03.0/ownership"), "\"owned\"");
  EXPECT_EQ(part("/devices/0000:00:03.0/ownership/"), "\"owned\"");
  EXPECT_EQ(part("timeline/0/phase"), "\"load\"");
  EXPECT_EQ(part("domains/7.2/mapped_bytes"), "4096");
  EXPECT_EQ(part("numbers/1"), "2");
}

TEST(StatusTree, NamesMayHoldSlashes) {
  EXPECT_EQ(part("sessions/vm/1/files/6/type"), "\"iommufd\"");
  EXPECT_EQ(part("sessions/vm/files"), "{}");
}

TEST(StatusTree, WhatHasTheSameNameTwiceStaysAList) {
  EXPECT_EQ(part("same/1/name"), "\"x\"");
}

TEST(StatusTree, WhatIsNotThereSaysHowFarThePathWent) {
  EXPECT_EQ(part("devices/0000:00:04.0"), "none below \"devices\"");
  EXPECT_EQ(part("nothing/at/all"), "none below \"\"");
  EXPECT_EQ(part("release/x"), "none below \"release\"");
  EXPECT_EQ(part("numbers/2"), "none below \"numbers\"");
}

TEST(StatusTree, ForPeople) {
  EXPECT_EQ(render_tree(json::parse(R"({"a": {"b": 1, "c": "two"}, "d": [], "e": [true]})")),
            "a\n  b: 1\n  c: two\nd: none\ne\n  [0]: true\n");
}

TEST(StatusTree, HowAProcessEnded) {
  EXPECT_EQ(ending(0x0100), "ended with status 1");
  EXPECT_EQ(ending(9), "was ended by signal 9");
}

}  // namespace
}  // namespace perdure::tool
