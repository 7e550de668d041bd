// The oracle: each kind of damage is done by hand and must be found, named, and nothing else.
#include "machine/board/board_fixture.h"
#include "machine/board/record.h"

namespace perdure::board {
namespace {

using testing::GuestFile;
using testing::kBelowAt;
using testing::kStreamerAt;

class AuditTest : public testing::BoardTest {
 protected:
  void SetUp() override {
    build();
    stream_setup();
    start_ring(kStreamerAt, 0, {.slots = 256});
    board->step_for(5'000'000);  // nearly two rounds
    stop_ring(kStreamerAt, 0);
  }
  PhaseResult audit() { return now(board->audit(), kStreamerAt); }
  u64 offset_of(u64 slot) { return slot_iova(kStreamerAt, 0, slot) - kIova; }
  // What else than the number of transfers is not zero.
  static void expect_only(const PhaseResult& r, u64 PhaseResult::* field, u64 n) {
    for (u64 PhaseResult::* f :
         {&PhaseResult::lost, &PhaseResult::corrupted, &PhaseResult::duplicated, &PhaseResult::misdirected,
          &PhaseResult::strays, &PhaseResult::superseded, &PhaseResult::undeclared, &PhaseResult::read_errors}) {
      EXPECT_EQ(r.*f, f == field ? n : 0);
    }
  }
};

TEST_F(AuditTest, UntouchedMemoryIsClean) {
  const PhaseResult r = audit();
  EXPECT_TRUE(r.clean());
  EXPECT_EQ(r.slots_checked, 256u);
  EXPECT_NEAR(static_cast<double>(r.done), 500, 5);
  expect_only(r, nullptr, 0);
  EXPECT_TRUE(board->audit().findings.empty());
  EXPECT_GE(board->audit().scanned_bytes, 256u * 4096);
  EXPECT_TRUE(board->audit().clean(Phase::Before));
}

TEST_F(AuditTest, OldRecordOrNothingIsLost) {
  const u64 at = offset_of(10);
  std::array<u64, 8> old{};
  for (unsigned i = 0; i < 8; ++i) old[i] = guest->word(at + 8 * i);
  write64(ring_at(kStreamerAt, 0), 1);
  board->step_for(5'000'000);
  stop_ring(kStreamerAt, 0);
  for (unsigned i = 0; i < 8; ++i) guest->set_word(at + 8 * i, old[i]);
  const u64 other = offset_of(11);
  for (unsigned i = 0; i < 8; ++i) guest->set_word(other + 8 * i, 0);
  expect_only(audit(), &PhaseResult::lost, 2);
  const AuditReport report = board->audit();
  ASSERT_EQ(report.findings.size(), 2u);
  EXPECT_EQ(report.findings[0].kind, Finding::Kind::Lost);
  EXPECT_EQ(report.findings[0].slot, 10u);
  EXPECT_EQ(report.findings[0].expected_phys, bank.base.value + at);
  EXPECT_THAT(report.findings[0].to_string(), ::testing::HasSubstr("lost: device 0000:00:02.0 ring 0 slot 10"));
  EXPECT_FALSE(report.clean(Phase::Before));
}

TEST_F(AuditTest, OtherContentsAreCorruption) {
  guest->set_word(offset_of(3) + 24, 1);                  // one word of a record
  guest->set_word(offset_of(4), 0xDEAD'FEED'DEAD'FFF7u);  // poison
  expect_only(audit(), &PhaseResult::corrupted, 2);
}

TEST_F(AuditTest, AWholeRecordThatTheDeviceNeverWroteIsCorruption) {
  std::array<u64, 8> w{};
  for (unsigned i = 0; i < 8; ++i) w[i] = guest->word(offset_of(5) + 8 * i);
  Record forged = Record::from(w);
  forged.time_ns += 1;
  forged.seal();
  const std::array<u64, 8> f = forged.words();
  for (unsigned i = 0; i < 8; ++i) guest->set_word(offset_of(5) + 8 * i, f[i]);
  expect_only(audit(), &PhaseResult::corrupted, 1);
}

TEST_F(AuditTest, ARecordInAnotherSlotIsCorruptionThereAndADuplicate) {
  const u64 from = offset_of(20);
  const u64 to = offset_of(21);
  for (unsigned i = 0; i < 8; ++i) guest->set_word(to + 8 * i, guest->word(from + 8 * i));
  const PhaseResult r = audit();
  EXPECT_EQ(r.corrupted, 1u);
  EXPECT_EQ(r.duplicated, 1u);
  EXPECT_EQ(r.strays, 0u);
}

TEST_F(AuditTest, ARecordElsewhereIsADuplicateOrAStray) {
  const u64 from = offset_of(30);
  for (unsigned i = 0; i < 8; ++i) store(0x300'0000 + 8 * i, guest->word(from + 8 * i));
  expect_only(audit(), &PhaseResult::duplicated, 1);
  // The original gone: not twice, but astray, and lost where it should be.
  for (unsigned i = 0; i < 8; ++i) guest->set_word(from + 8 * i, 0);
  const PhaseResult r = audit();
  EXPECT_EQ(r.duplicated, 0u);
  EXPECT_EQ(r.strays, 1u);
  EXPECT_EQ(r.lost, 1u);
  const AuditReport report = board->audit();
  EXPECT_TRUE(std::any_of(report.findings.begin(), report.findings.end(), [](const Finding& f) {
    return f.kind == Finding::Kind::Misdirected && f.found_phys == 0x300'0000 && f.slot == 30;
  }));
  // A copy that is not a whole record is nobody's.
  store(0x300'0000, 0);
  EXPECT_EQ(audit().strays, 0u);
}

TEST_F(AuditTest, WrongTranslationIsMisdirectedAtOnce) {
  // The first 2 MiB lead to kernel RAM now.
  store(entry_at(guest_top, kIova, 2), 0x200'0000 | 3 | 0x80);
  flush_all();
  write64(ring_at(kStreamerAt, 0), 1);
  board->step_for(5'000'000);
  stop_ring(kStreamerAt, 0);
  const PhaseResult r = audit();
  EXPECT_GE(r.misdirected, 32u);  // an eighth of the slots, nearly twice
  EXPECT_EQ(r.lost, 32u) << "they have older records";
  EXPECT_EQ(r.strays, 32u);
  EXPECT_EQ(r.corrupted, 0u);
  EXPECT_EQ(r.refused(), 0u) << "hardware did what the tables said";
}

TEST_F(AuditTest, WritingWhatWasToBeReadIsMisdirected) {
  ASSERT_TRUE(board->declare(kStreamerAt, {kIova, u64{2} << 20, guest->id(), 0, IntentAccess::Read}));
  write64(ring_at(kStreamerAt, 0), 1);
  board->step_for(2'600'000);
  EXPECT_NEAR(static_cast<double>(audit().misdirected), 32, 2);
}

TEST_F(AuditTest, WithdrawnSlotsAreNotJudged) {
  ASSERT_TRUE(board->withdraw(kStreamerAt, kIova, u64{8} << 20));
  guest->set_word(offset_of(0), 0);
  guest->set_word(offset_of(255), 1);
  const PhaseResult r = audit();
  EXPECT_EQ(r.slots_checked, 128u);
  expect_only(r, &PhaseResult::corrupted, 1);
}

TEST_F(AuditTest, TransfersWithoutIntentAreCountedApart) {
  ASSERT_TRUE(board->withdraw(kStreamerAt, 0, ~u64{0}));
  write64(ring_at(kStreamerAt, 0), 1);
  board->step_for(1'000'000);
  EXPECT_NEAR(static_cast<double>(audit().undeclared), 100, 3);
  EXPECT_EQ(audit().slots_checked, 0u);
  EXPECT_EQ(board->declare(Bdf(0, 9, 0), {kIova, 4096, 1, 0, IntentAccess::Read}).error(), Errno::Enodev);
  EXPECT_EQ(board->declare(kStreamerAt, {kIova, 0, 1, 0, IntentAccess::Read}).error(), Errno::Einval);
  EXPECT_EQ(board->declare(kStreamerAt, {kIova + 1, 4096, 1, 0, IntentAccess::Read}).error(), Errno::Einval);
  EXPECT_EQ(board->declare(kStreamerAt, {~u64{0} - 63, 4096, 1, 0, IntentAccess::Read}).error(), Errno::Einval);
}

TEST_F(AuditTest, MovedIntentLeavesOldRecordsInPeace) {
  // The program moves the range to another file: what stays behind is no stray.
  const GuestFile second(u64{16} << 20);
  const Bank other = *board->bank_attach(second.fd(), 0, u64{16} << 20);
  store(entry_at(guest_top, kIova, 3), 0);
  map_range(guest_top, kIova, other.base.value, u64{16} << 20);
  flush_all();
  ASSERT_TRUE(board->declare(kStreamerAt, {kIova, u64{16} << 20, second.id(), 0, IntentAccess::ReadWrite}));
  write64(ring_at(kStreamerAt, 0), 1);
  board->step_for(5'000'000);
  const PhaseResult r = audit();
  EXPECT_EQ(r.slots_checked, 256u);
  EXPECT_TRUE(r.clean());
}

TEST_F(AuditTest, WhatARingWroteBeforeItWasConfiguredAnewIsNotJudged) {
  const u64 from = offset_of(30);
  for (unsigned i = 0; i < 8; ++i) store(0x300'0000 + 8 * i, guest->word(from + 8 * i));
  write64(ring_at(kStreamerAt, 0) + 0x28, 99);
  write64(ring_at(kStreamerAt, 0), 1);
  board->step_for(3'000'000);
  const PhaseResult r = audit();
  EXPECT_EQ(r.slots_checked, 256u);
  EXPECT_TRUE(r.clean());
}

TEST_F(AuditTest, MemoryThatLeftTheMachineIsLost) {
  ASSERT_TRUE(board->bank_detach(bank));
  expect_only(audit(), &PhaseResult::lost, 256);
}

TEST_F(AuditTest, TwoRingsInOneMemorySupersedeEachOther) {
  // Slots of 64 bytes each: both rings use every line, so all of ring 0's are overwritten.
  start_ring(kStreamerAt, 1, {.length = 256 * 64, .slots = 256});
  start_ring(kStreamerAt, 2, {.length = 256 * 64, .slots = 256, .seed = 9});
  board->step_for(6'000'000);
  const PhaseResult r = audit();
  EXPECT_TRUE(r.clean());
  EXPECT_GE(r.superseded, 250u);
  EXPECT_EQ(r.slots_checked, 768u);
}

TEST_F(AuditTest, FindingsAreBoundedAndEveryNumberIsStillRight) {
  BoardConfig c = testing::small_machine();
  next_page = 0x20'0000;
  root = 0;
  build(c);
  stream_setup();
  start_ring(kStreamerAt, 0, {.slots = 4096, .rate = 1'000'000});
  board->step_for(5'000'000);
  stop_ring(kStreamerAt, 0);
  for (u64 slot = 0; slot < 4096; ++slot) guest->set_word(offset_of(slot), 0x5555);
  const AuditReport report = board->audit();
  EXPECT_EQ(now(report, kStreamerAt).corrupted, 4096u);
  EXPECT_EQ(report.findings.size(), 256u);
}

TEST_F(AuditTest, PhasesKeepTheirOwnNumbers) {
  write64(ring_at(kStreamerAt, 0), 1);
  const AuditReport before = board->enter_phase(Phase::During);
  EXPECT_TRUE(before.clean(Phase::Before));
  const u64 done_before = before.devices[0].in(Phase::Before).done;
  EXPECT_EQ(board->phase(), Phase::During);
  set_command(kStreamerAt, 2);
  board->step_for(2'000'000);
  set_command(kStreamerAt, 6);
  board->step_for(1'000'000);
  const AuditReport during = board->enter_phase(Phase::After);
  const DeviceResult& d = during.devices[0];
  EXPECT_EQ(d.in(Phase::Before).done, done_before);
  EXPECT_NEAR(static_cast<double>(d.in(Phase::During).not_done_by(Cause::BusMasterOff)), 200, 4);
  EXPECT_NEAR(static_cast<double>(d.in(Phase::During).longest_gap_ns), 2e6, 1e5);
  EXPECT_FALSE(during.clean(Phase::During));
  EXPECT_TRUE(during.clean(Phase::Before));
  board->step_for(1'000'000);
  const AuditReport after = board->audit();
  EXPECT_TRUE(after.clean(Phase::After));
  EXPECT_LT(after.devices[0].in(Phase::After).longest_gap_ns, 100'000u);
  EXPECT_EQ(after.devices[0].in(Phase::During).done, d.in(Phase::During).done);
}

TEST_F(AuditTest, TheNextUpdateStartsFromZero) {
  set_config16(kBelowAt, capability(kBelowAt, 0x10) + 8, 0x8000);  // a reset, as at BIND
  EXPECT_EQ(now(board->audit(), kBelowAt).resets, 1u);
  board->enter_phase(Phase::Before);
  EXPECT_EQ(now(board->audit(), kBelowAt).resets, 0u);
  board->enter_phase(Phase::During);
  write64(ring_at(kStreamerAt, 0), 1);
  board->step_for(1'000'000);
  board->enter_phase(Phase::After);
  EXPECT_GT(board->audit().devices[0].in(Phase::During).done, 90u);
  board->enter_phase(Phase::Before);
  EXPECT_EQ(board->audit().devices[0].in(Phase::During).done, 0u);
  EXPECT_EQ(board->audit().devices[0].in(Phase::Before).slots_checked, 256u) << "slots are judged all the same";
}

TEST_F(AuditTest, AGapStillOpenCounts) {
  write64(ring_at(kStreamerAt, 0), 1);
  board->step_for(100'000);
  board->enter_phase(Phase::During);
  set_command(kStreamerAt, 2);
  board->step_for(3'000'000);
  EXPECT_GE(audit().longest_gap_ns, 2'900'000u);
}

TEST_F(AuditTest, TranslationGapIsSeen) {
  write64(ring_at(kStreamerAt, 0), 1);
  board->step_for(100'000);
  board->enter_phase(Phase::During);
  board->break_translation_for(5'000'000);
  board->step_for(100'000);
  const PhaseResult r = audit();
  // The IOVA is no memory of this machine, so the records went nowhere.
  EXPECT_NEAR(static_cast<double>(r.not_done_by(Cause::Unbacked)), 500, 10);
  EXPECT_GE(r.longest_gap_ns, 4'900'000u);
  EXPECT_FALSE(r.clean());
  ASSERT_EQ(board->unit(0).gaps().size(), 1u);
  EXPECT_GE(r.done, 5u) << "and goes on afterwards";
}

TEST(Ledger, IntentsAreCutAndReplaced) {
  DeviceLedger ledger;
  ASSERT_TRUE(ledger.declare({0x1000, 0x3000, 1, 0x8000, IntentAccess::ReadWrite}));
  ASSERT_TRUE(ledger.declare({0x2000, 0x1000, 2, 0, IntentAccess::Read}));
  EXPECT_EQ(ledger.intents().size(), 3u);
  EXPECT_EQ(ledger.place_of(0x1FFF)->offset, 0x8FFFu);
  EXPECT_EQ(ledger.place_of(0x1FFF)->length, 1u);
  EXPECT_EQ(ledger.place_of(0x2000)->host_id, 2u);
  EXPECT_EQ(ledger.place_of(0x3040)->host_id, 1u);
  EXPECT_EQ(ledger.place_of(0x3040)->offset, 0xA040u);
  EXPECT_FALSE(ledger.place_of(0x4000));
  EXPECT_FALSE(ledger.place_of(0xFFF));
  EXPECT_TRUE(ledger.ever_intended(0x2040, 1, 0x9040));
  EXPECT_TRUE(ledger.ever_intended(0x2040, 2, 0x40));
  EXPECT_FALSE(ledger.ever_intended(0x2040, 1, 0x9000));
  ledger.withdraw(0x1040, 0x40);
  EXPECT_TRUE(ledger.place_of(0x1000));
  EXPECT_FALSE(ledger.place_of(0x1040));
  EXPECT_TRUE(ledger.place_of(0x1080));
  ledger.withdraw(0x1000, ~u64{0});
  EXPECT_TRUE(ledger.intents().empty());
  ASSERT_TRUE(ledger.declare({~u64{0} - 0xFFF, 0x1000, 3, 0, IntentAccess::Read}));
  EXPECT_EQ(ledger.place_of(~u64{0})->offset, 0xFFFu);
  ledger.rename_hosts({{3, 30}, {1, 10}});
  EXPECT_EQ(ledger.place_of(~u64{0})->host_id, 30u);
  EXPECT_TRUE(ledger.ever_intended(0x2040, 10, 0x9040));
}

}  // namespace
}  // namespace perdure::board
