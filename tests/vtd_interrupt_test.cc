// Interrupt remapping under interrupts: entries come, go and cross the jump while devices send between any two stores.
#include "tests/vtd_adopt_fixture.h"

namespace perdure::vtd {
namespace {

class VtdInterruptTest : public VtdAdoptTest {
 protected:
  static constexpr u64 kIrta = 0xb8;

  InterruptRemapper& remapper() { return *unit->interrupt_remapper(); }
  u32 alloc(SourceId source, unsigned count) { return *remapper().alloc(std::span(&source, 1), count); }
  // Entry → vector, and from now on at every moment.
  void use(SourceId source, u32 index, IrqLink& link) {
    const MsiTarget target = *hw.irq_alloc(link);
    ASSERT_TRUE(remapper().set(index, target, link)) << log();
    hw.irq_must[{source.bdf, index}] = target.data;
    hw.devices();
  }
  void block(SourceId source, u32 index) {
    hw.irq_must.erase({source.bdf, index});
    hw.irq_must_not[{source.bdf, index}] = 0;
    hw.devices();
  }
  // Ready for the jump: the functions of `keep` have their entries.
  void quiesce(std::initializer_list<SourceId> keep) {
    table = &domain();
    did = *unit->did_alloc();
    data = page();
    map(*table, did, 0x10'0000, data);
    ASSERT_TRUE(unit->set_entry(kStays, did, *table));
    ASSERT_TRUE(unit->preserve(world.kho()));
    preserve(*table, {data});
    ASSERT_TRUE(
        unit->quiesce([&](SourceId source) { return std::find(keep.begin(), keep.end(), source) != keep.end(); }));
    unit->fill_record(record);
  }
  Result<void> adopt_with(std::initializer_list<SourceId> recorded) {
    std::vector<InterruptOwner> owners;
    for (const SourceId& s : recorded) owners.push_back({s.bdf, InterruptEntry::source_of(std::span(&s, 1))});
    UnitConfig c = config();
    c.interrupt_owners = owners;
    auto made = VtdUnit::adopt(world.heap(), world.kho(), record, c);
    if (!made) return fail(made.error());
    unit = std::move(*made);
    hw.devices();
    return {};
  }
  u64* entry_of_record(u32 index) { return world.machine.virt<u64>(Phys((record.irta & ~u64{0xfff}) + index * 16)); }

  IrqLink links[8];
};

TEST_P(VtdInterruptTest, EntriesComeAndGo) {
  create();
  const u32 first = alloc(kStays, 4);
  const u32 other = alloc(kSibling, 1);
  block(kStays, first);
  hw.irq_must_not.clear();
  use(kStays, first, links[0]);
  use(kStays, first + 3, links[1]);
  use(kSibling, other, links[2]);
  // Only from whose they are, and in no other format.
  block(kSibling, first);
  block(kStays, other);
  block(kStays, first + 1);
  EXPECT_EQ(hw.model.interrupt(kStays.bdf, 0xfee0'0000, 0x41).passes,
            hw.model.config().quirks.compatible_messages_pass);
  // Gone when clear() returns.
  hw.irq_must.erase({kStays.bdf, first});
  ASSERT_TRUE(remapper().clear(first));
  block(kStays, first);
  // Another target at the same place.
  const MsiTarget moved = *hw.irq_alloc(links[3]);
  hw.irq_must.erase({kStays.bdf, first + 3});
  ASSERT_TRUE(remapper().set(first + 3, moved, links[3]));
  hw.irq_must[{kStays.bdf, first + 3}] = moved.data;
  hw.devices();
  hw.irq_must.clear();
  remapper().free(first, 4);
  block(kStays, first + 3);
  // What was freed is somebody else's, and only his.
  hw.irq_must_not.clear();
  EXPECT_EQ(alloc(kLeaves, 4), first);
  use(kLeaves, first, links[4]);
  block(kStays, first);
  hw.irq_must.clear();
  remapper().free(first, 4);
  remapper().free(other, 1);
  expect_clean();
}

TEST_P(VtdInterruptTest, TheMessageOfARunReachesEachOfItsEntries) {
  create();
  const u32 first = alloc(kStays, 4);
  for (unsigned i = 0; i < 4; ++i) use(kStays, first + i, links[i]);
  const MsiTarget message = remapper().message(first);
  for (unsigned i = 0; i < 4; ++i) {
    const auto m = hw.model.interrupt(kStays.bdf, message.address, message.data + i);
    EXPECT_EQ(m.data, (hw.irq_must[{kStays.bdf, first + i}]));
  }
  hw.irq_must.clear();
  remapper().free(first, 4);
  expect_clean();
}

TEST_P(VtdInterruptTest, TheTableGrowsUnderThem) {
  create();
  const u32 first = alloc(kStays, 2);
  use(kStays, first, links[0]);
  const u64 before = hw.model.read(kIrta, 8);
  // Preserved: the handover follows.
  ASSERT_TRUE(unit->preserve(world.kho()));
  const u32 many = alloc(kSibling, 600);
  use(kSibling, many + 599, links[1]);
  const u64 after = hw.model.read(kIrta, 8);
  EXPECT_NE(after, before);
  EXPECT_EQ(after & 0xf, 9u) << "1,024 entries";
  EXPECT_FALSE(world.kho().is_preserved(Phys(before & ~u64{0xfff}), 0));
  EXPECT_TRUE(world.kho().is_preserved(Phys(after & ~u64{0xfff}), 2));
  const SourceId too_many = kLeaves;
  EXPECT_EQ(remapper().alloc(std::span(&too_many, 1), 65536).error(), Errno::Enospc);
  hw.irq_must.clear();
  remapper().free(many, 600);
  remapper().free(first, 2);
  expect_clean();
}

// Equal results at equal places, remapping never off, from the old kernel's last store to the new one's first.
TEST_P(VtdInterruptTest, PreservedOnesCrossTheJump) {
  create();
  const u32 leaving = alloc(kLeaves, 2);
  use(kLeaves, leaving, links[0]);
  const u32 first = alloc(kStays, 4);
  use(kStays, first, links[1]);
  use(kStays, first + 2, links[2]);
  hw.irq_must.erase({kLeaves.bdf, leaving});
  quiesce({kStays});
  // Not preserved: blocked from here on.
  block(kLeaves, leaving);
  const Phys old_table(record.irta & ~u64{0xfff});
  jump();
  EXPECT_TRUE(hw.sinks.empty());
  ASSERT_TRUE(adopt_with({kStays})) << log();
  EXPECT_NE(hw.model.read(kIrta, 8), record.irta);
  EXPECT_FALSE(world.frames().in_use(old_table, kPageSize));
  // Their vectors are this kernel's, and nobody else was given them.
  const u32 vector = hw.irq_must[{kStays.bdf, first}];
  ASSERT_TRUE(hw.sinks.contains(vector));
  // What comes before their program is back is kept.
  hw.sinks[vector]->raise();
  hw.sinks[vector]->raise();
  // A hole of theirs is not given to others.
  const u32 fresh = alloc(kSibling, 1);
  EXPECT_TRUE(fresh < first || fresh >= first + 4);
  EXPECT_EQ(
      remapper().take(std::span(&kSibling, 1), first, 4, [](unsigned, Owned<IrqLink>, const MsiTarget&) {}).error(),
      Errno::Enoent);
  std::map<unsigned, Owned<IrqLink>> taken;
  ASSERT_TRUE(
      remapper().take(std::span(&kStays, 1), first, 4, [&](unsigned i, Owned<IrqLink> link, const MsiTarget& target) {
        EXPECT_EQ(target.data, (hw.irq_must[{kStays.bdf, first + i}]));
        taken[i] = std::move(link);
      }));
  ASSERT_EQ(taken.size(), 2u);
  EXPECT_TRUE(taken[0]->pending());
  EXPECT_FALSE(taken[2]->pending());
  EXPECT_EQ(remapper().take(std::span(&kStays, 1), first, 4, [](unsigned, Owned<IrqLink>, const MsiTarget&) {}).error(),
            Errno::Enoent)
      << "once";
  hw.devices();
  hw.irq_must.clear();
  remapper().free(first, 4);
  remapper().free(fresh, 1);
  expect_clean();
}

// Several jumps with nobody coming back in between: what is kept goes back to the processor, and along.
TEST_P(VtdInterruptTest, AgainAndAgain) {
  create();
  const u32 first = alloc(kStays, 2);
  use(kStays, first + 1, links[0]);
  quiesce({kStays});
  const u32 vector = hw.irq_must[{kStays.bdf, first + 1}];
  const Phys top = table->top();
  for (int hop = 0; hop < 3; ++hop) {
    SCOPED_TRACE(hop);
    jump();
    ASSERT_TRUE(adopt_with({kStays})) << log();
    ASSERT_TRUE(hw.sinks.contains(vector));
    hw.sinks[vector]->raise();
    hw.raised.clear();
    // The table that the entry leads to goes along.
    ASSERT_TRUE(world.kho().restore(top, 0));
    ASSERT_TRUE(world.kho().preserve(top, 0));
    ASSERT_TRUE(unit->preserve(world.kho()));
    ASSERT_TRUE(unit->quiesce([](SourceId source) { return source == kStays; }));
    EXPECT_EQ(hw.raised, std::vector<u32>{vector});
    unit->fill_record(record);
    hw.devices();
  }
  EXPECT_GT(hw.interrupts, 0u);
  hw.irq_must.clear();
  expect_clean();
}

TEST_P(VtdInterruptTest, WhatNoRecordSpeaksForIsBlocked) {
  create();
  const u32 mine = alloc(kStays, 2);
  use(kStays, mine, links[0]);
  use(kStays, mine + 1, links[1]);
  const u32 other = alloc(kSibling, 1);
  use(kSibling, other, links[2]);
  quiesce({kStays, kSibling});
  jump();
  // Somebody wrote into the table: an entry that lets another function in, and one that does more than a kernel asks
  // for.
  entry_of_record(mine + 1)[0] |= 1 << 2;
  hw.irq_must.erase({kStays.bdf, mine + 1});
  // The sibling's entry is in the unit's cache: only a flush of everything gets it out.
  hw.irq_must.erase({kSibling.bdf, other});
  ASSERT_TRUE(adopt_with({kStays})) << log();
  block(kSibling, other);
  block(kStays, mine + 1);
  EXPECT_NE(log().find("2 interrupt entries"), std::string::npos) << log();
  hw.irq_must.clear();
  expect_clean();
}

TEST_P(VtdInterruptTest, DroppedWhenTheirFunctionIsNotHeld) {
  create();
  const u32 mine = alloc(kStays, 2);
  use(kStays, mine, links[0]);
  quiesce({kStays});
  jump();
  ASSERT_TRUE(adopt_with({kStays})) << log();
  const u32 vector = hw.irq_must[{kStays.bdf, mine}];
  hw.irq_must.clear();
  remapper().drop_carried(kSibling);
  EXPECT_TRUE(hw.sinks.contains(vector));
  remapper().drop_carried(kStays);
  EXPECT_FALSE(hw.sinks.contains(vector));
  block(kStays, mine);
  expect_clean();
}

TEST_P(VtdInterruptTest, ATableThatCannotBeTakenOverIsRefused) {
  create();
  const u32 mine = alloc(kStays, 2);
  use(kStays, mine, links[0]);
  quiesce({kStays});
  hw.irq_must.clear();
  world.kho().unpreserve(Phys(record.irta & ~u64{0xfff}), 0);
  expect_refused("interrupt remapping table");
}

TEST_P(VtdInterruptTest, AFailedJumpPutsThemBack) {
  create();
  const u32 leaving = alloc(kLeaves, 1);
  use(kLeaves, leaving, links[0]);
  const u32 first = alloc(kStays, 1);
  use(kStays, first, links[1]);
  hw.irq_must.erase({kLeaves.bdf, leaving});
  quiesce({kStays});
  block(kLeaves, leaving);
  const SourceId late = kSibling;
  EXPECT_EQ(remapper().alloc(std::span(&late, 1), 1).error(), Errno::Ebusy);
  hw.irq_must_not.clear();
  unit->resume();
  use(kLeaves, leaving, links[0]);
  hw.irq_must.clear();
  remapper().free(first, 1);
  remapper().free(leaving, 1);
  expect_clean();
}

TEST_P(VtdInterruptTest, WhatIsKeptForNobodyGoesBackToTheProcessor) {
  create();
  const u32 first = alloc(kStays, 2);
  IrqLink kept(true);
  use(kStays, first, kept);
  use(kStays, first + 1, links[0]);
  kept.raise();
  quiesce({kStays});
  EXPECT_EQ(hw.raised, std::vector<u32>{(hw.irq_must[{kStays.bdf, first}])});
}

// Also of units that were never asked to hand anything over.
TEST_P(VtdInterruptTest, OffWithTheUnitAndOnAgainWithIt) {
  create();
  const u32 first = alloc(kStays, 1);
  use(kStays, first, links[0]);
  hw.irq_must.erase({kStays.bdf, first});
  unit->disable();
  EXPECT_EQ(hw.model.read(0x1c, 4) & 1u << 25, 0u);
  unit->resume();
  EXPECT_NE(hw.model.read(0x1c, 4) & 1u << 25, 0u);
  use(kStays, first, links[0]);
  hw.irq_must.clear();
  for (const auto& v : hw.model.violations()) ADD_FAILURE() << v.to_string();
}

// The fault event is masked for the jump: what comes in the gap stays in the registers, is reported once, and the next
// fault interrupts again.
TEST_P(VtdInterruptTest, FaultsOfTheGapAreReportedOnceAndTheEventIsArmedAgain) {
  create();
  quiesce({kStays});
  const u64 messages = hw.messages;
  jump();
  static_cast<void>(hw.model.translate(kLeaves.bdf, 0x5000, 8, board::Access::Read));
  EXPECT_EQ(hw.messages, messages) << "masked";
  ASSERT_TRUE(adopt_with({})) << log();
  EXPECT_EQ(unit->faults().reported(), 1u);
  EXPECT_NE(log().find("inherited fault 1"), std::string::npos) << log();
  static_cast<void>(hw.model.translate(kLeaves.bdf, 0x6000, 8, board::Access::Read));
  EXPECT_EQ(unit->faults().reported(), 2u);
}

// A storm masks the event; when it is over, service() finds out, and the next fault interrupts again.
TEST_P(VtdInterruptTest, AStormEndsWithTheNextService) {
  create();
  must_not(kLeaves, 0x7000);
  // The first one interrupts; whatever is written to read it lets the device try again.
  static_cast<void>(hw.model.translate(kLeaves.bdf, 0x7000, 8, board::Access::Read));
  ASSERT_TRUE(unit->faults().storming());
  unit->service();
  EXPECT_TRUE(unit->faults().storming()) << "still";
  hw.must_not.clear();
  unit->service();
  EXPECT_FALSE(unit->faults().storming());
  const u64 reported = unit->faults().reported();
  static_cast<void>(hw.model.translate(kLeaves.bdf, 0x8000, 8, board::Access::Read));
  EXPECT_EQ(unit->faults().reported(), reported + 1);
}

// The event of the queue, which this driver has no use for, in the hands of a former kernel that had.
class VtdCompletionEventTest : public VtdInterruptTest {
 protected:
  static constexpr u64 kStatus = 0x9c, kControl = 0xa0, kData = 0xa4, kAddress = 0xa8, kUpper = 0xac;
  static constexpr u64 kMask = 0x8000'0000, kPending = 0x4000'0000;

  // The first vector that the next kernel gives out.
  void arm(bool masked) {
    hw.model.write(kControl, 4, kMask);
    hw.model.write(kData, 4, 0x30);
    hw.model.write(kAddress, 4, 0xfee0'0000);
    hw.model.write(kUpper, 4, 0);
    if (!masked) hw.model.write(kControl, 4, 0);
  }
  // A wait with IF alone behind what is in the queue. A slow unit has it still to do.
  void ask_for_it() {
    const u64 bytes = record.queue_descriptor_bytes;
    const u64 tail = hw.model.read(0x88, 8);
    u64* slot = world.machine.virt<u64>(Phys((record.iqa & ~u64{0xfff}) + tail));
    for (u64 i = 0; i < bytes / 8; ++i) slot[i] = i == 0 ? 0x15 : 0;
    hw.written_back(Phys((record.iqa & ~u64{0xfff}) + tail), bytes);
    hw.model.write(0x88, 8, (tail + bytes) % (kPageSize << record.queue_order));
  }
  void settle() {
    while (hw.model.step()) {
    }
  }
  void expect_silent() {
    EXPECT_EQ(hw.model.read(kStatus, 4), 0u);
    EXPECT_EQ(hw.model.read(kControl, 4), kMask);
    for (const u64 at : {kData, kAddress, kUpper}) EXPECT_EQ(hw.model.read(at, 4), 0u) << std::hex << at;
    // Nothing is kept for the day on which it is unmasked, either.
    hw.model.write(kControl, 4, 0);
    EXPECT_EQ(hw.messages, messages);
    hw.model.write(kControl, 4, kMask);
  }
  void arrive() {
    jump();
    must(kStays, 0x10'0000, data);
    ASSERT_TRUE(adopt(record)) << log();
    expect_silent();
    expect_clean();
  }

  u64 messages = 0;
};

// Masked and cleared at the jump: what comes in the gap goes nowhere, and is forgotten by the next kernel.
TEST_P(VtdCompletionEventTest, IsMaskedForTheJump) {
  prepare();
  unit->resume();
  arm(false);
  ASSERT_TRUE(unit->quiesce([](SourceId) { return true; }));
  messages = hw.messages;
  expect_silent();
  ask_for_it();
  settle();
  EXPECT_EQ(hw.model.read(kStatus, 4), 1u);
  EXPECT_EQ(hw.model.read(kControl, 4), kMask | kPending);
  EXPECT_EQ(hw.messages, messages);
  arrive();
}

TEST_P(VtdCompletionEventTest, PendingFromAFormerKernelIsForgotten) {
  prepare();
  messages = hw.messages;
  arm(true);
  ask_for_it();
  settle();
  EXPECT_EQ(hw.model.read(kControl, 4), kMask | kPending);
  arrive();
}

// Also in a unit that is blocked because nobody can account for it.
TEST_P(VtdCompletionEventTest, PendingInAUnitThatIsBlockedIsForgotten) {
  prepare();
  messages = hw.messages;
  arm(true);
  ask_for_it();
  settle();
  jump();
  ASSERT_TRUE(VtdUnit::block_all(world.frames(), base(), config())) << log();
  expect_silent();
  EXPECT_EQ(hw.te_off, 0u);
}

// Not masked by its kernel, and not there yet: the unit comes to it while the next kernel takes its queue over.
class VtdLateCompletionEventTest : public VtdCompletionEventTest {};

TEST_P(VtdLateCompletionEventTest, ReachesNobody) {
  prepare();
  messages = hw.messages;
  arm(false);
  ask_for_it();
  ASSERT_EQ(hw.model.read(kStatus, 4), 0u) << "still to come";
  arrive();
}

INSTANTIATE_TEST_SUITE_P(Units, VtdCompletionEventTest, testing::ValuesIn(all_variants()),
                         [](const auto& variant) { return std::string(variant.param.name); });
INSTANTIATE_TEST_SUITE_P(Units, VtdLateCompletionEventTest,
                         testing::ValuesIn(variants_named({"slow", "slow_not_coherent", "second_stage_random_slow",
                                                           "first_stage_random_slow"})),
                         [](const auto& variant) { return std::string(variant.param.name); });
INSTANTIATE_TEST_SUITE_P(Units, VtdInterruptTest, testing::ValuesIn(all_variants()),
                         [](const auto& variant) { return std::string(variant.param.name); });

}  // namespace
}  // namespace perdure::vtd
