#include "machine/board/ohci.h"

#include "machine/board/board_fixture.h"

namespace perdure::board {
namespace {

constexpr Bdf kOhciAt{0, 5, 0};
constexpr u64 kHcca = 0x30'0000;

class OhciTest : public testing::BoardTest {
 protected:
  void SetUp() override {
    BoardConfig config = testing::small_machine();
    DeviceConfig ohci;
    ohci.kind = DeviceKind::Ohci;
    ohci.bdf = kOhciAt;
    config.devices.push_back(ohci);
    config.step_ns = 20'000;
    build(config);
    set_command(kOhciAt, 6);
    registers = config32(kOhciAt, 0x10) & ~0xFu;
  }
  u32 get(u64 offset) { return read32(registers + offset); }
  void set(u64 offset, u32 value) { write32(registers + offset, value); }
  void run(u64 hcca = kHcca) {
    set(0x18, static_cast<u32>(hcca));
    set(0x04, 0x80);
  }
  PhaseResult result() { return now(board->audit(), kOhciAt); }
  u64 registers = 0;
};

TEST_F(OhciTest, BeatsOncePerMillisecondAndWritesWhatItCounts) {
  EXPECT_EQ(config32(kOhciAt, 0), 0x003F'106Bu);
  EXPECT_EQ(config32(kOhciAt, 8) >> 8, 0x0C0310u);
  EXPECT_EQ(get(0), 0x10u);
  board->step_for(5'000'000);
  EXPECT_EQ(get(0x3C), 0u) << "not before it is operational";
  // All of the word is written, nothing beside it.
  for (u64 at = 0; at < 256; at += 8) store(kHcca + at, ~u64{0});
  run();
  board->step_for(10'500'000);
  EXPECT_EQ(get(0x3C), 10u);
  EXPECT_EQ(load(kHcca + 0x80), 0xFFFF'FFFF'0000'000Au);
  EXPECT_EQ(load(kHcca + 0x78), ~u64{0});
  EXPECT_EQ(load(kHcca + 0x88), ~u64{0});
  EXPECT_EQ(get(0x0C), 4u);
  EXPECT_EQ(get(0x04), 0x80u);
  EXPECT_EQ(result().done, 10u);
  EXPECT_TRUE(messages.empty());
}

TEST_F(OhciTest, FrameNumbersWrapAndSayWhenTheirTopBitChanges) {
  run();
  board->step_for(u64{0x7FFF} * 1'000'000 + 500'000);
  EXPECT_EQ(get(0x0C), 4u);
  board->step_for(1'000'000);
  EXPECT_EQ(get(0x0C), 0x24u);
  set(0x0C, 0x20);
  EXPECT_EQ(get(0x0C), 4u);
  board->step_for(u64{0x8000} * 1'000'000);
  EXPECT_EQ(get(0x0C), 0x24u);
  EXPECT_EQ(get(0x3C), 0u);
}

TEST_F(OhciTest, TheFirstRefusedRequestEndsIt) {
  run();
  board->step_for(3'500'000);
  set_command(kOhciAt, 2);
  board->step_for(1'000'000);
  EXPECT_EQ(get(0x0C) & 0x10, 0x10u);
  EXPECT_EQ(get(0x04), 0u);
  EXPECT_EQ(config32(kOhciAt, 4) >> 16 & 0x8000, 0x8000u);
  // It stays so.
  set_command(kOhciAt, 6);
  board->step_for(10'000'000);
  EXPECT_EQ(get(0x3C), 3u);
  EXPECT_EQ(load(kHcca + 0x80), 3u);
  EXPECT_EQ(result().done, 3u);
  EXPECT_EQ(result().not_done_by(Cause::BusMasterOff), 1u);
  set(0x08, 1);
  EXPECT_EQ(get(0x0C), 0u);
  EXPECT_EQ(get(0x04), 0xC0u) << "suspended";
  EXPECT_EQ(get(0x18), 0u);
}

TEST_F(OhciTest, AFaultOfEitherDirectionEndsIt) {
  root = page();
  const u64 top = page();
  set_context(kOhciAt, top, 3);
  map(top, 0x9000'0000, kHcca);
  translation_on();
  run(0x9000'0000);
  board->step_for(2'500'000);
  EXPECT_EQ(load(kHcca + 0x80), 2u);
  EXPECT_EQ(get(0x0C), 4u);
  set(0x18, 0x9000'1000);
  board->step_for(1'000'000);
  EXPECT_EQ(get(0x0C) & 0x10, 0x10u);
  EXPECT_EQ(result().not_done_by(Cause::Faulted), 1u);
}

TEST_F(OhciTest, OtherWidthsAndResetDoNothingElse) {
  EXPECT_EQ(board->mmio_read(Phys(registers), Width::W16), 0xFFFFu);
  EXPECT_EQ(read64(registers), ~u64{0});
  write64(registers + 0x18, kHcca);
  EXPECT_EQ(get(0x18), 0u);
  set(0x18, 0x1234'56FF);
  EXPECT_EQ(get(0x18), 0x1234'5600u);
  set(0x10, ~u32{0});
  EXPECT_EQ(get(0x14), 0xC000'007Fu);
  set(0x14, 0x40);
  EXPECT_EQ(get(0x10), 0xC000'003Fu);
}

// A machine loaded from files goes on where it was.
TEST_F(OhciTest, SurvivesSaveAndLoad) {
  run();
  board->step_for(2'500'000);
  const std::vector<std::byte> saved = board->save_registers();
  board->step_for(5'000'000);
  board->load_registers(saved);
  EXPECT_EQ(get(0x3C), 2u);
  board->step_for(1'000'000);
  EXPECT_EQ(get(0x3C), 3u);
}

}  // namespace
}  // namespace perdure::board
