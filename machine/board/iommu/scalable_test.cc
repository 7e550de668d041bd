// Scalable mode: root halves, 32-byte contexts, PASID directory and table, second stage and pass-through for requests
// without a PASID, accessed and dirty bits.
#include "machine/board/iommu/scalable_fixture.h"

namespace perdure::board::testing {
namespace {

using Scalable = ScalableTest;

TEST_F(Scalable, Translates) {
  begin();
  attach(kDevice, 5);
  const Translation t = write(kDevice, 0x1234, 0x2000);
  EXPECT_EQ(t.verdict, Verdict::Translated);
  EXPECT_EQ(t.phys, 0xA234u);
  EXPECT_EQ(t.length, 0xDCCu);
  expect_clean();
}

TEST_F(Scalable, UpperHalfOfABusHasItsOwnTable) {
  begin();
  attach(0x0310, 5);
  EXPECT_TRUE(read(0x0310, 0x1000).ok());
  EXPECT_EQ(read(0x0390, 0x1000).fault, 0x39);
  attach(0x0390, 6);
  model->drop_caches();
  EXPECT_TRUE(read(0x0390, 0x1000).ok());
}

TEST_F(Scalable, RidPasidChoosesTheEntry) {
  begin();
  const u64 top = page();
  map(top, 0x1000, 0xA000);
  attach(kDevice, top, 5, 0, 0x123);
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
  expect_clean();
}

TEST_F(Scalable, PassThrough) {
  begin();
  const Tables t = attach(kDevice, 5);
  put(t.pasid, 1 | 4 << 6);
  const Translation answer = write(kDevice, 0x7008);
  EXPECT_EQ(answer.verdict, Verdict::PassThrough);
  EXPECT_EQ(answer.phys, 0x7008u);
  expect_clean();
}

TEST_F(Scalable, FaultCodes) {
  struct Case {
    unsigned code;
    std::function<void(const Tables&)> arrange;
    u64 iova = 0x1000;
    bool qualified = true;
  };
  const u64 nowhere = 0x4000'0000;
  const std::vector<Case> cases = {
      {0x38, [&](const Tables&) { set_root(nowhere, 1); }, 0x1000, false},
      {0x39, [&](const Tables&) { put(root, 0); }, 0x1000, false},
      {0x3A, [&](const Tables&) { put(root, memory.word(root) | 8); }, 0x1000, false},
      {0x40, [&](const Tables&) { put(root, nowhere | 1); }, 0x1000, false},
      {0x41, [&](const Tables& t) { put(t.context, 0); }},
      {0x42, [&](const Tables& t) { put(t.context, memory.word(t.context) | 0x20); }},
      {0x42, [&](const Tables& t) { put(t.context, memory.word(t.context) | 4); }},  // DTE without ECAP.DT
      {0x42, [&](const Tables& t) { put(t.context + 8, u64{1} << 21); }},
      {0x42, [&](const Tables& t) { put(t.context + 24, 1); }},
      {0x48, [&](const Tables& t) { put(t.context + 8, 8192); }},  // PDTS 0: PASIDs below 8192
      {0x50, [&](const Tables& t) { put(t.context, nowhere | 1); }},
      {0x51, [&](const Tables& t) { put(t.directory, 0); }},
      {0x52, [&](const Tables& t) { put(t.directory, memory.word(t.directory) | 4); }},
      {0x58, [&](const Tables& t) { put(t.directory, nowhere | 1); }},
      {0x59, [&](const Tables& t) { put(t.pasid, 0); }},
      {0x5A, [&](const Tables& t) { put(t.pasid, memory.word(t.pasid) | 0x400); }},
      {0x5A, [&](const Tables& t) { put(t.pasid + 8, 5 | 1 << 16); }},
      {0x5A, [&](const Tables& t) { put(t.pasid + 24, 1); }},
      {0x5B, [&](const Tables& t) { put(t.pasid, t.top | 1 | 2 << 2 | 1 << 6); }},  // first stage
      {0x5B, [&](const Tables& t) { put(t.pasid, t.top | 1 | 3 << 2 | 2 << 6); }},  // five levels
      {0x78, [&](const Tables& t) { set_entry(t.top, 4, 0x1000, 2, nowhere | 3); }},
      {0x79, [&](const Tables& t) { map(t.top, 0x1000, 0, 0); }},
      {0x79, [&](const Tables& t) { map(t.top, 0x1000, 0xA000, kWrite); }},
      {0x7A, [&](const Tables& t) { map(t.top, 0x1000, 0xA080); }},
      {0x7B, [&](const Tables& t) { put(t.pasid, nowhere | 1 | 2 << 2 | 2 << 6); }},
      {0x83, [](const Tables&) {}, u64{1} << 48},
      {0x84, [&](const Tables& t) { put(t.pasid, t.top | 1 | 1 << 2 | 2 << 6); }, u64{1} << 39},
      {0x87, [&](const Tables& t) { map(t.top, 0x1000, 0xFEE0'0000); }},
  };
  for (const Case& c : cases) {
    for (bool silenced : {false, true}) {
      SCOPED_TRACE(::testing::Message() << std::hex << c.code << (silenced ? " with FPD" : ""));
      begin();
      const Tables t = attach(kDevice, 5);
      c.arrange(t);
      if (silenced) put(t.context, memory.word(t.context) | 2);
      const Translation answer = read(kDevice, c.iova);
      EXPECT_EQ(answer.verdict, Verdict::Blocked);
      EXPECT_EQ(answer.fault, c.code);
      EXPECT_EQ(answer.recorded, !silenced || !c.qualified);
    }
  }
}

TEST_F(Scalable, FpdOfDirectoryAndPasidEntryCountWithoutPresent) {
  begin();
  Tables t = attach(kDevice, 5);
  put(t.pasid, 2);
  EXPECT_FALSE(read(kDevice, 0x1000).recorded);
  begin();
  t = attach(kDevice, 5);
  put(t.directory, 2);
  EXPECT_FALSE(read(kDevice, 0x1000).recorded);
}

TEST_F(Scalable, QemuUsesLegacyCodes) {
  IommuModelConfig c;
  c.quirks.scalable_legacy_codes = true;
  begin(c);
  attach(kDevice, 5);
  EXPECT_EQ(read(kDevice, 0x2000).fault, 0x6);
  EXPECT_EQ(write(kDevice, 0x2000).fault, 0x5);
}

TEST_F(Scalable, QemuReportsRootsAndContextsInLegacyCodes) {
  IommuModelConfig c;
  c.quirks.scalable_legacy_codes = true;
  begin(c);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x1);
  const Tables t = attach(kDevice, 5);
  put(t.context, 0);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x2);
}

TEST_F(Scalable, QemuDoesNotCheckPasidEntries) {
  IommuModelConfig c;
  c.quirks.pasid_unchecked = true;
  begin(c);
  const Tables t = attach(kDevice, 5);
  put(t.directory, memory.word(t.directory) | 0x10);
  put(t.pasid + 56, 1);
  put(t.pasid, memory.word(t.pasid) | 3 << 6 | u64{1} << 10);
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
  EXPECT_EQ(violations(ViolationKind::ReservedBits), 3u) << "it is wrong all the same";
  model->drop_caches();
  put(t.pasid, 2);  // FPD without P
  const Translation gone = read(kDevice, 0x1000);
  EXPECT_EQ(gone.fault, 0x58);
  EXPECT_TRUE(gone.recorded);
}

// --- caches ------------------------------------------------------------------------------------------------------

TEST_F(Scalable, PasidCacheHasItsOwnFlushes) {
  const struct {
    u64 q0;
    bool drops;
  } cases[] = {
      {0x11, false},                  // context, global
      {0xD2, false},                  // IOTLB, global
      {pasid_cache(0, 6, 0), false},  // another domain
      {pasid_cache(1, 5, 1), false},  // another PASID
      {pasid_cache(1, 6, 0), false},  // both
      {pasid_cache(1, 5, 0), true},   //
      {pasid_cache(0, 5, 0), true},   //
      {pasid_cache(3, 0, 0), true},   //
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(::testing::Message() << std::hex << c.q0);
    begin();
    const Tables t = attach(kDevice, 5);
    const u64 other = page();
    map(other, 0x1000, 0xB000);
    EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
    put(t.pasid + 8, 50 | u64{1} << 23);
    put(t.pasid, other | 1 | 2 << 2 | 2 << 6);
    EXPECT_TRUE(submit({{c.q0, 0}}));
    EXPECT_EQ(read(kDevice, 0x1000).phys, c.drops ? 0xB000u : 0xA000u);
  }
}

TEST_F(Scalable, ContextCacheIsNotTaggedWithADomain) {
  for (u64 q0 : {u64{0x11}, u64{0x21}, 0x31 | u64{kDevice} << 32}) {
    begin();
    const Tables t = attach(kDevice, 5);
    EXPECT_TRUE(read(kDevice, 0x1000).ok());
    put(t.context, 0);
    EXPECT_TRUE(read(kDevice, 0x1000).ok());
    EXPECT_TRUE(submit({{q0, 0}}));
    EXPECT_EQ(read(kDevice, 0x1000).fault, 0x41);
  }
}

TEST_F(Scalable, PasidIotlbFlushLeavesSecondStageAlone) {
  begin();
  const Tables t = attach(kDevice, 5);
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
  map(t.top, 0x1000, 0xB000);
  EXPECT_TRUE(submit({{6 | 2 << 4 | 5 << 16, 0}, {6 | 3 << 4 | 5 << 16, 0x1000}}));
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
  EXPECT_TRUE(flush_iotlb_domain(5));
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xB000u);
  expect_clean();
}

TEST_F(Scalable, PasidIotlbFlushDrains) {
  begin();
  attach(kDevice, 5);
  Translation held = write(kDevice, 0x1000);
  push(6 | 2 << 4 | 5 << 16, 0);
  push(0x700000025, kStatus);
  ring();
  EXPECT_EQ(memory.word32(kStatus), 0u);
  held = {};
  EXPECT_EQ(memory.word32(kStatus), 7u);
}

TEST_F(Scalable, ReservedFieldsOfDescriptors) {
  for (const auto& [q0, q1] : std::vector<std::pair<u64, u64>>{{6 | 1 << 4, 0},
                                                               {6 | 2 << 4 | u64{1} << 52, 0},
                                                               {6 | 3 << 4, 0x80},
                                                               {6 | 3 << 4, 19},
                                                               {7 | 2 << 4, 0},
                                                               {7 | 3 << 4, 1},
                                                               {7 | 3 << 4 | u64{1} << 52, 0}}) {
    SCOPED_TRACE(::testing::Message() << std::hex << q0 << ", " << q1);
    begin();
    push(q0, q1);
    ring();
    EXPECT_EQ(model->read(0xB0, 8) & 0xF, 4u);
  }
}

TEST_F(Scalable, PasidDeviceTlb) {
  IommuModelConfig c;
  c.device_tlb = true;
  begin(c);
  const u64 d = 8 | u64{kDevice} << 16 | u64{3} << 32;
  EXPECT_TRUE(submit({{d, 0x5000}, {d, 0x4800}}));
  using D = FakeEnvironment::DeviceTlb;
  EXPECT_EQ(environment.device_tlb, (std::vector<D>{{kDevice, 0x5000, 0x1000}, {kDevice, 0x4000, 0x2000}}));
}

TEST_F(Scalable, CachingModeKeepsAnAbsentPasidEntry) {
  IommuModelConfig c;
  c.caching_mode = true;
  begin(c);
  const Tables t = attach(kDevice, 5);
  const u64 entry = memory.word(t.pasid);
  put(t.pasid, 0);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x59);
  put(t.pasid, entry);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x59);
  EXPECT_TRUE(submit({{pasid_cache(1, 5, 1), 0}}));
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x59);
  EXPECT_TRUE(submit({{pasid_cache(1, 5, 0), 0}}));
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
}

TEST_F(Scalable, SharedDomainIdIsFound) {
  begin();
  attach(kDevice, 5);
  attach(kSibling, 5);
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
  EXPECT_EQ(violations(ViolationKind::DidShared), 0u);
  read(kSibling, 0x1000);
  EXPECT_EQ(violations(ViolationKind::DidShared), 1u);
  // The id is in the PASID cache: a context flush does not free it.
  begin();
  attach(kDevice, 5);
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
  EXPECT_TRUE(submit({{0x11, 0}, {0x31 | 5 << 16 | u64{kDevice} << 32, 0}}));
  attach(kSibling, 5);
  read(kSibling, 0x1000);
  EXPECT_EQ(violations(ViolationKind::DidShared), 1u);
  // Torn down and flushed, the id is free again.
  begin();
  attach(kDevice, 5);
  const Tables gone = attach(kSibling, 6);
  read(kSibling, 0x1000);
  put(gone.pasid, 0);
  EXPECT_TRUE(submit({{pasid_cache(1, 6, 0), 0}, {0xE2 | 6 << 16, 0}}));
  attach(kOtherBus, 6);
  EXPECT_TRUE(read(kOtherBus, 0x1000).ok());
  expect_clean();
}

// --- accessed and dirty -------------------------------------------------------------------------------------------

class AccessedDirty : public Scalable {
 protected:
  static constexpr u64 kA = 0x100, kD = 0x200, kSsade = 0x200;
  Tables t;
  u64 leaf = 0;
  void begin(IommuModelConfig c = {}) {
    Scalable::begin(c);
    const u64 top = page();
    map(top, 0x1000, 0xA000);
    leaf = entry_at(top, 4, 0x1000, 1);
    t = attach(kDevice, top, 5, kSsade);
  }
};

TEST_F(AccessedDirty, ReadSetsAAndWriteSetsD) {
  begin();
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
  EXPECT_EQ(memory.word(leaf), 0xA000u | 3 | kA);
  for (unsigned level : {2u, 3u, 4u}) EXPECT_EQ(memory.word(entry_at(t.top, 4, 0x1000, level)) & (kA | kD), kA);
  EXPECT_TRUE(write(kDevice, 0x1000).ok());  // cached by the read, but not as dirty
  EXPECT_EQ(memory.word(leaf), 0xA000u | 3 | kA | kD);
  expect_clean();
}

TEST_F(AccessedDirty, ClearedDirtyComesBackOnlyAfterAFlush) {
  begin();
  EXPECT_TRUE(write(kDevice, 0x1000).ok());
  memory.set(leaf, 0xA003 | kA);
  EXPECT_TRUE(write(kDevice, 0x1000).ok());
  EXPECT_EQ(memory.word(leaf) & kD, 0u);  // lost: software forgot the flush
  EXPECT_TRUE(flush_pages(5, 0x1000, 0, true));
  EXPECT_TRUE(write(kDevice, 0x1000).ok());
  EXPECT_EQ(memory.word(leaf) & kD, kD);
}

TEST_F(AccessedDirty, NotWithoutPermissionAndNotByAProbe) {
  begin();
  put(leaf, 0xA000 | kRead);
  EXPECT_EQ(write(kDevice, 0x1000).fault, 0x79);
  EXPECT_EQ(memory.word(leaf), 0xA000u | kRead);
  model->probe(kDevice, 0x1000, 8, Access::Read);
  EXPECT_EQ(memory.word(leaf), 0xA000u | kRead);
}

TEST_F(AccessedDirty, OffWithoutSsade) {
  Scalable::begin();
  const Tables plain = attach(kDevice, 5);
  EXPECT_TRUE(write(kDevice, 0x1000).ok());
  EXPECT_EQ(memory.word(entry_at(plain.top, 4, 0x1000, 1)), 0xA003u);
}

// Bits set in DRAM are seen by the walks after, whatever the CPU's cache holds.
TEST_F(AccessedDirty, WithoutSnooping) {
  begin();
  put(t.pasid + 8, 5);  // PWSNP 0
  for (unsigned level = 1; level <= 4; ++level) {
    shadow->write_back(entry_at(t.top, 4, 0x1000, level) & ~u64{0xFFF}, 4096);
  }
  EXPECT_TRUE(write(kDevice, 0x1000).ok());
  EXPECT_EQ(memory.word(leaf) & (kA | kD), kA | kD);
  u64 seen = 0;
  shadow->load64(leaf, seen);
  EXPECT_EQ(seen & (kA | kD), kA | kD);
  // A newer line in the CPU's cache stays as it is.
  memory.set(leaf, 0xC003);
  shadow->load64(leaf, seen);
  EXPECT_EQ(seen, 0xA003u | kA | kD);
  model->drop_caches();
  EXPECT_EQ(write(kDevice, 0x1000).phys, 0xA000u);
  EXPECT_EQ(memory.word(leaf), 0xC003u);
  expect_clean();
}

// The same when the newer line is there before the first bit is set.
TEST_F(AccessedDirty, WithoutSnoopingBesideANewerLine) {
  begin();
  put(t.pasid + 8, 5);
  for (unsigned level = 1; level <= 4; ++level) {
    shadow->write_back(entry_at(t.top, 4, 0x1000, level) & ~u64{0xFFF}, 4096);
  }
  memory.set(leaf, 0xC003);
  EXPECT_EQ(write(kDevice, 0x1000).phys, 0xA000u);
  u64 seen = 0;
  shadow->load64(leaf, seen);
  EXPECT_EQ(seen, 0xA003u | kA | kD);
  EXPECT_EQ(memory.word(leaf), 0xC003u);
}

TEST_F(AccessedDirty, LosesARaceAndLooksAgain) {
  begin();
  int races = 0;
  memory.before_update = [&](u64 phys) {
    if (phys == leaf && races++ == 0) memory.set(leaf, 0xB003);
  };
  EXPECT_EQ(write(kDevice, 0x1000).phys, 0xB000u);
  EXPECT_EQ(races, 2);
  EXPECT_EQ(memory.word(leaf), 0xB003u | kA | kD);
  // Cleared meanwhile: no bit is set in what is not present any more.
  EXPECT_TRUE(flush_iotlb_global());
  put(leaf, 0xB003);
  races = 0;
  memory.before_update = [&](u64 phys) {
    if (phys == leaf && races++ == 0) memory.set(leaf, 0);
  };
  EXPECT_EQ(write(kDevice, 0x1000).fault, 0x79);
  EXPECT_EQ(memory.word(leaf), 0u);
}

TEST_F(AccessedDirty, GivesUpWhenItNeverWins) {
  begin();
  u64 n = 0;
  memory.before_update = [&](u64 phys) {
    if (phys == leaf) memory.set(leaf, 0xA003 | ++n << 52);
  };
  EXPECT_EQ(write(kDevice, 0x1000).fault, 0x7C);
}

TEST_F(AccessedDirty, NeedsCapability) {
  IommuModelConfig c;
  c.second_stage_dirty = false;
  begin(c);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x5A);
}

// --- snooping
// ---------------------------------------------------------------------------------------------------------

TEST_F(Scalable, PageWalkSnoopsOnlyWithPwsnp) {
  begin();
  const Tables t = attach(kDevice, 5);
  put(t.pasid + 8, 5);  // PWSNP 0
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x79);
  EXPECT_EQ(violations(ViolationKind::NotWrittenBack), 1u);
  for (unsigned level = 1; level <= 4; ++level) {
    shadow->write_back(entry_at(t.top, 4, 0x1000, level) & ~u64{0xFFF}, 4096);
  }
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
}

}  // namespace
}  // namespace perdure::board::testing
