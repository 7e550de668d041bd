// Device interrupts across updates, counted by the devices against what arrived at eventfds: equal outside of the gap,
// and of the gap each vector once after it.
#include "tests/small_machine.h"

namespace perdure::tool {
namespace {

using board::CachePolicy;
using board::Phase;

constexpr u64 kStretch = 1'000'000;
constexpr u64 kGap = 200'000;  // some transfers of every ring, while there is no kernel

RigConfig with_interrupts(const SmallMachine& small) {
  RigConfig config = small_machine(small);
  config.plan.irq_every = 16;
  config.plan.rest_ns = 20'000;
  return config;
}

struct Variant {
  const char* name;
  SmallMachine machine;
  scenarios::Take take = scenarios::Take::Replace;
};

class Interrupts : public testing::TestWithParam<Variant> {};

TEST_P(Interrupts, ThoseOfTheGapArriveOnceAfterIt) {
  RigConfig config = with_interrupts(GetParam().machine);
  config.plan.take = GetParam().take;
  InProcessRig rig(config);
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  for (u32 hop = 1; hop <= 3; ++hop) {
    SCOPED_TRACE("hop " + std::to_string(hop));
    rig.run_for(kStretch);
    ASSERT_DONE(rig.verify());
    rig.board().enter_phase(Phase::During);
    ASSERT_DONE(rig.preserve());
    const u64 latched = rig.board().interrupts().latched;
    ASSERT_DONE(rig.leave(hop % 2 == 1 ? "b" : "a"));
    rig.board().step_for(kGap);
    EXPECT_GT(rig.board().interrupts().latched, latched);
    ASSERT_DONE(rig.arrive());
    ASSERT_DONE(rig.start_program(hop));
    rig.run_for(kStretch);
    ASSERT_DONE(rig.verify());
    expect_clean(rig, Phase::During);
    rig.board().enter_phase(Phase::Before);
    EXPECT_EQ(rig.board().interrupts().dropped, 0U);
    EXPECT_EQ(rig.board().blocked_messages(), 0U);
    EXPECT_EQ(problems_of(rig), "");
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, Interrupts,
                         testing::Values(Variant{"Sticky", {.caches = CachePolicy::Sticky}},
                                         Variant{"EvictAlways", {.caches = CachePolicy::EvictAlways}},
                                         Variant{"FourDevices", {.caches = CachePolicy::Random, .devices = 4}},
                                         Variant{"NotCoherent", {.devices = 4, .coherent = false}},
                                         Variant{"Keep", {.seed = 7}, scenarios::Take::Keep},
                                         Variant{"Adopt", {.seed = 8}, scenarios::Take::Adopt}),
                         [](const auto& variant) { return std::string(variant.param.name); });

TEST(Interrupts, InScalableMode) {
  RigConfig config = with_interrupts({.seed = 3});
  config.board.units[0].model.scalable = true;
  InProcessRig rig(config);
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  rig.run_for(kStretch);
  ASSERT_DONE(rig.preserve());
  ASSERT_DONE(rig.kexec("b"));
  ASSERT_DONE(rig.start_program(1));
  rig.run_for(kStretch);
  ASSERT_DONE(rig.verify());
  EXPECT_EQ(problems_of(rig), "");
}

// Nobody comes back in the kernel between: what it was given goes back to the processor, and arrives in the one after.
TEST(Interrupts, GoOnThroughAKernelWithoutTheirProgram) {
  InProcessRig rig(with_interrupts({.seed = 4}));
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  rig.run_for(kStretch);
  ASSERT_DONE(rig.preserve());
  ASSERT_DONE(rig.kexec("b"));
  rig.new_program();
  rig.run_for(kStretch);
  ASSERT_DONE(rig.kexec("a"));
  ASSERT_DONE(rig.start_program(1));
  rig.run_for(kStretch);
  ASSERT_DONE(rig.verify());
  EXPECT_EQ(problems_of(rig), "");
}

// A machine that is saved with interrupts pending.
TEST(Interrupts, ArePartOfASavedMachine) {
  const RigConfig config = with_interrupts({.seed = 5});
  const std::filesystem::path saved = std::filesystem::path(testing::TempDir()) / "perdure-saved-interrupts";
  std::filesystem::remove_all(saved);
  process::InProcessMachine::Jump jump;
  {
    InProcessRig rig(config);
    ASSERT_DONE(rig.power_on("a"));
    ASSERT_DONE(rig.start_program(0));
    rig.run_for(kStretch);
    ASSERT_DONE(rig.preserve());
    ASSERT_DONE(rig.leave("b"));
    rig.run_for(kStretch);
    jump = rig.next();
    rig.board().save(saved);
  }
  InProcessRig rig(config, board::Board::load(saved));
  ASSERT_DONE(rig.arrive(jump));
  ASSERT_DONE(rig.start_program(1));
  rig.run_for(kStretch);
  ASSERT_DONE(rig.verify());
  EXPECT_EQ(problems_of(rig), "");
  std::filesystem::remove_all(saved);
}

// --- the units' own events ---------------------------------------------------------------------------------------

usize count_of(std::string_view text, std::string_view what) {
  usize n = 0;
  for (usize at = text.find(what); at != std::string_view::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

// T13: masked for the jump; a fault of the gap is reported once, by the kernel after it, and the next one interrupts.
TEST(FaultEvent, IsMaskedForTheJumpAndArmedAgainAfterIt) {
  constexpr u16 kNobody = 0x00F8;
  InProcessRig rig(small_machine({.seed = 2}));
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  ASSERT_DONE(rig.preserve());
  ASSERT_DONE(rig.leave("b"));
  const u64 latched = rig.board().interrupts().latched;
  (void)rig.board().unit(0).translate(kNobody, 0x5000, 8, board::Access::Read);
  rig.run_for(10'000);
  EXPECT_EQ(rig.board().interrupts().latched, latched) << "the event would be the old kernel's";
  ASSERT_DONE(rig.arrive());
  const std::string first = problems_of(rig);
  EXPECT_EQ(count_of(first, "inherited fault"), 1U) << first;
  ASSERT_DONE(rig.start_program(1));
  EXPECT_EQ(problems_of(rig), "");
  (void)rig.board().unit(0).translate(kNobody, 0x6000, 8, board::Access::Read);
  rig.run_for(10'000);
  ASSERT_DONE(rig.verify());
  const std::string second = problems_of(rig);
  EXPECT_EQ(count_of(second, "fault"), 1U) << second;
}

// The queue's own event is nobody's: that of a former kernel which used it is masked and cleared at the jump, does not
// arrive when its queue completes a wait in the gap, and is not left pending by the kernel after it.
TEST(CompletionEvent, OfAFormerKernelReachesNobody) {
  constexpr u32 kMask = 0x8000'0000, kPending = 0x4000'0000;
  InProcessRig rig(small_machine({.seed = 2}));
  board::IommuModel& unit = rig.board().unit(0);
  const auto expect_silent = [&] {
    EXPECT_EQ(unit.read(0x9C, 4), 0U);
    EXPECT_EQ(unit.read(0xA0, 4), kMask);
    for (const u64 at : {0xA4, 0xA8, 0xAC}) EXPECT_EQ(unit.read(at, 4), 0U) << at;
  };
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  unit.write(0xA4, 4, 0x30);
  unit.write(0xA8, 4, 0xFEE0'0000);
  unit.write(0xA0, 4, 0);
  ASSERT_DONE(rig.preserve());
  ASSERT_DONE(rig.leave("b"));
  expect_silent();

  // A wait that asks for the event alone, behind the last one.
  const u64 tail = unit.read(0x88, 8);
  const u64 slot = (unit.read(0x90, 8) & ~u64{0xFFF}) + tail;
  rig.board().memory().fill({slot, 16}, 0);
  ASSERT_TRUE(rig.board().memory().store32(slot, 0x15));
  const board::InterruptCounts before = rig.board().interrupts();
  unit.write(0x88, 8, (tail + 16) % kPageSize);
  rig.board().step_for(kGap);
  EXPECT_EQ(unit.read(0xA0, 4), kMask | kPending);
  EXPECT_EQ(rig.board().interrupts().latched, before.latched);
  EXPECT_EQ(rig.board().interrupts().dropped, before.dropped);

  ASSERT_DONE(rig.arrive());
  expect_silent();
  ASSERT_DONE(rig.start_program(1));
  rig.run_for(kStretch);
  ASSERT_DONE(rig.verify());
  EXPECT_EQ(problems_of(rig), "");
}

// --- the proof failing -------------------------------------------------------------------------------------------

// Interrupts of the gap alone: by the time the next kernel starts the device has fallen silent. `kept`: by the
// processors.
Result<void> come_back_after_a_gap(RigConfig config, bool kept, std::string& problems) {
  config.board.keep_interrupts = kept;
  InProcessRig rig(config);
  TRY(rig.power_on("a"));
  TRY(rig.start_program(0));
  rig.run_for(kStretch);
  TRY(rig.preserve());
  TRY(rig.leave("b"));
  rig.run_for(kStretch);
  board::Board& board = rig.board();
  const Phys rings(board.device(config.board.devices[0].bdf)->bar_address(0) + 0x1000);
  for (u64 ring = 0; ring < 4; ++ring) {
    const Phys control = rings + ring * 0x100;
    board.mmio_write(control, Width::W64, board.mmio_read(control, Width::W64) & ~u64{4});
  }
  const board::InterruptCounts counts = board.interrupts();
  EXPECT_EQ(kept, counts.latched >= 4 && counts.coalesced > 0 && counts.dropped == 0);
  EXPECT_EQ(kept, counts.dropped == 0);
  TRY(rig.arrive());
  const Result<void> back = rig.start_program(1);
  problems = problems_of(rig);
  return back;
}

TEST(InterruptsMissed, WhenNoProcessorKeepsThem) {
  std::string problems;
  EXPECT_TRUE(come_back_after_a_gap(with_interrupts({.seed = 6}), true, problems)) << problems;
  EXPECT_FALSE(come_back_after_a_gap(with_interrupts({.seed = 6}), false, problems));
  EXPECT_NE(problems.find("did not arrive"), std::string::npos) << problems;
}

TEST(InterruptsMissed, WhenTheirEntriesAreNotCarried) {
  InProcessRig rig(with_interrupts({.seed = 6}));
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  rig.run_for(kStretch);
  ASSERT_DONE(rig.preserve());
  ASSERT_DONE(rig.leave("b"));
  const u64 table = rig.board().unit(0).read(0xB8, 8) & ~u64{0xFFF};
  rig.board().memory().fill({table, kPageSize}, 0);
  ASSERT_DONE(rig.arrive());
  EXPECT_FALSE(rig.start_program(1));
  EXPECT_GT(rig.board().blocked_messages(), 0U);
  EXPECT_NE(problems_of(rig).find("did not arrive"), std::string::npos);
}

// Without remapping Linux's rule holds: a preserved device must have its interrupts off.
TEST(InterruptsMissed, AreRefusedWithoutRemapping) {
  RigConfig config = with_interrupts({.seed = 9});
  config.board.units[0].model.interrupt_remap = false;
  InProcessRig rig(config);
  ASSERT_DONE(rig.power_on("a"));
  ASSERT_DONE(rig.start_program(0));
  rig.run_for(kStretch);
  ASSERT_DONE(rig.preserve());
  const auto refused = rig.kexec("b");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error(), Errno::Einval);
  // And goes on as before.
  rig.run_for(kStretch);
  ASSERT_DONE(rig.verify());
}

}  // namespace
}  // namespace perdure::tool
