#include "machine/board/poison.h"

#include <chrono>

#include "machine/board/board_fixture.h"
#include "machine/board/handover_fixture.h"

namespace perdure::board {
namespace {

using testing::GuestFile;
using testing::kStreamerAt;

constexpr u64 kFdt = 0x50'0000;
constexpr u64 kRoot = 0x51'0000;
constexpr u64 kWord = 0xDEAD'FEED'DEAD'FFF7;

class PoisonTest : public testing::BoardTest {
 protected:
  void SetUp() override { build(); }
  // A handover with nothing but itself in it.
  void begin_handover() {
    image = std::make_unique<testing::HandoverFixture>(board->memory());
    image->put_fdt(kFdt, kRoot);
    board->memory().fill({kRoot, 4096}, 0);
    image->preserve(kRoot, kFdt, 0);
  }
  bool poisoned(u64 phys) {
    for (u64 i = 0; i < 4096; i += 8) {
      if (load(phys + i) != kWord) return false;
    }
    return true;
  }
  std::unique_ptr<testing::HandoverFixture> image;
};

TEST_F(PoisonTest, WhatWasNotHandedOverIsDestroyedAndNothingElse) {
  begin_handover();
  for (u64 phys = 0x100'0000; phys < 0x102'0000; phys += 4096) store(phys, phys);
  image->preserve(kRoot, 0x100'1000, 0);
  image->preserve(kRoot, 0x100'4000, 2);
  const HandoverRequest request{kFdt, {{0x101'0010, 8}}, {{0x101'2000, 0x1001}}};
  const PoisonStats stats = board->kernel_gone(request);
  EXPECT_TRUE(stats.image_valid) << stats.image_problem;
  for (u64 phys = 0x100'0000; phys < 0x102'0000; phys += 4096) {
    const bool kept = phys == 0x100'1000 || (phys >= 0x100'4000 && phys < 0x100'8000) || phys == 0x101'0000 ||
                      phys == 0x101'2000 || phys == 0x101'3000;
    if (kept) {
      EXPECT_EQ(load(phys), phys);
    } else {
      EXPECT_TRUE(poisoned(phys)) << std::hex << phys;
    }
  }
  EXPECT_EQ(load(kFdt) & 0xFFFF'FFFF, 0xEDFE'0DD0u);
  const HandoverImage again = read_handover(board->memory(), kFdt);
  EXPECT_TRUE(again.valid) << "the tree's nodes must live";
  EXPECT_EQ(again.nodes.size(), stats.node_frames);
  EXPECT_EQ(stats.preserved_frames, 6u);
  EXPECT_EQ(stats.poisoned_frames, 32u - 8);
  // Firmware's tables stand.
  EXPECT_EQ(load(board->rsdp().value), 0x2052'5450'2044'5352u);
}

TEST_F(PoisonTest, WithoutAHandoverNothingIsLeft) {
  store(0x100'0000, 1);
  const GuestFile f(1 << 20);
  ASSERT_TRUE(board->bank_attach(f.fd(), 0, 1 << 20));
  const PoisonStats stats = board->kernel_gone({});
  EXPECT_TRUE(poisoned(0x100'0000));
  EXPECT_EQ(stats.banks_detached, 1u);
  EXPECT_TRUE(board->memory().banks().empty());
}

TEST_F(PoisonTest, BanksLiveWithTheirPreservedBytesAndAreNeverWritten) {
  begin_handover();
  GuestFile kept(4 << 20);
  GuestFile gone(4 << 20);
  kept.set_word(0x1000, 11);
  kept.set_word(0x20'0000, 22);
  const Bank a = *board->bank_attach(kept.fd(), 0, 4 << 20);
  const Bank b = *board->bank_attach(gone.fd(), 0, 4 << 20);
  image->preserve(kRoot, a.base.value + 0x20'0000, 0);  // one page of 4 MiB
  const PoisonStats stats = board->kernel_gone({kFdt, {}, {}});
  EXPECT_EQ(stats.banks_kept, 1u);
  EXPECT_EQ(stats.banks_detached, 1u);
  EXPECT_EQ(kept.word(0x1000), 11u);
  EXPECT_EQ(kept.word(0x20'0000), 22u);
  EXPECT_TRUE(board->bank_lookup(a.base));
  EXPECT_FALSE(board->bank_lookup(b.base));
}

TEST_F(PoisonTest, BrokenImageIsReportedAndKeepsWhatItNamed) {
  begin_handover();
  store(0x100'0000, 1);
  store(0x100'1000, 2);
  image->preserve(kRoot, 0x100'0000, 0);
  store(kRoot + 8 * 3, 0x123);  // behind what is good
  const PoisonStats stats = board->kernel_gone({kFdt, {}, {}});
  EXPECT_FALSE(stats.image_valid);
  EXPECT_FALSE(stats.image_problem.empty());
  EXPECT_EQ(load(0x100'0000), 1u);
  EXPECT_TRUE(poisoned(0x100'1000));
}

TEST_F(PoisonTest, InterruptsWaitForTheNextKernelAfterwards) {
  set_command(testing::kEduAt, 6);
  const unsigned msi = capability(testing::kEduAt, 5);
  set_config32(testing::kEduAt, msi + 4, 0xFEE0'0000);
  set_config16(testing::kEduAt, msi + 12, 0x31);
  set_config16(testing::kEduAt, msi + 2, 1);
  board->kernel_gone({});
  write32((config32(testing::kEduAt, 0x10) & ~0xFu) + 0x60, 1);
  EXPECT_TRUE(messages.empty());
  EXPECT_EQ(board->interrupts().latched, 1u);
}

// The pattern must not be a pointer to anything for the unit, whatever it takes it for.
TEST_F(PoisonTest, TablesThatWereNotPreservedFaultAtEveryLevel) {
  const auto fault_after = [&](u64 table) {
    BoardConfig c = testing::small_machine();
    c.units[0].model.policy = CachePolicy::EvictAlways;
    next_page = 0x20'0000;
    root = 0;
    build(c);
    stream_setup();
    map(guest_top, kIova + (u64{16} << 20), bank.base.value);  // so that there is a table of level 1, too
    u64 victim = root;
    if (table == 1) victim = load(root) & ~u64{0xFFF};
    if (table == 2) victim = guest_top;
    for (unsigned level = 3; level >= 1; --level) {
      if (table == 2 + (4 - level)) victim = entry_at(guest_top, kIova + (u64{16} << 20), level) & ~u64{0xFFF};
    }
    const auto probe = [&] {
      return board->unit(0).translate(kStreamerAt.value, kIova + (u64{16} << 20), 64, Access::Write);
    };
    EXPECT_TRUE(probe().ok());
    board->memory().fill({victim, 4096}, kPoisonWord);
    const Translation t = probe();
    EXPECT_FALSE(t.ok());
    EXPECT_GE(board->unit(0).violation_count(ViolationKind::Poison), 1u);
    return t.fault;
  };
  EXPECT_EQ(fault_after(0), 0xA);  // root
  EXPECT_EQ(fault_after(1), 0xB);  // context
  for (u64 table : {2, 3, 4, 5}) EXPECT_EQ(fault_after(table), 0xC) << table;
}

TEST_F(PoisonTest, LargeMachineWithLittleInItIsQuick) {
  BoardConfig c = testing::small_machine();
  c.ram_bytes = u64{64} << 30;
  build(c);
  begin_handover();
  for (u64 i = 0; i < 64; ++i) store((u64{5} << 30) + i * (u64{900} << 20), 1);
  const PoisonStats stats = board->kernel_gone({kFdt, {}, {}});
  EXPECT_GE(stats.poisoned_frames, 64u);
  EXPECT_LT(stats.poisoned_frames, 64u * 512 + 64);
  EXPECT_LT(stats.elapsed_ns, 2'000'000'000u);
}

}  // namespace
}  // namespace perdure::board
