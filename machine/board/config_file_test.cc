// Boards as text: every field there and back, every mistake with its place.
#include "machine/board/config_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "machine/board/board.h"

namespace perdure::board {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string error_of(std::string_view text) {
  try {
    parse_board(text, "x.toml");
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "no error";
}

// Nothing in it has its default value, as far as values allow.
BoardConfig everything() {
  BoardConfig c;
  c.window_log2 = 40;
  c.ram_bytes = u64{96} << 20;
  c.seed = ~u64{0};
  c.step_ns = 77;
  c.threads = 3;
  c.trace_limit = 9;
  c.firmware_assigns_bars = false;
  c.keep_interrupts = false;
  c.last_bus = 0x7F;
  UnitConfig u;
  IommuModelConfig& m = u.model;
  m.base = 0xFED8'0000;
  m.nd = 4;
  m.sagaw = 0b1010;
  m.mgaw = 57;
  m.haw = 40;  // the window's
  m.sslps = 0b01;
  m.nfr = 8;
  m.mamv = 9;
  m.policy = CachePolicy::Random;
  m.seed = 5;
  m.delay = {1, 8};
  m.pasid_bits = 12;
  m.fro = 0x400;
  m.iro = 0x100;
  for (bool* flag : {&m.psi,
                     &m.dwd,
                     &m.drd,
                     &m.rwbf,
                     &m.plmr,
                     &m.phmr,
                     &m.esrtps,
                     &m.caching_mode,
                     &m.coherent,
                     &m.queued,
                     &m.device_tlb,
                     &m.pass_through,
                     &m.snoop_control,
                     &m.interrupt_remap,
                     &m.extended_interrupts,
                     &m.abort_mode,
                     &m.esirtps,
                     &m.scalable,
                     &m.second_stage,
                     &m.second_stage_dirty,
                     &m.first_stage,
                     &m.first_stage_5,
                     &m.first_stage_1g,
                     &m.scalable_coherent,
                     &m.step_on_access}) {
    *flag = !*flag;
  }
  m.quirks = IommuQuirks::qemu_7_2();
  u.segment = 1;
  u.include_all = false;
  u.endpoints = {Bdf(0, 1, 2, 1)};
  u.bridges = {Bdf(0, 2, 0, 1)};
  u.proximity = 4;
  UnitConfig rest;
  rest.model.base = 0xFED9'0000;
  rest.model.haw = 40;
  c.units = {u, rest};

  DeviceConfig edu;
  edu.kind = DeviceKind::Edu;
  edu.bdf = Bdf(0, 1, 2, 1);
  edu.name = "a \"quoted\"\n\\ name";
  edu.acs = true;
  edu.ats = true;
  edu.class_code = 0x0C0330;
  edu.edu = {~u64{0}, 12};
  DeviceConfig streamer;
  streamer.bdf = Bdf(0xFF, 31, 7);
  streamer.streamer = {16, 64, 65536};
  DeviceConfig vmd;
  vmd.kind = DeviceKind::Vmd;
  vmd.bdf = Bdf(0, 9, 0);
  vmd.vmd = {0x9000, 64, u64{32} << 20};
  DeviceConfig ioat;
  ioat.kind = DeviceKind::Ioat;
  ioat.bdf = Bdf(0, 10, 0);
  ioat.ioat = {20, 12345};
  ioat.virtual_functions = 3;
  DeviceConfig nvme;
  nvme.kind = DeviceKind::Nvme;
  nvme.bdf = Bdf(0, 11, 0);
  nvme.nvme = {u64{1} << 30, 3, 77, ~u64{0}};
  c.devices = {edu, streamer, vmd, ioat, nvme};
  for (const auto kind : {BridgeKind::RootPort, BridgeKind::UpstreamPort, BridgeKind::DownstreamPort,
                          BridgeKind::PcieToPci, BridgeKind::PciToPci}) {
    DeviceConfig bridge;
    bridge.kind = DeviceKind::Bridge;
    bridge.bdf = Bdf(0, 2 + static_cast<unsigned>(kind), 0, 1);
    bridge.bridge.kind = kind;
    bridge.bridge.secondary = static_cast<u8>(7 + static_cast<unsigned>(kind));
    bridge.bridge.acs = kind != BridgeKind::RootPort;
    bridge.bridge.keeps_ids = kind == BridgeKind::PcieToPci;
    c.devices.push_back(bridge);
  }
  c.reserved = {{0x300'0000, 0x2000, {Bdf(0, 1, 2, 1)}, {Bdf(0, 2, 0, 1)}}};
  return c;
}

TEST(ConfigFile, EveryFieldComesBack) {
  const BoardConfig c = everything();
  const std::string text = write_board(c);
  EXPECT_EQ(parse_board(text, "x"), c) << text;
  EXPECT_EQ(write_board(parse_board(text, "x")), text);
}

TEST(ConfigFile, DefaultsAreLeftOut) {
  BoardConfig c;
  c.units[0].model.haw = static_cast<u8>(c.window_log2);
  c.devices.push_back({});
  c.devices[0].bdf = Bdf(0, 3, 0);
  EXPECT_EQ(write_board(c), "window_log2 = " + std::to_string(kDefaultWindowLog2) +
                                "\n\n[[unit]]\nregisters = 0xfed90000\n\n[[device]]\nkind = \"streamer\"\n"
                                "at = \"0000:00:03.0\"\n");
  EXPECT_EQ(parse_board(write_board(c), "x"), c);
}

TEST(ConfigFile, SizesAndPlacesHaveShortForms) {
  const BoardConfig c = parse_board(R"(
ram = "8 MiB"
[[device]]
kind = "edu"
at = "1f:02.3"
dma_mask = 0xff
)",
                                    "x");
  EXPECT_EQ(c.ram_bytes, u64{8} << 20);
  EXPECT_EQ(c.devices[0].bdf, Bdf(0x1F, 2, 3));
  EXPECT_TRUE(c.units.empty()) << "no unit is named, none is there";
  EXPECT_EQ(parse_board("ram = 8388608", "x").ram_bytes, u64{8} << 20);
}

struct Mistake {
  const char* text;
  const char* place;  // LINE:COLUMN
  const char* says;
};

class ConfigMistakes : public ::testing::TestWithParam<Mistake> {};

TEST_P(ConfigMistakes, AreNamedWithTheirPlace) {
  const Mistake& m = GetParam();
  const std::string error = error_of(m.text);
  EXPECT_THAT(error, StartsWith(std::string("x.toml:") + m.place + ": ")) << m.text;
  EXPECT_THAT(error, HasSubstr(m.says)) << m.text;
}

INSTANTIATE_TEST_SUITE_P(
    All, ConfigMistakes,
    ::testing::Values(
        Mistake{"ram = ", "1:7", "is not TOML"}, Mistake{"rum = 1", "1:1", "allowed are seed, window_log2, ram"},
        Mistake{"seed = 1\nstep_ns = 0", "2:11", "step_ns: is no number that fits; choose 1 to"},
        Mistake{"window_log2 = 50", "1:15", "choose 33 to 46"}, Mistake{"ram = \"8 MB\"", "1:7", "KiB to TiB"},
        Mistake{"ram = \"99999999999 TiB\"", "1:7", "is no size"}, Mistake{"seed = -1", "1:8", "choose 0 to"},
        Mistake{"firmware_assigns_bars = 1", "1:25", "is not true or false"},
        Mistake{"device = 1", "1:10", "write [[device]] above each"},
        Mistake{"[[device]]\nat = \"00:01.0\"", "1:1",
                "device[0].kind: is missing; name one of streamer, edu, ohci, ioat, nvme, vmd"},
        Mistake{"[[device]]\nkind = \"nic\"\nat = \"00:01.0\"", "2:8", "is none of streamer, edu"},
        Mistake{"[[device]]\nkind = \"edu\"", "1:1", "device[0].at: is missing"},
        Mistake{"[[device]]\nkind = \"edu\"\nat = \"00:20.0\"", "3:6", "is no function"},
        Mistake{"[[device]]\nkind = \"edu\"\nat = \"00:1.0\"", "3:6", "BB:DD.F"},
        Mistake{"[[device]]\nkind = \"edu\"\nat = \"00:01.8\"", "3:6", "is no function"},
        Mistake{"[[device]]\nkind = \"edu\"\nat = \"00:01.0\"\nrings = 2", "4:1",
                "device[0].rings: there is no such key"},
        Mistake{"[[device]]\nkind = \"edu\"\nat = \"00:01.0\"\n[[device]]\nkind = \"edu\"\nat = \"00:01.0\"", "6:6",
                "there is a device at 0000:00:01.0 already"},
        Mistake{"[[device]]\nkind = \"pcie-to-pci\"\nat = \"00:01.0\"\nacs = true", "4:1", "keeps_ids"},
        Mistake{"[[unit]]\nlevels = [4, 6]", "2:14", "unit[0].levels: has one that is none of 3, 4, 5"},
        Mistake{"[[unit]]\nlevels = []", "2:10", "name at least one"},
        Mistake{"[[unit]]\nlevels = 4", "2:10", "is not a list"},
        Mistake{"[[unit]]\ncaches = \"lru\"", "2:10", "is none of sticky, evict, random"},
        Mistake{"[[unit]]\nquirks = [\"slow\"]", "2:11", "is none of psi-mask8"},
        Mistake{"[[unit]]\ndelay = [3, 1]", "2:9", "the smaller first"},
        Mistake{"[[unit]]\nendpoints = [\"00:01.0\"]", "2:14", "there is no device at 0000:00:01.0"},
        Mistake{"[[unit]]\nbridges = [\"00:01.0\"]\n[[device]]\nkind = \"edu\"\nat = \"00:01.0\"", "2:12",
                "is not a bridge"},
        Mistake{"[[unit]]\n[[unit]]\nregisters = 0xfed80000", "2:1", "another unit of the segment includes all"},
        Mistake{"[[unit]]\n[[unit]]\ninclude_all = false", "2:1", "another unit has its registers there"},
        Mistake{"[[reserved]]\nbase = 4096\nlength = 4096", "1:1", "name whom the region is for"},
        Mistake{"[[device]]\nkind = \"edu\"\nat = \"00:01.0\"\n[[reserved]]\nbase = 1\nendpoints = [\"00:01.0\"]",
                "4:1", "reserved[0].length: is missing"}));

TEST(ConfigFile, AFileThatIsNotThereIsNamed) {
  try {
    read_board("/nonexistent/board.toml");
    FAIL();
  } catch (const ConfigError& e) {
    EXPECT_THAT(e.what(), HasSubstr("/nonexistent/board.toml: cannot be read"));
  }
}

// What ships in configs/ can be built, and its text says the same after a round trip.
TEST(ConfigFile, EveryBoardThatShipsIsSound) {
  const std::filesystem::path directory = PERDURE_CONFIGS;
  unsigned count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() != ".toml") continue;
    SCOPED_TRACE(entry.path().filename().string());
    ++count;
    const BoardConfig c = read_board(entry.path());
    EXPECT_EQ(parse_board(write_board(c), "x"), c);
    EXPECT_NO_THROW(Board{c});
  }
  EXPECT_GE(count, 8U);
}

}  // namespace
}  // namespace perdure::board
