// Interrupt remapping at register level: formats, entries, source ids, faults, the cache of entries, what the checker
// says. Numbers from the specification, not the model's names.
#include "machine/board/iommu/iommu_fixture.h"

namespace perdure::board::testing {
namespace {

class Interrupts : public IommuTest {
 protected:
  static constexpr u32 kIre = 1 << 25, kSirtp = 1 << 24, kCfi = 1 << 23;
  static constexpr u64 kTable = 0x20'0000;
  static constexpr u64 kOther = 0x21'0000;

  // 2^(s + 1) entries.
  void start_remapping(const IommuModelConfig& c = {}, u64 irta = kTable | 7) {
    start(c);
    start_queue();
    set_table(irta);
    EXPECT_TRUE(submit({{0x04, 0}}));
    gcmd(kIre, true);
    ASSERT_EQ(gsts() & (kIre | kSirtp), kIre | kSirtp);
  }
  void set_table(u64 irta) {
    model->write(0xB8, 8, irta);
    gcmd(kSirtp, true);
  }
  // One that `source` may use: fixed delivery of `vector` to the APIC `destination`.
  void entry(u64 index, u64 vector, u64 destination, u16 source, u64 low = 1, u64 high = u64{1} << 18,
             u64 table = kTable) {
    put(table + index * 16 + 8, high | source);
    put(table + index * 16, low | vector << 16 | destination << 40);
  }
  // A message in remappable format.
  static u64 handle(u32 index, bool subhandle = false) {
    return 0xFEE0'0010 | (index & 0x7FFF) << 5 | (index >> 15 & 1) << 2 | (subhandle ? 8 : 0);
  }
  InterruptMessage raise(u32 index, u16 source = kDevice) { return model->interrupt(source, handle(index), 0); }
  bool flush_entry(u64 index, u64 order = 0) { return submit({{0x14 | order << 27 | index << 32, 0}}); }
  bool flush_entries() { return submit({{0x04, 0}}); }

  void expect_fault(u8 code, const InterruptMessage& m, u16 index, u16 source = kDevice) {
    EXPECT_FALSE(m.passes);
    EXPECT_EQ(m.fault, code);
    EXPECT_EQ(reason(), code);
    EXPECT_EQ(fault_low(), u64{index} << 48);
    EXPECT_EQ(fault_high() & 0xFFFF, source);
    EXPECT_EQ(fault_high() >> 60 & 7, 0u);
    clear_fault();
  }
};

TEST_F(Interrupts, PassAsTheyAreWhileRemappingIsOff) {
  start();
  const InterruptMessage m = model->interrupt(kDevice, 0xFEE0'1000, 0x41);
  EXPECT_TRUE(m.passes);
  EXPECT_EQ(m.address, 0xFEE0'1000u);
  EXPECT_EQ(m.data, 0x41u);
  expect_clean();
}

TEST_F(Interrupts, BecomeWhatTheEntrySays) {
  start_remapping();
  entry(5, 0x41, 2, kDevice);
  const InterruptMessage m = raise(5);
  EXPECT_TRUE(m.passes);
  EXPECT_EQ(m.address, 0xFEE0'2000u);
  EXPECT_EQ(m.data, 0x41u);
  // Redirection hint, logical mode, level, NMI.
  entry(6, 0x42, 0xFF, kDevice, 1 | 1 << 2 | 1 << 3 | 1 << 4 | 4 << 5);
  EXPECT_EQ(raise(6).address, 0xFEEF'F00Cu);
  EXPECT_EQ(raise(6).data, 0x8442u);
  EXPECT_EQ(model->statistics().interrupts_remapped, 3u);
  expect_clean();
}

TEST_F(Interrupts, SubhandleIsAddedAndTheHandlesTopBitCounts) {
  start_remapping({}, kTable | 15);
  entry(0x12, 0x50, 0, kDevice);
  entry(0x8003, 0x51, 0, kDevice);
  EXPECT_EQ(model->interrupt(kDevice, handle(0x10, true), 2).data, 0x50u);
  EXPECT_EQ(raise(0x8003).data, 0x51u);
  // Without SHV the data says nothing.
  EXPECT_EQ(model->interrupt(kDevice, handle(0x12), 7).data, 0x50u);
  expect_fault(0x20, model->interrupt(kDevice, handle(0x10, true), 0x1'0002), 0);
  // The sum is not cut off at 16 bits.
  EXPECT_EQ(model->interrupt(kDevice, handle(0xFFFF, true), 0x13).fault, 0x21);
}

TEST_F(Interrupts, WideDestinations) {
  start_remapping({}, kTable | 0x800 | 7);
  put(kTable + 8, u64{1} << 18 | kDevice);
  put(kTable, 1 | 0x41 << 16 | u64{0x0001'0203} << 32);
  EXPECT_EQ(raise(0).address, 0xFEE0'3000u | u64{0x0001'02} << 40);
  // The narrow mode has no such bits.
  start_remapping();
  put(kTable + 8, u64{1} << 18 | kDevice);
  put(kTable, 1 | 0x41 << 16 | u64{0x0001'0203} << 32);
  EXPECT_EQ(raise(0).fault, 0x24);
}

TEST_F(Interrupts, EachFaultHasItsCode) {
  start_remapping();
  expect_fault(0x21, raise(256), 256);
  expect_fault(0x22, raise(255), 255);
  entry(7, 0x41, 0, kSibling);
  expect_fault(0x26, raise(7), 7);
  entry(8, 0x41, 0, kDevice, 1 | u64{1} << 15);  // posted
  expect_fault(0x24, raise(8), 8);
  expect_fault(0x25, model->interrupt(kDevice, 0xFEE0'0000, 0x41), 0);
  EXPECT_EQ(model->statistics().interrupts_blocked, 5u);
  EXPECT_EQ(violations(ViolationKind::ReservedBits), 1u);
  set_table(0x7FFF'0000 | 7);
  EXPECT_TRUE(flush_entries());
  expect_fault(0x23, raise(0), 0);
}

TEST_F(Interrupts, FaultProcessingDisabled) {
  start_remapping();
  entry(7, 0x41, 0, kSibling, 1 | 2);
  put(kTable + 16, 2);
  EXPECT_EQ(raise(7).fault, 0x26);
  EXPECT_EQ(raise(1).fault, 0x22);
  EXPECT_EQ(fsts(), 0u);
}

TEST_F(Interrupts, CompatibilityFormatOnlyWithCfi) {
  start_remapping();
  gcmd(kCfi, true);
  EXPECT_TRUE(model->interrupt(kDevice, 0xFEE0'0000, 0x41).passes);
  gcmd(kCfi, false);
  EXPECT_FALSE(model->interrupt(kDevice, 0xFEE0'0000, 0x41).passes);
  // Never in x2APIC's format.
  start_remapping({}, kTable | 0x800 | 7);
  gcmd(kCfi, true);
  EXPECT_FALSE(model->interrupt(kDevice, 0xFEE0'0000, 0x41).passes);
}

TEST_F(Interrupts, SourceIdMasksAndBusRanges) {
  start_remapping();
  const auto allows = [&](u64 high, u16 source) {
    put(kTable + 8, high);
    put(kTable, 1 | 0x41 << 16);
    EXPECT_TRUE(flush_entry(0));
    return model->interrupt(source, handle(0), 0).passes;
  };
  EXPECT_TRUE(allows(0, kOtherBus));
  const u64 one = u64{1} << 18;
  EXPECT_TRUE(allows(one | kDevice, kDevice));
  EXPECT_FALSE(allows(one | kDevice, kDevice ^ 4));
  EXPECT_TRUE(allows(one | 1 << 16 | kDevice, kDevice ^ 4));
  EXPECT_FALSE(allows(one | 1 << 16 | kDevice, kDevice ^ 2));
  EXPECT_TRUE(allows(one | 2 << 16 | kDevice, kDevice ^ 6));
  EXPECT_TRUE(allows(one | 3 << 16 | kDevice, kDevice ^ 7));
  EXPECT_FALSE(allows(one | 3 << 16 | kDevice, kDevice ^ 8));
  const u64 buses = u64{2} << 18 | 0x0204;
  EXPECT_FALSE(allows(buses, 0x01FF));
  EXPECT_TRUE(allows(buses, 0x0200));
  EXPECT_TRUE(allows(buses, 0x04FF));
  EXPECT_FALSE(allows(buses, 0x0500));
  EXPECT_FALSE(allows(u64{3} << 18, kDevice));
}

TEST_F(Interrupts, AnEntryStaysInTheCacheUntilItIsFlushed) {
  start_remapping();
  entry(5, 0x41, 0, kDevice);
  entry(6, 0x46, 0, kDevice);
  raise(5);
  raise(6);
  EXPECT_EQ(model->statistics().interrupt_entries, 2u);
  put(kTable + 5 * 16, 0);
  EXPECT_TRUE(raise(5).passes);
  EXPECT_TRUE(flush_entry(6));
  EXPECT_TRUE(raise(5).passes);
  EXPECT_TRUE(flush_entry(5));
  EXPECT_FALSE(raise(5).passes);
  // A mask covers its aligned neighbours.
  entry(5, 0x41, 0, kDevice);
  raise(5);
  put(kTable + 5 * 16, 0);
  put(kTable + 6 * 16, 0);
  raise(6);
  EXPECT_TRUE(flush_entry(4, 2));
  EXPECT_FALSE(raise(5).passes);
  EXPECT_FALSE(raise(6).passes);
  // Not present is not remembered.
  entry(9, 0x49, 0, kDevice, 0);
  raise(9);
  entry(9, 0x49, 0, kDevice);
  EXPECT_TRUE(raise(9).passes);
}

TEST_F(Interrupts, NotPresentIsRememberedWithCachingMode) {
  IommuModelConfig c;
  c.caching_mode = true;
  start_remapping(c);
  raise(9);
  entry(9, 0x49, 0, kDevice);
  EXPECT_FALSE(raise(9).passes);
  EXPECT_TRUE(flush_entries());
  EXPECT_TRUE(raise(9).passes);
}

TEST_F(Interrupts, AnUnitThatKeepsNothingSeesEveryChange) {
  IommuModelConfig c;
  c.policy = CachePolicy::EvictAlways;
  start_remapping(c);
  entry(5, 0x41, 0, kDevice);
  raise(5);
  put(kTable + 5 * 16, 0);
  EXPECT_FALSE(raise(5).passes);
}

TEST_F(Interrupts, FormerTableRulesUntilTheGlobalFlush) {
  start_remapping();
  entry(5, 0x41, 0, kDevice);
  entry(5, 0x77, 0, kDevice, 1, u64{1} << 18, kOther);
  raise(5);
  set_table(kOther | 7);
  EXPECT_EQ(raise(5).data, 0x41u);
  EXPECT_TRUE(flush_entries());
  EXPECT_EQ(raise(5).data, 0x77u);
  expect_clean();
  set_table(kTable | 7);
  EXPECT_TRUE(flush_iotlb_global());
  EXPECT_EQ(violations(ViolationKind::InterruptTableNotFlushed), 1u);
}

TEST_F(Interrupts, EsirtpsFlushes) {
  IommuModelConfig c;
  c.esirtps = true;
  start_remapping(c);
  EXPECT_EQ(model->read(0x08, 8) >> 62 & 1, 1u);
  entry(5, 0x41, 0, kDevice);
  entry(5, 0x77, 0, kDevice, 1, u64{1} << 18, kOther);
  raise(5);
  set_table(kOther | 7);
  EXPECT_EQ(raise(5).data, 0x77u);
  EXPECT_TRUE(flush_iotlb_global());
  expect_clean();
}

TEST_F(Interrupts, TheCheckerSeesWhatNoDriverDoes) {
  start();
  start_queue();
  gcmd(kIre, true);
  EXPECT_EQ(violations(ViolationKind::IreWithoutTable), 1u);
  gcmd(kIre, false);
  EXPECT_EQ(violations(ViolationKind::InterruptRemapDropped), 0u);
  set_root(root);
  set_table(kTable | 7);
  gcmd(kIre, true);
  gcmd(kTe, true);
  gcmd(kIre, false);
  EXPECT_EQ(violations(ViolationKind::InterruptRemapDropped), 1u);
}

TEST_F(Interrupts, ATableInMemoryThatNobodyMayUse) {
  start_remapping();
  entry(5, 0x41, 0, kDevice);
  memory.forbidden_pages.insert(kTable >> 12);
  raise(5);
  EXPECT_GT(violations(ViolationKind::TableNotUsable), 0u);
}

TEST_F(Interrupts, EntriesThatWereNotWrittenBackAreNotSeen) {
  IommuModelConfig c;
  c.coherent = false;
  start(c);
  start_queue();
  put(kTable, 0);
  put(kTable + 8, 0);
  shadow->write_back(kTable, 4096);
  set_table(kTable | 7);
  EXPECT_TRUE(submit({{0x04, 0}}));
  gcmd(kIre, true);
  entry(0, 0x41, 0, kDevice);
  EXPECT_FALSE(raise(0).passes);
  shadow->write_back(kTable, 16);
  EXPECT_TRUE(raise(0).passes);
}

TEST_F(Interrupts, BadFlushes) {
  start_remapping();
  push(0x14 | u64{16} << 27, 0);
  ring();
  EXPECT_NE(fsts() & 0x10, 0u);
}

TEST_F(Interrupts, GoOnFromASnapshot) {
  start_remapping();
  entry(5, 0x41, 0, kDevice);
  const std::vector<std::byte> saved = model->save();
  model = std::make_unique<IommuModel>(config, memory, environment, shadow.get());
  ASSERT_TRUE(model->restore(saved));
  EXPECT_EQ(raise(5).data, 0x41u);
  EXPECT_EQ(raise(6).fault, 0x22);
}

}  // namespace
}  // namespace perdure::board::testing
