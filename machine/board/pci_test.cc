// The bus as software sees it: configuration space, BARs, bridges, interrupts, resets.
#include "machine/board/board_fixture.h"

namespace perdure::board {
namespace {

using testing::kBelowAt;
using testing::kEduAt;
using testing::kPortAt;
using testing::kStreamerAt;

class PciTest : public testing::BoardTest {
 protected:
  void SetUp() override { build(); }
};

TEST_F(PciTest, ConfigurationSpaceAnswersAtItsFunctionOnly) {
  EXPECT_EQ(config32(kEduAt, 0), 0x11E8'1234u);
  EXPECT_EQ(config32(kStreamerAt, 0), 0x5354'1234u);
  EXPECT_EQ(config32(kPortAt, 0), 0x5042'1234u);
  EXPECT_EQ(config32(Bdf(0, 9, 0), 0), 0xFFFF'FFFFu);
  EXPECT_EQ(config32(Bdf(7, 0, 0), 0), 0xFFFF'FFFFu);
  EXPECT_EQ(board->mmio_read(Phys(config_at(kEduAt, 2)), Width::W16), 0x11E8u);
  EXPECT_EQ(board->mmio_read(Phys(config_at(kEduAt, 1)), Width::W16), 0xFFFFu) << "unaligned";
  EXPECT_EQ(board->mmio_read(Phys(config_at(kEduAt, 0)), Width::W64), ~u64{0});
  EXPECT_EQ(config32(kEduAt, 0x100), 0u) << "no extended capabilities";
  set_config32(kEduAt, 0, 0);
  EXPECT_EQ(config32(kEduAt, 0), 0x11E8'1234u) << "read only";
}

TEST_F(PciTest, BarsAreSizedByWritingOnes) {
  const u32 before = config32(kEduAt, 0x10);
  set_config32(kEduAt, 0x10, ~u32{0});
  EXPECT_EQ(config32(kEduAt, 0x10), 0xFFF0'0000u);  // 1 MiB, 32 bits
  set_config32(kEduAt, 0x10, before);
  EXPECT_EQ(config32(kEduAt, 0x10), before);
  set_config32(kEduAt, 0x14, ~u32{0});
  EXPECT_EQ(config32(kEduAt, 0x14), 0u);  // none

  set_config32(kStreamerAt, 0x10, ~u32{0});
  set_config32(kStreamerAt, 0x14, ~u32{0});
  EXPECT_EQ(config32(kStreamerAt, 0x10), 0xFFFF'C004u);  // 16 KiB, 64 bits
  EXPECT_EQ(config32(kStreamerAt, 0x14), 0xFFFF'FFFFu);
}

TEST_F(PciTest, FirmwarePlacesBarsApartAndInTheirWindows) {
  const u64 low = config32(kEduAt, 0x10) & ~0xFu;
  EXPECT_EQ(low % (1 << 20), 0u);
  EXPECT_GE(low, 0xC000'0000u);
  EXPECT_LT(low, 0xFE00'0000u);
  const u64 top_window = board->window() - board->window() / 16;
  EXPECT_GE(bar64(kStreamerAt), top_window);
  EXPECT_NE(bar64(kStreamerAt), bar64(kStreamerAt, 0x18));
  EXPECT_LT(bar64(kBelowAt), 0xFE00'0000u) << "behind a bridge";
  BoardConfig c = testing::small_machine();
  c.firmware_assigns_bars = false;
  build(c);
  EXPECT_EQ(config32(kEduAt, 0x10), 0u);
  EXPECT_EQ(config32(kEduAt, 4) & 0xFFFF, 0u);
}

TEST_F(PciTest, MemoryDecodingIsHonoured) {
  const u64 edu = config32(kEduAt, 0x10) & ~0xFu;
  EXPECT_EQ(read32(edu), 0x0100'00EDu);
  set_command(kEduAt, 0);
  EXPECT_EQ(read32(edu), 0xFFFF'FFFFu);
  write32(edu + 4, 5);
  set_command(kEduAt, 2);
  EXPECT_EQ(read32(edu + 4), 0u) << "a write while off must be lost";
  // The device follows its BAR.
  set_config32(kEduAt, 0x10, 0xD000'0000);
  EXPECT_EQ(read32(0xD000'0000), 0x0100'00EDu);
  EXPECT_EQ(read32(edu), 0xFFFF'FFFFu);
  EXPECT_EQ(read32(0xD000'0000 + (1 << 20)), 0xFFFF'FFFFu);
}

TEST_F(PciTest, BridgeForwardsItsBusesAndItsWindowOnly) {
  EXPECT_EQ(config32(kBelowAt, 0), 0x5354'1234u);
  const u64 below = bar64(kBelowAt);
  EXPECT_EQ(read32(below), 0x4D52'5453u);
  const u32 window = config32(kPortAt, 0x20);
  EXPECT_GE(below, u64{window & 0xFFF0} << 16);
  EXPECT_LE(below + 0x3FFF, (u64{window & 0xFFF0'0000}) | 0xF'FFFF);

  set_config32(kPortAt, 0x20, 0x0000'FFF0);  // closed
  EXPECT_EQ(read32(below), 0xFFFF'FFFFu);
  set_config32(kPortAt, 0x20, window);
  EXPECT_EQ(read32(below), 0x4D52'5453u);
  set_command(kPortAt, 4);  // MEMORY off
  EXPECT_EQ(read32(below), 0xFFFF'FFFFu);
  set_command(kPortAt, 6);
  // A 64-bit window works as well.
  set_config32(kPortAt, 0x20, 0x0000'FFF0);
  set_config32(kPortAt, 0x24, (static_cast<u32>(below) & 0xFFF0'0000) | static_cast<u32>(below >> 16 & 0xFFF0));
  EXPECT_EQ(read32(below), 0x4D52'5453u);

  // Other bus numbers: the function answers there, and its requester id changes with it.
  set_config32(kPortAt, 0x18, 0x00'09'09'00);
  EXPECT_EQ(config32(kBelowAt, 0), 0xFFFF'FFFFu);
  EXPECT_EQ(config32(Bdf(9, 0, 0), 0), 0x5354'1234u);
  EXPECT_EQ(board->device(kBelowAt)->bdf(), Bdf(9, 0, 0));
  set_config32(kPortAt, 0x18, 0x00'08'09'00);  // subordinate below secondary
  EXPECT_EQ(config32(Bdf(9, 0, 0), 0), 0xFFFF'FFFFu);
}

TEST_F(PciTest, CapabilitiesAreAList) {
  for (Bdf bdf : {kStreamerAt, kEduAt, kPortAt}) {
    EXPECT_NE(config32(bdf, 4) >> 16 & 0x10, 0u) << "STATUS: capability list";
    EXPECT_NE(capability(bdf, 0x10), 0u) << "PCI Express";
  }
  EXPECT_NE(capability(kEduAt, 0x05), 0u);
  EXPECT_NE(capability(kStreamerAt, 0x11), 0u);
  EXPECT_EQ(capability(kEduAt, 0x11), 0u);
  EXPECT_EQ(config32(kPortAt, capability(kPortAt, 0x10)) >> 20 & 0xF, 4u) << "root port";
  EXPECT_EQ(config32(kPortAt, 0xC) >> 16 & 0x7F, 1u) << "type 1 header";
}

TEST_F(PciTest, MsiGoesOutUnderItsEnableMaskAndBusMaster) {
  const unsigned msi = capability(kEduAt, 5);
  const u64 edu = config32(kEduAt, 0x10) & ~0xFu;
  const auto raise = [&](u32 bits) { write32(edu + 0x60, bits); };
  raise(1);
  EXPECT_TRUE(messages.empty()) << "not enabled";
  set_config32(kEduAt, msi + 4, 0xFEE0'1000);
  set_config32(kEduAt, msi + 8, 0);
  set_config32(kEduAt, msi + 12, 0x31);
  set_config16(kEduAt, msi + 2, 1);
  raise(1);
  EXPECT_TRUE(messages.empty()) << "bus master off";
  set_command(kEduAt, 6);
  raise(1);
  using Message = std::pair<u64, u32>;
  EXPECT_EQ(messages, (std::vector<Message>{{0xFEE0'1000, 0x31}}));
  set_config32(kEduAt, msi + 16, 1);  // masked
  raise(1);
  EXPECT_EQ(messages.size(), 1u);
  EXPECT_EQ(config32(kEduAt, msi + 20), 1u) << "pending";
  set_config32(kEduAt, msi + 16, 0);
  EXPECT_EQ(messages.size(), 2u) << "sent when unmasked";
  EXPECT_EQ(config32(kEduAt, msi + 20), 0u);
  // Messages follow the sink.
  std::vector<u32> next_kernel;
  board->set_msi_sink([&](u64, u32 data) { next_kernel.push_back(data); });
  raise(1);
  EXPECT_EQ(next_kernel, std::vector<u32>{0x31});
  EXPECT_EQ(messages.size(), 2u);
  board->set_msi_sink({});
  raise(1);
  raise(1);
  EXPECT_EQ(board->interrupts().latched, 1u);
  EXPECT_EQ(board->interrupts().coalesced, 1u);
  // The next one is given it first, once.
  next_kernel.clear();
  board->set_msi_sink([&](u64, u32 data) { next_kernel.push_back(data); });
  EXPECT_EQ(next_kernel, std::vector<u32>{0x31});
  EXPECT_EQ(board->interrupts().dropped, 0u);
}

TEST_F(PciTest, ASinkMayUseTheBoard) {
  const unsigned msi = capability(kEduAt, 5);
  const u64 edu = config32(kEduAt, 0x10) & ~0xFu;
  set_config32(kEduAt, msi + 4, 0xFEE0'0000);
  set_config16(kEduAt, msi + 2, 1);
  set_command(kEduAt, 6);
  int calls = 0;
  board->set_msi_sink([&](u64, u32) {
    if (++calls == 1) write32(edu + 0x60, 2);  // raises again from within
    write32(edu + 0x64, ~u32{0});
    board->step();
  });
  write32(edu + 0x60, 1);
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(read32(edu + 0x24), 0u);
}

TEST_F(PciTest, FunctionLevelResetStopsEverything) {
  const unsigned express = capability(kStreamerAt, 0x10);
  EXPECT_NE(config32(kStreamerAt, express + 4) & u32{1} << 28, 0u) << "FLR capable";
  set_command(kStreamerAt, 6);
  const u64 bar = bar64(kStreamerAt);
  start_ring(kStreamerAt, 0, {});
  const u16 control = static_cast<u16>(config32(kStreamerAt, express + 8));
  set_config16(kStreamerAt, express + 8, control | 0x8000);
  EXPECT_EQ(config32(kStreamerAt, express + 8) & 0x8000, 0u);
  EXPECT_EQ(config32(kStreamerAt, 4) & 6, 0u);
  EXPECT_EQ(bar64(kStreamerAt), 0u);
  set_config32(kStreamerAt, 0x10, static_cast<u32>(bar));
  set_config32(kStreamerAt, 0x14, static_cast<u32>(bar >> 32));
  set_command(kStreamerAt, 6);
  EXPECT_EQ(read64(bar + 0x1000 + 8), 0u) << "not running";
  EXPECT_EQ(read64(bar + 0x1000 + 0x20), 0u);
  EXPECT_EQ(now(board->audit(), kStreamerAt).resets, 1u);
  EXPECT_FALSE(now(board->audit(), kStreamerAt).clean());
  // The bit in a 4-byte write counts as well; a root port cannot.
  set_config32(kStreamerAt, express + 8, control | 0x8000);
  EXPECT_EQ(now(board->audit(), kStreamerAt).resets, 2u);
  const unsigned port = capability(kPortAt, 0x10);
  set_config16(kPortAt, port + 8, 0x8000);
  EXPECT_NE(config32(kPortAt, 4) & 6, 0u);
}

TEST_F(PciTest, SecondaryBusResetReachesWhatIsBelowOnce) {
  set_command(kBelowAt, 6);
  set_config16(kPortAt, 0x3E, 0x40);
  EXPECT_EQ(config32(kBelowAt, 4) & 6, 0u);
  set_command(kBelowAt, 6);
  set_config16(kPortAt, 0x3E, 0x40);  // still set: no new rise
  EXPECT_EQ(config32(kBelowAt, 4) & 6, 6u);
  set_config16(kPortAt, 0x3E, 0);
  EXPECT_EQ(now(board->audit(), kBelowAt).resets, 1u);
  EXPECT_EQ(now(board->audit(), kStreamerAt).resets, 0u);
}

TEST_F(PciTest, ConfigurationWritesAreTraced) {
  board->pci().clear_trace();
  set_command(kEduAt, 6);
  config32(kEduAt, 4);
  set_config32(kEduAt, 0, 0xDEAD);
  const std::vector<ConfigWrite> trace = board->pci().trace();
  ASSERT_EQ(trace.size(), 2u) << "writes, not reads";
  EXPECT_EQ(trace[0].home, kEduAt);
  EXPECT_EQ(trace[0].offset, 4);
  EXPECT_EQ(trace[0].width, 2);
  EXPECT_EQ(trace[0].value, 6u);
  EXPECT_EQ(trace[0].before, 2u);
  EXPECT_EQ(trace[0].after, 6u);
  EXPECT_EQ(trace[1].before, trace[1].after);

  BoardConfig c = testing::small_machine();
  c.trace_limit = 3;
  build(c);
  for (u16 i = 0; i < 5; ++i) set_config16(kEduAt, 0x3C, i);
  EXPECT_EQ(board->pci().trace().size(), 3u);
  EXPECT_EQ(board->pci().trace().back().value, 4u);
  EXPECT_EQ(board->pci().trace_dropped(), 2u);
}

TEST(PciConfig, ImpossibleMachinesAreRefused) {
  BoardConfig c = testing::small_machine();
  c.devices.push_back(c.devices[0]);
  EXPECT_THROW(Board{c}, std::runtime_error);
  c = testing::small_machine();
  c.devices[3].bdf = Bdf(5, 0, 0);
  EXPECT_THROW(Board{c}, std::runtime_error) << "no bridge to bus 5";
  c = testing::small_machine();
  c.devices[0].streamer.rings = 17;
  EXPECT_THROW(Board{c}, std::runtime_error);
  c = testing::small_machine();
  c.units.push_back(c.units[0]);
  EXPECT_THROW(Board{c}, std::runtime_error) << "two units at one address";
  c.units[1].model.base += 0x1000;
  EXPECT_THROW(Board{c}, std::runtime_error) << "two units with include_all";
  c.units[0].include_all = false;
  c.units[0].endpoints = {Bdf(0, 31, 0)};
  EXPECT_THROW(Board{c}, std::runtime_error) << "no such function";
}

}  // namespace
}  // namespace perdure::board
