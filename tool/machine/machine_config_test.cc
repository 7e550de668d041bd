// Machines as text: there and back, and every mistake with its place.
#include "tool/machine/machine_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tool/machine/run_directory.h"

namespace perdure::tool {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string error_of(std::string_view text) {
  try {
    parse_machine(text, "x.toml");
  } catch (const board::ConfigError& e) {
    return e.what();
  }
  return "no error";
}

TEST(MachineConfig, TheDefaultsAreAFileThatMakesThemAgain) {
  const std::string text = write_machine(default_machine());
  const MachineConfig back = parse_machine(text, "defaults");
  EXPECT_EQ(write_machine(back), text);
  EXPECT_EQ(back.board, default_machine().board);
  EXPECT_EQ(back.options, default_machine().options);
}

TEST(MachineConfig, EveryKeyThereAndBack) {
  MachineConfig m = default_machine();
  m.board.ram_bytes = u64{64} << 20;
  m.directory = "/some/where";
  m.first = "/a/kernel";
  m.next = {"b"};
  m.options.creds = {.uid = 7, .cap_sys_resource = false, .cap_sys_rawio = true, .cap_ipc_lock = false};
  m.options.log = LogLevel::Debug;
  m.options.table_mode = vtd::TableModePolicy::Legacy;
  m.options.stage = vtd::StagePolicy::FirstStage;
  m.options.interrupt_remapping = false;
  m.options.vfio_container = vfio::Vfio::Container::Iommufd;
  m.options.iommufd_test = false;
  m.log_bytes = 5000;
  const MachineConfig back = parse_machine(write_machine(m), "x");
  EXPECT_EQ(back.board, m.board);
  EXPECT_EQ(back.directory, m.directory);
  EXPECT_EQ(back.first, m.first);
  EXPECT_EQ(back.next, m.next);
  EXPECT_EQ(back.options, m.options);
  EXPECT_EQ(back.log_bytes, m.log_bytes);
  // A key that is not read back would be lost here.
  EXPECT_EQ(write_machine(back), write_machine(m));
}

TEST(MachineConfig, ABoardsFileIsAMachinesFile) {
  const MachineConfig m = parse_machine("ram = \"64 MiB\"\n[[device]]\nkind = \"edu\"\nat = \"00:03.0\"\n", "x");
  EXPECT_EQ(m.board.devices.size(), 1u);
  EXPECT_EQ(m.first, "a");
  EXPECT_THAT(m.next, ElementsAre("b", "a"));
}

TEST(MachineConfig, MistakesHaveTheirPlace) {
  EXPECT_THAT(
      error_of("[kernel]\nfirst = \"a\"\nlast = 1\n"),
      AllOf(StartsWith("x.toml:3:1: kernel.last: there is no such key here"), HasSubstr("directory, first, next")));
  EXPECT_THAT(error_of("[policy]\ncapabilities = [\"fly\"]\n"),
              AllOf(StartsWith("x.toml:2:17: policy.capabilities:"), HasSubstr("ipc_lock, sys_rawio, sys_resource")));
  EXPECT_THAT(error_of("[policy]\nuid = -1\n"), StartsWith("x.toml:2:7: policy.uid: is no number that fits"));
  EXPECT_THAT(error_of("[policy]\ntables = \"x\"\n"), HasSubstr("auto, legacy, scalable"));
  EXPECT_THAT(error_of("[log]\nsize = 100\n"), StartsWith("x.toml:2:8: log.size: is less than 4 KiB"));
  EXPECT_THAT(error_of("[log]\nlevel = 3\n"), HasSubstr("debug, info, warn, error"));
  EXPECT_THAT(error_of("[kernel]\nnext = []\n"), StartsWith("x.toml:2:8: kernel.next: is empty"));
  EXPECT_THAT(error_of("kernel = 3\n"), StartsWith("x.toml:1:10: kernel: is not a table"));
  EXPECT_THAT(error_of("[[log]]\n"), HasSubstr("log: is not a table"));
  EXPECT_THAT(error_of("[polcy]\n"), AllOf(StartsWith("x.toml:1:2: polcy: there is no such key"), HasSubstr("policy")));
  EXPECT_THAT(error_of("ram = \n"), StartsWith("x.toml:1:7: is not TOML"));
}

TEST(MachineConfig, PathsAreFromTheFilesOwnDirectory) {
  const RunDirectory directory;
  const auto file = directory.path() / "m.toml";
  std::ofstream(file) << "[kernel]\ndirectory = \"kernels\"\nfirst = \"./one\"\nnext = [\"a\", \"/two\", \"k/b\"]\n";
  const MachineConfig m = read_machine(file);
  EXPECT_EQ(m.directory, directory.path() / "kernels");
  EXPECT_EQ(m.first, directory.path() / "one");
  EXPECT_THAT(m.next, ElementsAre("a", "/two", (directory.path() / "k/b").string()));
  EXPECT_THROW(read_machine(directory.path() / "none.toml"), board::ConfigError);
  EXPECT_THROW(read_machine(directory.path()), board::ConfigError);
}

}  // namespace
}  // namespace perdure::tool
