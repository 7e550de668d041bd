#include "machine/board/edu.h"

#include "machine/board/board_fixture.h"

namespace perdure::board {
namespace {

using testing::kEduAt;

class EduTest : public testing::BoardTest {
 protected:
  void SetUp() override { set_up(testing::small_machine()); }
  void set_up(const BoardConfig& config) {
    build(config);
    set_command(kEduAt, 6);
    edu = config32(kEduAt, 0x10) & ~0xFu;
    const unsigned msi = capability(kEduAt, 5);
    set_config32(kEduAt, msi + 4, 0xFEE0'0000);
    set_config32(kEduAt, msi + 12, 0x44);
    set_config16(kEduAt, msi + 2, 1);
  }
  void transfer(u64 source, u64 destination, u64 count, u64 command) {
    write64(edu + 0x80, source);
    write64(edu + 0x88, destination);
    write64(edu + 0x90, count);
    write64(edu + 0x98, command);
  }
  void finish() {
    for (int i = 0; i < 1000 && (read64(edu + 0x98) & 1) != 0; ++i) board->step_for(1'000'000);
    EXPECT_EQ(read64(edu + 0x98) & 1, 0u);
  }
  u64 refused() {
    auto* device = dynamic_cast<Edu*>(board->device(kEduAt));
    const DeviceGuard guard(device->lock());
    return device->refused();
  }
  u64 edu = 0;
};

TEST_F(EduTest, IdentificationLivenessAndWidths) {
  EXPECT_EQ(read32(edu), 0x0100'00EDu);
  write32(edu + 4, 0x1234'5678);
  EXPECT_EQ(read32(edu + 4), ~u32{0x1234'5678});
  EXPECT_EQ(read64(edu), ~u64{0});
  EXPECT_EQ(board->mmio_read(Phys(edu), Width::W16), 0xFFFFu);
  EXPECT_EQ(read32(edu + 0x30), 0xFFFF'FFFFu);
}

TEST_F(EduTest, FactorialWithInterrupt) {
  write32(edu + 0x20, 0x80);
  write32(edu + 8, 12);
  EXPECT_EQ(read32(edu + 0x20) & 1, 1u) << "computing";
  write32(edu + 8, 3);  // ignored
  board->step(100);
  EXPECT_EQ(read32(edu + 0x20) & 1, 0u);
  EXPECT_EQ(read32(edu + 8), 479'001'600u);
  EXPECT_EQ(read32(edu + 0x24), 1u);
  EXPECT_EQ(messages.size(), 1u);
  write32(edu + 0x64, 1);
  EXPECT_EQ(read32(edu + 0x24), 0u);
  write32(edu + 8, 0xFFFF'FFFF);  // must not take for ever
  board->step(100);
  EXPECT_EQ(read32(edu + 8), 0u);
  write32(edu + 8, 0);
  board->step(100);
  EXPECT_EQ(read32(edu + 8), 1u);
}

TEST_F(EduTest, MovesDataBothWaysAfter100Milliseconds) {
  // Without translation IOVAs are physical addresses.
  for (u64 i = 0; i < 512; ++i) store(0x30'0000 + 8 * i, 0x1000 + i);
  transfer(0x30'0000, 0x40000, 4096, 1);
  board->step_for(99'000'000);
  EXPECT_EQ(read64(edu + 0x98) & 1, 1u) << "not yet";
  write64(edu + 0x90, 1);  // frozen
  EXPECT_EQ(read64(edu + 0x90), 4096u);
  for (u64 i = 0; i < 512; ++i) store(0x30'0000 + 8 * i, 0x2000 + i);  // the moment counts
  finish();
  EXPECT_TRUE(messages.empty()) << "no interrupt was asked for";
  transfer(0x40000 + 8, 0x31'0004, 24, 1 | 2 | 4);
  finish();
  std::array<u64, 3> got{};
  std::memcpy(got.data(), board->direct_map() + 0x31'0004, 24);
  EXPECT_EQ(got, (std::array<u64, 3>{0x2001, 0x2002, 0x2003}));
  EXPECT_EQ(read32(edu + 0x24), 0x100u);
  EXPECT_EQ(messages.size(), 1u);
  EXPECT_EQ(now(board->audit(), kEduAt).done, 2u);
}

TEST_F(EduTest, OutOfRangeIsRefusedAndEnds) {
  store(0x30'0000, 0xABCD);
  const std::tuple<u64, u64, u64, u64> cases[] = {
      {0x30'0000, 0x40000, 4097, 1},        {0x30'0000, 0x40FFF, 2, 1}, {0x30'0000, 0x3FFFF, 1, 1},
      {0x30'0000, 0x41001, 0, 1},           {0x41000, 0x30'0000, 1, 3}, {0x40000, 0x30'0000, ~u64{0}, 3},
      {0x40000, 0x30'0000, u64{1} << 63, 3}};
  u64 n = 0;
  for (const auto& [source, destination, count, command] : cases) {
    transfer(source, destination, count, command);
    finish();
    EXPECT_EQ(refused(), ++n);
  }
  EXPECT_EQ(load(0x30'0000), 0xABCDu);
  // Reaching the end exactly is fine.
  transfer(0x30'0000, 0x40FF8, 8, 1);
  finish();
  EXPECT_EQ(refused(), n);
  EXPECT_EQ(now(board->audit(), kEduAt).done, 1u);
}

TEST_F(EduTest, AddressesAreCutToTheMask) {
  transfer(0x40000, 0xF000'0000 + 0x30'0000, 8, 3);
  store(0x30'0000, ~u64{0});
  finish();
  EXPECT_EQ(load(0x30'0000), 0u) << "28 bits by default";
  BoardConfig c = testing::small_machine();
  c.devices[1].edu.dma_mask = 0xFFFF'FFFF;
  set_up(c);
  transfer(0x40000, 0x9030'0000, 8, 3);
  finish();
  EXPECT_EQ(now(board->audit(), kEduAt).not_done_by(Cause::Unbacked), 1u);
}

TEST_F(EduTest, CausesAreTold) {
  set_command(kEduAt, 2);
  transfer(0x40000, 0x30'0000, 8, 3);
  finish();
  EXPECT_EQ(now(board->audit(), kEduAt).not_done_by(Cause::BusMasterOff), 1u);
  set_command(kEduAt, 6);
  root = page();
  translation_on();
  transfer(0x40000, 0x30'0000, 8, 3);
  finish();
  EXPECT_EQ(now(board->audit(), kEduAt).not_done_by(Cause::Faulted), 1u);
  EXPECT_EQ(now(board->audit(), kEduAt).done, 0u);
}

TEST_F(EduTest, AcrossPagesThatLieApart) {
  const u64 top = page();
  map(top, 0x10'0000, 0x30'0000);
  map(top, 0x10'1000, 0x28'0000);
  set_context(kEduAt, top, 3);
  translation_on();
  store(0x30'0FF8, 0x1111);
  store(0x28'0000, 0x2222);
  transfer(0x10'0FF8, 0x40000, 16, 1);
  finish();
  transfer(0x40000, 0x10'0800, 16, 3);
  finish();
  EXPECT_EQ(load(0x30'0800), 0x1111u);
  EXPECT_EQ(load(0x30'0808), 0x2222u);
}

// DMA into the interrupt range is a message when it is one doubleword, however it was meant.
TEST_F(EduTest, DmaCanBeAMessage) {
  BoardConfig c = testing::small_machine();
  c.devices[1].edu.dma_mask = 0xFFFF'FFFF;
  set_up(c);
  store(0x30'0000, 0x0000'0055'0000'0044);
  transfer(0x30'0000, 0x40000, 8, 1);
  finish();
  transfer(0x40000, 0xFEE0'0000, 8, 3);
  finish();
  EXPECT_TRUE(messages.empty()) << "more than a doubleword";
  transfer(0x40000, 0xFEE0'0002, 4, 3);
  finish();
  EXPECT_TRUE(messages.empty()) << "not aligned";
  transfer(0x40000, 0xFEE0'0000, 4, 3);
  finish();
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(messages[0].first, 0xFEE0'0000u);
  EXPECT_EQ(messages[0].second, 0x44u);
  // Tables are not asked.
  root = page();
  translation_on();
  transfer(0x40004, 0xFEE0'0000, 4, 3);
  finish();
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(messages[1].second, 0x55u);
  EXPECT_EQ(board->unit(0).statistics().faults_recorded, 0u);
}

}  // namespace
}  // namespace perdure::board
