// First-stage translation: x86 entries, canonical addresses, privilege, accessed and dirty bits, its own flushes, and
// which domain ids may be shared.
#include "machine/board/iommu/scalable_fixture.h"

namespace perdure::board::testing {
namespace {

class FirstStage : public ScalableTest {
 protected:
  static constexpr u64 kP = 1, kW = 2, kU = 4, kA = 0x20, kD = 0x40, kPs = 0x80;
  static constexpr u64 kUsual = kP | kW | kU;

  void begin(IommuModelConfig c = {}) {
    c.first_stage = true;
    ScalableTest::begin(c);
  }
  // Levels above as usual; the leaf at `level` is `entry`.
  u64 put_entry(u64 top, u64 iova, unsigned level, u64 entry, unsigned levels = 4) {
    u64 table = top;
    for (unsigned l = levels; l > level; --l) {
      const u64 slot = table + ((iova >> (12 + 9 * (l - 1))) & 0x1FF) * 8;
      if ((memory.word(slot) & 1) == 0) put(slot, page() | kUsual);
      table = memory.word(slot) & 0x000F'FFFF'FFFF'F000;
    }
    const u64 slot = table + ((iova >> (12 + 9 * (level - 1))) & 0x1FF) * 8;
    put(slot, entry);
    return slot;
  }
  Tables attach_first(u16 source, u64 top, u16 did, u64 fspm = 0, u32 rid_pasid = 0) {
    Tables t = attach(source, 0, did, 0, rid_pasid);
    put(t.pasid + 16, top | fspm << 2);
    put(t.pasid, 1 | 1 << 6);
    t.top = top;
    return t;
  }
  Tables attach_first(u16 source, u16 did) {
    const u64 top = page();
    put_entry(top, 0x1000, 1, 0xA000 | kUsual);
    return attach_first(source, top, did);
  }
  static u64 piotlb(u64 granularity, u16 did, u32 pasid) {
    return 6 | granularity << 4 | u64{did} << 16 | u64{pasid} << 32;
  }
};

TEST_F(FirstStage, Translates) {
  begin();
  attach_first(kDevice, 5);
  const Translation t = write(kDevice, 0x1234, 0x2000);
  EXPECT_EQ(t.verdict, Verdict::Translated);
  EXPECT_EQ(t.phys, 0xA234u);
  EXPECT_EQ(t.length, 0xDCCu);
  EXPECT_TRUE(read(kDevice, 0x1008).ok());
  expect_clean();
}

TEST_F(FirstStage, LargePages) {
  begin();
  const u64 top = page();
  put_entry(top, 0x20'0000, 2, 0x40'0000 | kUsual | kPs | 0x1000);  // PAT: no part of the address
  put_entry(top, 0x4000'0000, 3, 0x8000'0000 | kUsual | kPs);
  attach_first(kDevice, top, 5);
  EXPECT_EQ(read(kDevice, 0x20'1234).phys, 0x40'1234u);
  EXPECT_EQ(read(kDevice, 0x4012'3456).phys, 0x8012'3456u);
  expect_clean();
}

TEST_F(FirstStage, CanonicalAddressesOfFourAndFiveLevels) {
  for (const unsigned levels : {4u, 5u}) {
    SCOPED_TRACE(levels);
    IommuModelConfig c;
    c.first_stage_5 = levels == 5;
    c.mgaw = 57;
    begin(c);
    const u64 top = page();
    const u64 half = u64{1} << (12 + 9 * levels - 1);
    put_entry(top, half - 0x1000, 1, 0xA000 | kUsual, levels);
    put_entry(top, ~u64{0} - 0xFFF, 1, 0xB000 | kUsual, levels);
    put_entry(top, half, 1, 0xC000 | kUsual, levels);  // the same slots as -half
    attach_first(kDevice, top, 5, levels - 4);
    EXPECT_EQ(read(kDevice, half - 0x1000).phys, 0xA000u);
    EXPECT_EQ(read(kDevice, ~u64{0} - 0xFFF).phys, 0xB000u);
    EXPECT_EQ(read(kDevice, u64{0} - half).phys, 0xC000u);
    EXPECT_EQ(read(kDevice, half).fault, 0x80);
    EXPECT_EQ(read(kDevice, u64{1} << 62).fault, 0x80);
    expect_clean();
  }
}

TEST_F(FirstStage, FaultCodes) {
  struct Case {
    unsigned code;
    std::function<void(const Tables&)> arrange;
    bool write = false;
  };
  const u64 nowhere = 0x4000'0000;
  const std::vector<Case> cases = {
      {0x5A, [&](const Tables& t) { put(t.pasid + 16, t.top | 1 << 8); }},
      {0x5A, [&](const Tables& t) { put(t.pasid + 16, t.top | 2); }},       // ERE
      {0x5A, [&](const Tables& t) { put(t.pasid + 16, t.top | 1 << 7); }},  // EAFE
      {0x5A, [&](const Tables& t) { put(t.pasid + 16, t.top | u64{1} << 50); }},
      {0x5B, [&](const Tables& t) { put(t.pasid + 16, t.top | 1 << 2); }},  // five levels
      {0x5B, [&](const Tables& t) { put(t.pasid + 16, t.top | 2 << 2); }},
      {0x5B, [&](const Tables& t) { put(t.pasid, 1 | 3 << 6); }},  // nested
      {0x70, [&](const Tables& t) { put_entry(t.top, 0x1000, 3, nowhere | kUsual); }},
      {0x71, [&](const Tables& t) { put_entry(t.top, 0x1000, 1, 0xA000 | kW | kU); }},
      {0x71, [&](const Tables& t) { put_entry(t.top, 0x1000, 3, 0); }},
      {0x72, [&](const Tables& t) { put_entry(t.top, 0x1000, 1, 0xA000 | kUsual | u64{1} << 51); }},
      {0x72, [&](const Tables& t) { put_entry(t.top, 0x1000, 4, 0xA000 | kUsual | kPs); }},
      {0x72, [&](const Tables& t) { put_entry(t.top, 0x1000, 2, 0x40'2000 | kUsual | kPs); }},
      {0x73, [&](const Tables& t) { put(t.pasid + 16, nowhere); }},
      {0x81, [&](const Tables& t) { put_entry(t.top, 0x1000, 1, 0xA000 | kP | kW); }},
      {0x81, [&](const Tables& t) { put(t.top, memory.word(t.top) & ~kU); }},
      {0x85, [&](const Tables& t) { put_entry(t.top, 0x1000, 1, 0xA000 | kP | kU); }, true},
      {0x85, [&](const Tables& t) { put(t.top, memory.word(t.top) & ~kW); }, true},
      {0x87, [&](const Tables& t) { put_entry(t.top, 0x1000, 1, 0xFEE0'0000 | kUsual); }},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(::testing::Message() << std::hex << c.code << " case " << &c - cases.data());
    begin();
    const Tables t = attach_first(kDevice, 5);
    c.arrange(t);
    const Translation answer = c.write ? write(kDevice, 0x1000) : read(kDevice, 0x1000);
    EXPECT_EQ(answer.verdict, Verdict::Blocked);
    EXPECT_EQ(answer.fault, c.code);
    EXPECT_TRUE(answer.recorded);
    // FPD silences all of them.
    clear_fault();
    put(t.context, memory.word(t.context) | 2);
    model->drop_caches();
    EXPECT_FALSE((c.write ? write(kDevice, 0x1000) : read(kDevice, 0x1000)).recorded);
  }
}

TEST_F(FirstStage, NeedsCapability) {
  ScalableTest::begin();
  attach_first(kDevice, 5);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x5B);
  IommuModelConfig c;
  c.second_stage = false;
  begin(c);
  attach(kDevice, 5);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x5B);
  c.first_stage_1g = false;
  begin(c);
  const u64 top = page();
  put_entry(top, 0, 3, 0x8000'0000 | kUsual | kPs);
  attach_first(kDevice, top, 5);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x72);
}

TEST_F(FirstStage, CapabilityBits) {
  IommuModelConfig c;
  c.scalable = c.first_stage = c.first_stage_5 = true;
  EXPECT_EQ(c.ecap() >> 46 & 3, 3u);
  EXPECT_EQ(c.cap() >> 56 & 0x11, 0x11u);
  c.first_stage = false;
  EXPECT_EQ(c.ecap() >> 46 & 3, 1u);
  EXPECT_EQ(c.cap() >> 56 & 0x11, 0u);
}

// --- accessed and dirty -------------------------------------------------------------------------------------------

TEST_F(FirstStage, AccessedAndDirtyAreAlwaysKept) {
  begin();
  const u64 top = page();
  const u64 leaf = put_entry(top, 0x1000, 1, 0xA000 | kUsual);
  attach_first(kDevice, top, 5);
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
  EXPECT_EQ(memory.word(leaf), 0xA000u | kUsual | kA);
  EXPECT_EQ(memory.word(top) & (kA | kD), kA);
  EXPECT_TRUE(write(kDevice, 0x1000).ok());  // cached by the read, but not as dirty
  EXPECT_EQ(memory.word(leaf), 0xA000u | kUsual | kA | kD);
  model->probe(kDevice, 0x1000, 8, Access::Read);
  expect_clean();
}

TEST_F(FirstStage, NoDirtyBitWithoutPermission) {
  begin();
  const u64 top = page();
  const u64 leaf = put_entry(top, 0x1000, 1, 0xA000 | kP | kU);
  attach_first(kDevice, top, 5);
  EXPECT_EQ(write(kDevice, 0x1000).fault, 0x85);
  EXPECT_EQ(memory.word(leaf), 0xA000u | kP | kU);
}

TEST_F(FirstStage, LosesARaceAndLooksAgain) {
  begin();
  const u64 top = page();
  const u64 leaf = put_entry(top, 0x1000, 1, 0xA000 | kUsual);
  attach_first(kDevice, top, 5);
  int races = 0;
  memory.before_update = [&](u64 phys) {
    if (phys == leaf && races++ == 0) memory.set(leaf, 0xB000 | kUsual);
  };
  EXPECT_EQ(write(kDevice, 0x1000).phys, 0xB000u);
  EXPECT_EQ(memory.word(leaf), 0xB000u | kUsual | kA | kD);
  EXPECT_TRUE(submit({{0xD2, 0}}));
  u64 n = 0;
  memory.set(leaf, 0xA000 | kUsual);
  memory.before_update = [&](u64 phys) {
    if (phys == leaf) memory.set(leaf, 0xA000 | kUsual | ++n << 52);
  };
  EXPECT_EQ(write(kDevice, 0x1000).fault, 0x91);
}

// --- caches -------------------------------------------------------------------------------------------------------

TEST_F(FirstStage, OnlyItsOwnFlushesAndTheGlobalOneDropIt) {
  const struct {
    u64 q0, q1;
    bool drops;
  } cases[] = {
      {0xE2 | 5 << 16, 0, false},              // IOTLB, domain
      {0xF2 | 5 << 16, 0x1000, false},         // IOTLB, page
      {0x37, 0, false},                        // PASID cache, global
      {piotlb(2, 6, 0), 0, false},             // another domain
      {piotlb(2, 5, 1), 0, false},             // another PASID
      {piotlb(3, 5, 0), 0x2000, false},        // another page
      {piotlb(3, 5, 1), 0x1000, false},        //
      {piotlb(3, 5, 0), 0x1000, true},         //
      {piotlb(3, 5, 0), 0x1000 | 0x40, true},  // leaves only
      {piotlb(3, 5, 0), 0x0000 | 1, true},     // two pages
      {piotlb(2, 5, 0), 0, true},              //
      {0xD2, 0, true},                         // IOTLB, global: everything
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(::testing::Message() << std::hex << c.q0 << ", " << c.q1);
    begin();
    const u64 top = page();
    const u64 leaf = put_entry(top, 0x1000, 1, 0xA000 | kUsual);
    attach_first(kDevice, top, 5);
    EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
    put(leaf, 0xB000 | kUsual);
    EXPECT_TRUE(submit({{c.q0, c.q1}}));
    EXPECT_EQ(read(kDevice, 0x1000).phys, c.drops ? 0xB000u : 0xA000u);
    expect_clean();
  }
}

TEST_F(FirstStage, NonLeafEntriesStayWithLeavesOnly) {
  for (const bool leaves_only : {true, false}) {
    begin();
    const u64 top = page();
    put_entry(top, 0x1000, 1, 0xA000 | kUsual);
    attach_first(kDevice, top, 5);
    EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
    put_entry(top, 0x1000, 2, 0);
    put_entry(top, 0x1000, 1, 0xB000 | kUsual);  // in a new table
    EXPECT_TRUE(submit({{piotlb(3, 5, 0), 0x1000 | (leaves_only ? 0x40 : 0)}}));
    EXPECT_EQ(read(kDevice, 0x1000).phys, leaves_only ? 0xA000u : 0xB000u);
  }
}

TEST_F(FirstStage, APermissionUpgradeNeedsAFlush) {
  begin();
  const u64 top = page();
  const u64 leaf = put_entry(top, 0x1000, 1, 0xA000 | kP | kU);
  attach_first(kDevice, top, 5);
  EXPECT_EQ(write(kDevice, 0x1000).fault, 0x85);
  put(leaf, 0xA000 | kUsual);
  EXPECT_EQ(write(kDevice, 0x1000).fault, 0x85);
  EXPECT_TRUE(submit({{piotlb(3, 5, 0), 0x1000 | 0x40}}));
  EXPECT_TRUE(write(kDevice, 0x1000).ok());
}

// Never cached as not present, also with caching mode (§3.4); the PASID entry is.
TEST_F(FirstStage, NotPresentIsNotRemembered) {
  IommuModelConfig c;
  c.caching_mode = true;
  begin(c);
  const u64 top = page();
  const Tables t = attach_first(kDevice, top, 5);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x71);
  put_entry(top, 0x1000, 1, 0xA000 | kUsual);
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
  put(t.pasid, 0);
  EXPECT_TRUE(submit({{0x37, 0}}));
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x59);
  put(t.pasid, 1 | 1 << 6);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x59);
}

TEST_F(FirstStage, TablesSnoopOnlyWithPwsnp) {
  begin();
  const u64 top = page();
  put_entry(top, 0x1000, 1, 0xA000 | kUsual);
  const Tables t = attach_first(kDevice, top, 5);
  put(t.pasid + 8, 5);
  EXPECT_EQ(read(kDevice, 0x1000).fault, 0x71);
  EXPECT_EQ(violations(ViolationKind::NotWrittenBack), 1u);
}

// --- domain ids ---------------------------------------------------------------------------------------------------

TEST_F(FirstStage, WhoMayShareADomainId) {
  struct Case {
    const char* what;
    bool shared;
    std::function<void()> second;
  };
  u64 first_top = 0;
  const std::vector<Case> cases = {
      {"the same table", true, [&] { attach_first(kSibling, first_top, 5); }},
      {"another table", false, [&] { attach_first(kSibling, 5); }},
      {"another table under another PASID", true,
       [&] {
         const u64 top = page();
         put_entry(top, 0x1000, 1, 0xB000 | kUsual);
         attach_first(kSibling, top, 5, 0, 7);
       }},
      {"the other stage", false, [&] { attach(kSibling, 5); }},
      {"the other stage, same table", false, [&] { attach(kSibling, first_top, 5); }},
      {"pass-through", true, [&] { put(attach(kSibling, 5).pasid, 1 | 4 << 6); }},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    begin();
    first_top = attach_first(kDevice, 5).top;
    EXPECT_TRUE(read(kDevice, 0x1000).ok());
    c.second();
    read(kSibling, 0x1000);
    EXPECT_EQ(violations(ViolationKind::DidShared), c.shared ? 0u : 1u);
  }
  // Second stage and pass-through do not.
  begin();
  attach(kDevice, 5);
  read(kDevice, 0x1000);
  put(attach(kSibling, 5).pasid, 1 | 4 << 6);
  read(kSibling, 0x1000);
  EXPECT_EQ(violations(ViolationKind::DidShared), 1u);
}

// The same address under the same id in both stages: two translations that do not meet.
TEST_F(FirstStage, StagesAreCachedApart) {
  begin();
  const u64 second = page();
  map(second, 0x1000, 0xB000);
  attach(kSibling, second, 5);
  attach_first(kDevice, 5);
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
  EXPECT_EQ(read(kSibling, 0x1000).phys, 0xB000u);
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
  EXPECT_EQ(violations(ViolationKind::DidStaleHit), 0u);
}

// A table under an id that still has another one's translations.
TEST_F(FirstStage, AStaleTranslationIsFound) {
  begin();
  const Tables t = attach_first(kDevice, 5);
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
  const u64 other = page();
  put_entry(other, 0x1000, 1, 0xB000 | kUsual);
  put(t.pasid + 16, other);
  EXPECT_TRUE(submit({{0x37, 0}}));
  EXPECT_EQ(read(kDevice, 0x1000).phys, 0xA000u);
  EXPECT_EQ(violations(ViolationKind::DidStaleHit), 1u);
}

}  // namespace
}  // namespace perdure::board::testing
