// What the model finds out about software beyond faults: shared domain ids, stale use, poison, freed frames, torn
// updates, lines that never left the CPU's cache.
#include "machine/board/iommu/iommu_fixture.h"

namespace perdure::board::testing {
namespace {

class Check : public IommuTest {
 protected:
  u64 one = 0, two = 0;
  void begin(const IommuModelConfig& c = {}) {
    start_translating(c);
    start_queue();
    one = page();
    two = page();
    map(one, 0x1000, 0xA000);
    map(two, 0x1000, 0xB000);
  }
};

// --- domain ids, under each policy --------------------------------------------------------------------------------

class SharedDid : public Check, public ::testing::WithParamInterface<CachePolicy> {
 protected:
  void begin() {
    IommuModelConfig c;
    c.sagaw = 0b0110;
    c.policy = GetParam();
    Check::begin(c);
  }
};

TEST_P(SharedDid, SameTableIsFine) {
  begin();
  set_context(kDevice, one, 5);
  set_context(kOtherBus, one, 5);
  read(kDevice, 0x1000);
  read(kOtherBus, 0x1000);
  read(kDevice, 0x1000);
  expect_clean();
}

TEST_P(SharedDid, TwoTablesAreNot) {
  begin();
  set_context(kDevice, one, 5);
  set_context(kOtherBus, two, 5);
  read(kDevice, 0x1000);
  EXPECT_EQ(violations(ViolationKind::DidShared), 0u);
  read(kOtherBus, 0x1000);
  EXPECT_EQ(violations(ViolationKind::DidShared), 1u);
}

TEST_P(SharedDid, TwoWidthsAreNot) {
  begin();
  set_context(kDevice, one, 5, 2);
  set_context(kOtherBus, one, 5, 1);
  read(kDevice, 0x1000);
  read(kOtherBus, 0x1000);
  EXPECT_EQ(violations(ViolationKind::DidShared), 1u);
}

TEST_P(SharedDid, PassThroughAndATableAreNot) {
  begin();
  set_context(kDevice, one, 1);
  set_context(kSibling, 0, 1, 2, 0b1001);
  set_context(kOtherBus, 0, 1, 2, 0b1001);
  read(kSibling, 0x1000);
  read(kOtherBus, 0x1000);
  expect_clean();
  read(kDevice, 0x1000);
  EXPECT_EQ(violations(ViolationKind::DidShared), 1u);
}

TEST_P(SharedDid, ReuseAfterTearDownIsFine) {
  begin();
  set_context(kDevice, one, 5);
  read(kDevice, 0x1000);
  put(context_at(kDevice), 0);
  EXPECT_TRUE(submit({{0x31 | 5 << 16 | u64{kDevice} << 32, 0}, {0xE2 | 5 << 16, 0}}));
  set_context(kOtherBus, two, 5);
  EXPECT_EQ(read(kOtherBus, 0x1000).phys, 0xB000u);
  expect_clean();
}

// The unit found the entry gone by itself: nothing of it is cached any more.
TEST_F(Check, ReuseAfterTheUnitSawItGone) {
  IommuModelConfig c;
  c.policy = CachePolicy::EvictAlways;
  begin(c);
  set_context(kDevice, one, 5);
  read(kDevice, 0x1000);
  put(context_at(kDevice), 0);
  read(kDevice, 0x1000);
  set_context(kOtherBus, two, 5);
  read(kOtherBus, 0x1000);
  expect_clean();
}

INSTANTIATE_TEST_SUITE_P(Policy, SharedDid, ::testing::Values(CachePolicy::Sticky, CachePolicy::EvictAlways));

TEST_F(Check, ReuseWithoutIotlbFlushIsFound) {
  begin();
  set_context(kDevice, one, 5);
  read(kDevice, 0x1000);
  put(context_at(kDevice), 0);
  EXPECT_TRUE(submit({{0x31 | 5 << 16 | u64{kDevice} << 32, 0}}));
  set_context(kOtherBus, two, 5);
  EXPECT_EQ(read(kOtherBus, 0x1000).phys, 0xA000u);  // misdirected
  EXPECT_EQ(violations(ViolationKind::DidStaleHit), 1u);
}

TEST_F(Check, StaleStructureOfAnotherTableIsFound) {
  begin();
  map(two, 0x2000, 0xC000);
  map(one, 0x2000, 0xD000);
  set_context(kDevice, one, 5);
  read(kDevice, 0x1000);
  put(context_at(kDevice), 0);
  EXPECT_TRUE(submit({{0x31 | 5 << 16 | u64{kDevice} << 32, 0}}));
  EXPECT_TRUE(flush_pages(5, 0x1000, 0, true));  // the leaf goes, the tables above stay
  set_context(kOtherBus, two, 5);
  EXPECT_EQ(read(kOtherBus, 0x2000).phys, 0xD000u);
  EXPECT_EQ(violations(ViolationKind::DidStaleHit), 1u);
}

TEST_F(Check, AnotherRootOfEqualResultsIsLegal) {
  begin();
  map(two, 0x1000, 0xA000);
  set_context(kDevice, one, 5);
  read(kDevice, 0x1000);
  put(context_at(kDevice), two | 1);  // one store
  EXPECT_TRUE(flush_context_global());
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
  EXPECT_TRUE(flush_iotlb_domain(5));
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
  expect_clean();
}

// --- poison and freed frames ----------------------------------------------------------------------------------------

TEST_F(Check, PoisonFaultsWhereverItIsTakenForATable) {
  const auto poison = [&](u64 table) {
    for (u64 i = 0; i < 512; ++i) memory.set(table + i * 8, kPoisonWord);
  };
  for (int level = 0; level < 6; ++level) {
    SCOPED_TRACE(level);
    begin();
    set_context(kDevice, one, 5);
    u64 table = 0;
    if (level == 0) table = root;
    if (level == 1) table = context_at(kDevice) & ~u64{0xFFF};
    if (level >= 2) table = entry_at(one, 4, 0x1000, static_cast<unsigned>(level - 1)) & ~u64{0xFFF};
    poison(table);
    const Translation t = read(kDevice, 0x1000);
    EXPECT_EQ(t.verdict, Verdict::Blocked);
    EXPECT_EQ(t.fault, level == 0 ? 0xA : level == 1 ? 0xB : 0xC);
    EXPECT_GE(violations(ViolationKind::Poison), 1u);
  }
}

TEST_F(Check, PoisonIsHarmlessNowhere) {
  // Also with the widest addresses a unit can have.
  IommuModelConfig c;
  c.haw = 52;
  c.sagaw = 0b1110;
  c.mgaw = 57;
  begin(c);
  set_context(kDevice, one, 5);
  put(entry_at(one, 4, 0x1000, 1), kPoisonWord);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0xC);
}

TEST_F(Check, FreedFrames) {
  begin();
  set_context(kDevice, one, 5);
  const u64 leaf_table = entry_at(one, 4, 0x1000, 1) & ~u64{0xFFF};
  memory.forbidden_pages.insert(leaf_table >> 12);
  EXPECT_TRUE(read(kDevice, 0x1000).ok());  // hardware does not know
  ASSERT_EQ(violations(ViolationKind::TableNotUsable), 1u);
  const Violation v = model->violations().back();
  EXPECT_EQ(v.where, leaf_table + 8);
  EXPECT_EQ(v.source, kDevice);
  EXPECT_GT(v.when_ns, 0u);
  EXPECT_NE(v.to_string().find("not preserved"), std::string::npos);
}

TEST_F(Check, EachKindHasAName) {
  for (unsigned k = 0; k < static_cast<unsigned>(ViolationKind::Count); ++k) {
    EXPECT_STRNE(violation_name(static_cast<ViolationKind>(k)), "unknown violation") << k;
  }
}

TEST_F(Check, ListIsBoundedAndCountsOn) {
  start();
  for (int i = 0; i < 2000; ++i) model->read(0x3, 4);
  EXPECT_EQ(model->violations().size(), 1024u);
  EXPECT_EQ(model->violation_count(), 2000u);
  EXPECT_EQ(violations(ViolationKind::BadWidth), 2000u);
  model->clear_violations();
  EXPECT_EQ(model->violation_count(), 0u);
  EXPECT_TRUE(model->violations().empty());
}

// --- auditor's probe
// ---------------------------------------------------------------------------------------------------

TEST_F(Check, ProbeSeesTablesAndLeavesNoTrace) {
  begin();
  set_context(kDevice, one, 5);
  read(kDevice, 0x1000);
  map(one, 0x1000, 0xC000);
  const IommuStatistics before = model->statistics();
  EXPECT_EQ(model->probe(kDevice, 0x1008, 4, Access::Write).phys, 0xC008u);
  EXPECT_EQ(model->probe(kDevice, 0x2000, 4, Access::Read).fault, 0x6);
  EXPECT_EQ(model->probe(kSibling, 0x1000, 4, Access::Read).fault, 0x2);
  const IommuStatistics after = model->statistics();
  EXPECT_EQ(after.table_reads, before.table_reads);
  EXPECT_EQ(after.iotlb_entries, before.iotlb_entries);
  EXPECT_EQ(after.context_entries, before.context_entries);
  EXPECT_EQ(fsts(), 0u);
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);  // still cached
  expect_clean();
}

TEST_F(Check, ProbeKeepsNothingAbsent) {
  IommuModelConfig c;
  c.caching_mode = true;
  begin(c);
  set_context(kDevice, one, 5);
  for (u64 iova : {0x2000u, 0x3000u}) EXPECT_EQ(model->probe(kDevice, iova, 4, Access::Read).fault, 0x6);
  EXPECT_EQ(model->statistics().iotlb_entries, 0u);
  map(one, 0x2000, 0xC000);
  EXPECT_TRUE(read(kDevice, 0x2000).ok());
  // Nor does it believe a cached context entry.
  set_context(kDevice, two, 6);
  EXPECT_EQ(model->probe(kDevice, 0x1000, 4, Access::Read).phys, 0xB000u);
}

// --- torn updates ----------------------------------------------------------------------------------------------------

// A device that looks after every single store sees a context entry either absent or whole.
TEST_F(Check, EntryMadePresentLastIsNeverTorn) {
  IommuModelConfig c;
  c.policy = CachePolicy::EvictAlways;
  begin(c);
  context_at(kDevice);
  std::set<int> faults;
  on_store = [&](u64) {
    const Translation t = read(kDevice, 0x1000);
    if (t.ok()) {
      EXPECT_EQ(t.phys, 0xB000u);
    } else {
      faults.insert(t.fault);
      clear_fault();
    }
  };
  set_context(kDevice, two, 5);
  EXPECT_EQ(faults, std::set<int>{0x2});
  expect_clean();
}

TEST_F(Check, EntryMadePresentFirstIsSeenTorn) {
  IommuModelConfig c;
  c.policy = CachePolicy::EvictAlways;
  begin(c);
  const u64 at = context_at(kDevice);
  on_store = [&](u64) { read(kDevice, 0x1000); };
  put(at, two | 1);
  put(at + 8, 2 | 5 << 8);
  EXPECT_EQ(reason(), 0x3u);  // AW was 0
  EXPECT_EQ(violations(ViolationKind::ReservedBits), 1u);
}

// --- walks that do not snoop
// -------------------------------------------------------------------------------------------

class NonCoherent : public IommuTest {
 protected:
  u64 top = 0;
  void begin(bool coherent) {
    IommuModelConfig c;
    c.coherent = coherent;
    start(c);
    on_store = [this](u64 phys) {
      if (flushing) shadow->write_back(phys, 8);
    };
    shadow->write_back(root, 4096);
    set_root(root);
    gcmd(kTe, true);
    start_queue();
    top = page();
    set_context(kDevice, top, 5);
    map(top, 0x1000, 0xA000);
  }
  // A driver that flushes: each new page whole, then each entry.
  bool flushing = true;
};

TEST_F(NonCoherent, SeesWhatWasWrittenBack) {
  begin(false);
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
  expect_clean();
}

TEST_F(NonCoherent, DoesNotSeeAnEntryLeftInTheCache) {
  begin(false);
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
  flushing = false;
  map(top, 0x2000, 0xB000);  // same line as the entry before
  EXPECT_EQ(read(kDevice, 0x2000).fault, 0x6);
  shadow->write_back(entry_at(top, 4, 0x2000, 1), 8);
  EXPECT_EQ(read(kDevice, 0x2000).phys, 0xB000u);
  map(top, 0x2000, 0xC000);
  EXPECT_TRUE(flush_iotlb_global());
  EXPECT_EQ(read(kDevice, 0x2000).phys, 0xB000u);  // flushed in the unit, not in the CPU
  shadow->write_back(entry_at(top, 4, 0x2000, 1), 8);
  EXPECT_TRUE(flush_iotlb_global());
  EXPECT_EQ(read(kDevice, 0x2000).phys, 0xC000u);
  expect_clean();
}

TEST_F(NonCoherent, LineNeverWrittenBackIsNamed) {
  begin(false);
  flushing = false;
  const u64 far = 0x1000 + 64 * 4096;  // another line of the same table
  map(top, far, 0xB000);
  EXPECT_FALSE(read(kDevice, far).ok());
  ASSERT_EQ(violations(ViolationKind::NotWrittenBack), 1u);
  EXPECT_EQ(model->violations().back().where, entry_at(top, 4, far, 1));
}

TEST_F(NonCoherent, CoherentUnitDoesNotCare) {
  flushing = false;
  begin(true);
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
  expect_clean();
}

TEST_F(NonCoherent, QueueIsAlwaysCoherent) {
  begin(false);
  flushing = false;
  EXPECT_TRUE(submit({{0x11, 0}}));
  expect_clean();
}

TEST(WriteBackShadow, WorksByLines) {
  FakeMemory memory(1 << 20);
  board::WriteBackShadow shadow(memory);
  using Seen = board::WriteBackShadow::Seen;
  for (u64 at = 0; at < 0x3000; at += 8) memory.set(at, at + 1);
  u64 value = 0;
  EXPECT_EQ(shadow.load64(0x1000, value), Seen::NeverWritten);
  shadow.write_back(0x10F8, 0x10);  // two lines
  EXPECT_EQ(shadow.load64(0x10B8, value), Seen::NeverWritten);
  EXPECT_EQ(shadow.load64(0x10C0, value), Seen::Visible);
  EXPECT_EQ(value, 0x10C1u);
  EXPECT_EQ(shadow.load64(0x1138, value), Seen::Visible);
  EXPECT_EQ(value, 0x1139u);
  EXPECT_EQ(shadow.load64(0x1140, value), Seen::NeverWritten);
  EXPECT_EQ(value, 0u);
  EXPECT_EQ(shadow.load64(0x10'0000, value), Seen::NotRam);
  memory.set(0x10C0, 5);
  EXPECT_EQ(shadow.load64(0x10C0, value), Seen::Visible);
  EXPECT_EQ(value, 0x10C1u);
  shadow.write_back(0x1FC0, 0x80);  // over the page's end
  EXPECT_EQ(shadow.load64(0x2038, value), Seen::Visible);
  shadow.write_back(0, 0);
  shadow.write_back(~u64{0}, 2);
  EXPECT_EQ(shadow.load64(0, value), Seen::NeverWritten);
  shadow.write_back(0xF'FFC0, 0x80);  // half of it outside RAM
  EXPECT_EQ(shadow.load64(0xF'FFF8, value), Seen::Visible);
  const std::vector<std::byte> before = shadow.save();
  shadow.write_back(0x4000'0000, 0x1000);
  EXPECT_EQ(shadow.save(), before);  // nothing is kept of what is not RAM
}

TEST(WriteBackShadow, PoisonGoesPastTheCaches) {
  FakeMemory memory(1 << 20);
  board::WriteBackShadow shadow(memory);
  memory.set(0x1000, 7);
  memory.set(0x2000, 8);
  shadow.write_back(0x1000, 8);
  shadow.write_back(0x2000, 8);
  memory.set(0x1000, kPoisonWord);
  memory.set(0x2000, 9);
  shadow.take_poison();
  u64 value = 0;
  shadow.load64(0x1000, value);
  EXPECT_EQ(value, kPoisonWord);
  shadow.load64(0x2000, value);
  EXPECT_EQ(value, 8u);
}

TEST(WriteBackShadow, ForgetsAndSurvives) {
  FakeMemory memory(1 << 20);
  board::WriteBackShadow shadow(memory);
  using Seen = board::WriteBackShadow::Seen;
  memory.set(0x1000, 7);
  memory.set(0x2000, 8);
  shadow.write_back(0x1000, 8);
  shadow.write_back(0x2000, 8);
  const std::vector<std::byte> saved = shadow.save();
  EXPECT_EQ(saved, shadow.save());
  u64 value = 0;
  shadow.forget(0x1000, 0x1000);
  EXPECT_EQ(shadow.load64(0x1000, value), Seen::NeverWritten);
  EXPECT_EQ(shadow.load64(0x2000, value), Seen::Visible);

  board::WriteBackShadow other(memory);
  memory.set(0x1000, 9);
  ASSERT_TRUE(other.restore(saved));
  EXPECT_EQ(other.load64(0x1000, value), Seen::Visible);
  EXPECT_EQ(value, 7u);
  std::vector<std::byte> bad = saved;
  bad[20] ^= std::byte{1};
  EXPECT_FALSE(other.restore(bad));
  EXPECT_FALSE(other.restore(std::span(saved).first(saved.size() - 1)));
  EXPECT_FALSE(other.restore({}));
  EXPECT_EQ(other.load64(0x2000, value), Seen::Visible);
}

}  // namespace
}  // namespace perdure::board::testing
