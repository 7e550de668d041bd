// Virtual functions as software asks a physical one for them (PCI Express Base 6.0, 9.3), by register numbers.
#include "machine/board/board_fixture.h"

namespace perdure::board {
namespace {

constexpr Bdf kPhysical{0, 8, 0}, kFirst{0, 8, 1}, kSecond{0, 8, 2}, kThird{0, 8, 3};

class SriovBoardTest : public testing::BoardTest {
 protected:
  void SetUp() override {
    BoardConfig config = testing::small_machine();
    DeviceConfig streamer;
    streamer.bdf = kPhysical;
    streamer.virtual_functions = 3;
    config.devices.push_back(streamer);
    build(config);
    for (cap = 0x100; (config32(kPhysical, cap) & 0xFFFF) != 0x10; cap = config32(kPhysical, cap) >> 20) {
      ASSERT_NE(cap, 0u);
    }
  }
  u64 first_bar(unsigned n) {
    return (config32(kPhysical, cap + 0x24 + 4 * n) & ~0xFu) | u64{config32(kPhysical, cap + 0x28 + 4 * n)} << 32;
  }
  void ask_for(u16 count, u16 control = 9) {
    set_config16(kPhysical, cap + 8, 0);
    set_config16(kPhysical, cap + 0x10, count);
    set_config16(kPhysical, cap + 8, control);
  }
  bool there(Bdf function) { return config32(function, 8) != ~u32{0}; }
  unsigned cap = 0;
};

TEST_F(SriovBoardTest, TellsWhatItCanHave) {
  EXPECT_EQ(config32(kPhysical, cap + 0x0C), 3u | 3u << 16) << "initial, total";
  EXPECT_EQ(config32(kPhysical, cap + 0x14), 1u | 1u << 16) << "first, stride";
  EXPECT_EQ(config32(kPhysical, cap + 0x18) >> 16, 0x5354u);
  EXPECT_EQ(config32(kPhysical, cap + 0x20), 1u) << "pages of 4 KiB";
  EXPECT_FALSE(there(kFirst));
  set_config32(kPhysical, cap + 0x24, ~u32{0});
  EXPECT_EQ(config32(kPhysical, cap + 0x24), 0xFFFF'C004u) << "16 KiB each";
}

TEST_F(SriovBoardTest, TheyAreThereWhileItIsToldSo) {
  ask_for(2);
  EXPECT_TRUE(there(kFirst));
  EXPECT_TRUE(there(kSecond));
  EXPECT_FALSE(there(kThird));
  EXPECT_EQ(config32(kFirst, 0), ~u32{0}) << "ids are the physical function's to know";
  EXPECT_EQ(config32(kFirst, 8), config32(kPhysical, 8));
  set_config32(kFirst, 0x10, ~u32{0});
  EXPECT_EQ(config32(kFirst, 0x10), 0u);
  set_command(kFirst, 6);
  EXPECT_EQ(config32(kFirst, 4) & 0xFFFF, 4u) << "of its own it has only bus mastering";
  ask_for(7);
  EXPECT_TRUE(there(kThird)) << "no more than there are";
  EXPECT_EQ(config32(kFirst, 4) & 0xFFFF, 0u) << "one that was away is new";
  set_config16(kPhysical, cap + 0x10, 0);
  EXPECT_TRUE(there(kFirst)) << "the number stays while it is enabled";
  set_config16(kPhysical, cap + 8, 0);
  EXPECT_FALSE(there(kFirst));
}

TEST_F(SriovBoardTest, BarsLieInARowAndAnswerTogether) {
  ask_for(2, 1);
  const u64 bar = first_bar(0);
  EXPECT_EQ(read32(bar), ~u32{0}) << "memory is not enabled";
  ask_for(2);
  EXPECT_EQ(read32(bar), 0x4D52'5453u);
  EXPECT_EQ(read32(bar + 0x4000), 0x4D52'5453u);
  EXPECT_EQ(read32(bar + 0x8000), ~u32{0}) << "the third is not there";
  EXPECT_EQ(read64(bar + 8) >> 16 & 0xFFFF, kFirst.value);
  EXPECT_EQ(read64(bar + 0x4008) >> 16 & 0xFFFF, kSecond.value);
  EXPECT_NE(first_bar(2), 0u) << "MSI-X";
}

TEST_F(SriovBoardTest, EachHasARequesterIdOfItsOwn) {
  ask_for(1);
  guest = std::make_unique<testing::GuestFile>(1 << 20);
  bank = *board->bank_attach(guest->fd(), 0, 1 << 20);
  const u64 top = page();
  map_range(top, kIova, bank.base.value, 1 << 20);
  set_context(kFirst, top, 3);
  translation_on();
  ASSERT_TRUE(board->declare(kFirst, {kIova, 1 << 20, guest->id(), 0, IntentAccess::ReadWrite}));
  set_config16(kFirst, 4, 4);
  const u64 ring = first_bar(0) + 0x1000;
  const auto start = [&] {
    for (const auto& [at, value] : {std::pair<u64, u64>{0x10, kIova}, {0x18, 1 << 20}, {0x20, 16}, {0x30, 1'000'000}}) {
      write64(ring + at, value);
    }
    write64(ring, 1);
  };
  start();
  board->step_for(1'000'000);
  const PhaseResult result = now(board->audit(), kFirst);
  EXPECT_GT(result.done, 100u);
  EXPECT_TRUE(result.clean());
  // Taken away in the middle of it, and back: it stands still, and nothing of what it was told is left.
  ask_for(0, 0);
  const u64 done = now(board->audit(), kFirst).done;
  board->step_for(1'000'000);
  ask_for(1);
  board->step_for(1'000'000);
  EXPECT_EQ(now(board->audit(), kFirst).done, done);
  EXPECT_EQ(read64(ring + 0x10), 0u);
  EXPECT_EQ(now(board->audit(), kFirst).resets, 1u);
}

TEST_F(SriovBoardTest, AResetOfThePhysicalFunctionTakesThemAway) {
  ask_for(2);
  set_config16(kPhysical, capability(kPhysical, 0x10) + 8, 0x8000);
  EXPECT_FALSE(there(kFirst));
  EXPECT_EQ(config32(kPhysical, cap + 0x10) & 0xFFFF, 0u);
  EXPECT_EQ(now(board->audit(), kFirst).resets, 1u);
}

TEST_F(SriovBoardTest, SurvivesSaveAndLoad) {
  ask_for(1);
  const std::vector<std::byte> saved = board->save_registers();
  ask_for(0, 0);
  board->load_registers(saved);
  EXPECT_TRUE(there(kFirst));
  EXPECT_EQ(read32(first_bar(0)), 0x4D52'5453u);
}

TEST_F(SriovBoardTest, PlacesThatCannotBeAreRefused) {
  const auto refused = [](unsigned count, Bdf at, Bdf other) {
    BoardConfig config = testing::small_machine();
    DeviceConfig edu;
    edu.kind = DeviceKind::Edu;
    edu.bdf = at;
    edu.virtual_functions = count;
    config.devices.push_back(edu);
    DeviceConfig neighbour;
    neighbour.bdf = other;
    config.devices.push_back(neighbour);
    EXPECT_THROW(Board refused_board(config), std::runtime_error);
  };
  refused(8, Bdf(0, 8, 0), Bdf(0, 9, 0));
  refused(1, Bdf(0, 8, 1), Bdf(0, 8, 0));
  refused(2, Bdf(0, 8, 0), Bdf(0, 8, 2));
}

}  // namespace
}  // namespace perdure::board
