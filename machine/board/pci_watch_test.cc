// The oracle for functions at work, and functions of ARI devices.
#include "machine/board/pci_watch.h"

#include "machine/board/board_fixture.h"

namespace perdure::board {
namespace {

using testing::kBelowAt;
using testing::kEduAt;
using testing::kPortAt;
using testing::kStreamerAt;

class PciWatchTest : public testing::BoardTest {
 protected:
  void SetUp() override { build(); }
  void watch(Bdf at, PciWatch::Stage stage) { board->pci().watch().watch(*board->device(at), stage); }
  // Violations since the last call.
  u64 broken() {
    const u64 n = board->pci().watch().violation_count();
    EXPECT_EQ(board->pci().watch().violations().size(), n);
    EXPECT_EQ(board->violation_count(), n);
    board->pci().watch().clear();
    return n;
  }
};

TEST_F(PciWatchTest, NothingIsWrittenToAFunctionAtWorkNorAboveIt) {
  watch(kBelowAt, PciWatch::Stage::AtWork);
  for (unsigned offset : {0x04u, 0x10u, 0x3Cu, 0x40u, 0x100u}) {
    set_config32(kBelowAt, offset, config32(kBelowAt, offset));
    EXPECT_EQ(broken(), 1u) << "also when it changes nothing, at " << offset;
  }
  set_command(kPortAt, 6);
  EXPECT_EQ(broken(), 1u);
  set_config32(kPortAt, 0x18, config32(kPortAt, 0x18));
  const auto said = board->violations();
  ASSERT_EQ(said.size(), 1u);
  EXPECT_NE(said[0].find("0000:00:04.0"), std::string::npos) << said[0];
  EXPECT_NE(said[0].find("below it works 0000:01:00.0"), std::string::npos) << said[0];
  EXPECT_EQ(broken(), 1u);
  write32(bar64(kBelowAt) + 0x1000, 0);
  write32(bar64(kBelowAt, 0x18), 0);
  EXPECT_EQ(broken(), 2u) << "registers, and the table of interrupts";
  (void)config32(kBelowAt, 0);
  set_command(kStreamerAt, 2);
  write32(config32(kEduAt, 0x10) & ~0xFu, 1);
  EXPECT_EQ(broken(), 0u) << "others are nobody's concern, and reading is free";
}

TEST_F(PciWatchTest, AProgramMayUseWhatItWasGivenBack) {
  watch(kBelowAt, PciWatch::Stage::InProgramsHands);
  const unsigned express = capability(kBelowAt, 0x10);
  const unsigned msix = capability(kBelowAt, 0x11);
  set_command(kBelowAt, 6);
  set_config16(kBelowAt, express + 8, 0x2810);
  set_config16(kBelowAt, msix + 2, 0x8000);
  write32(bar64(kBelowAt, 0x18), 0xFEE0'0000);
  write32(bar64(kBelowAt) + 0x1000, 0);
  EXPECT_EQ(broken(), 0u);
  set_config16(kBelowAt, express + 8, 0xA810);
  EXPECT_EQ(broken(), 1u) << "a reset";
  board->mmio_write(Phys(config_at(kBelowAt, express + 9)), Width::W8, 0xA8);
  EXPECT_EQ(broken(), 1u) << "a reset by one byte";
  for (unsigned offset : {0x10u, 0x14u, 0x18u, 0x3Cu, express, express + 0x28}) {
    set_config32(kBelowAt, offset, config32(kBelowAt, offset));
    EXPECT_EQ(broken(), 1u) << offset;
  }
  set_config32(kBelowAt, 4, config32(kBelowAt, 4));
  EXPECT_EQ(broken(), 1u) << "STATUS beside COMMAND";
  set_command(kPortAt, 6);
  EXPECT_EQ(broken(), 1u) << "bridges are never the program's";
  set_command(kBelowAt, 6);
  const auto writes = board->pci().watch().writes();
  ASSERT_EQ(writes.size(), 1u);
  EXPECT_TRUE(writes[0].allowed);
  board->pci().watch().release(*board->device(kBelowAt));
  set_command(kPortAt, 6);
  set_config32(kBelowAt, 0x10, 0);
  EXPECT_EQ(broken(), 0u);
}

// A bridge is watched for as long as one function below it is.
TEST_F(PciWatchTest, OfSeveralBelowABridgeTheLastCounts) {
  BoardConfig c = testing::small_machine();
  DeviceConfig sibling = c.devices[3];
  sibling.bdf = Bdf(1, 1, 0);
  c.devices[3].ari = sibling.ari = true;
  c.devices.push_back(sibling);
  build(c);
  set_config16(kPortAt, capability(kPortAt, 0x10) + 0x28, 0x20);
  watch(kBelowAt, PciWatch::Stage::AtWork);
  watch(sibling.bdf, PciWatch::Stage::AtWork);
  set_command(kPortAt, 6);
  EXPECT_EQ(broken(), 1u);
  board->pci().watch().release(*board->device(kBelowAt));
  set_command(kBelowAt, 6);
  EXPECT_EQ(broken(), 0u);
  set_command(kPortAt, 6);
  EXPECT_EQ(broken(), 1u);
  board->pci().watch().release(*board->device(sibling.bdf));
  set_command(kPortAt, 6);
  EXPECT_EQ(broken(), 0u);
}

TEST_F(PciWatchTest, FunctionsOfAnAriDeviceAnswerWhileTheirPortForwards) {
  BoardConfig c = testing::small_machine();
  DeviceConfig first = c.devices[3];
  first.ari = true;
  DeviceConfig last = first, middle = first;
  last.bdf = Bdf(0x0183);
  middle.bdf = Bdf(0x0109);
  c.devices[3] = first;
  c.devices.push_back(last);
  c.devices.push_back(middle);
  build(c);
  EXPECT_EQ(config32(kBelowAt, 0x100), 0x0001'000Eu);
  EXPECT_EQ(config32(kBelowAt, 0x104), 0x0900u) << "the next function";
  EXPECT_EQ(config32(middle.bdf, 0), ~u32{0});
  const unsigned express = capability(kPortAt, 0x10);
  EXPECT_NE(config32(kPortAt, express + 0x24) & 0x20, 0u);
  set_config16(kPortAt, express + 0x28, 0x20);
  EXPECT_EQ(config32(middle.bdf, 0), 0x5354'1234u);
  EXPECT_EQ(config32(middle.bdf, 0x104), 0x8300u);
  EXPECT_EQ(config32(last.bdf, 0x104), 0u) << "the last one";
  EXPECT_EQ(config32(kStreamerAt, 0x100), 0u);
  EXPECT_NE(bar64(middle.bdf), bar64(last.bdf));
  EXPECT_EQ(read32(bar64(last.bdf)), 0x4D52'5453u);
  set_config16(kPortAt, express + 0x28, 0);
  EXPECT_EQ(config32(last.bdf, 0), ~u32{0});
  first.bdf = Bdf(0, 7, 0);
  c.devices.push_back(first);
  EXPECT_THROW(build(c), std::runtime_error) << "there is no port above it";
}

}  // namespace
}  // namespace perdure::board
