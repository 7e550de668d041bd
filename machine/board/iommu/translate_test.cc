// Answers and faults of the legacy walk.
#include "machine/board/iommu/iommu_fixture.h"

namespace perdure::board::testing {
namespace {

class Translate : public IommuTest {};

TEST_F(Translate, PassesUntranslatedWhileOff) {
  start();
  const Translation t = write(kDevice, 0x1234, 0x2000);
  EXPECT_EQ(t.verdict, Verdict::Untranslated);
  EXPECT_EQ(t.phys, 0x1234u);
  EXPECT_EQ(t.length, 0x1000u - 0x234u);
  EXPECT_EQ(model->statistics().untranslated, 1u);
  EXPECT_TRUE(model->gaps().empty());  // it never translated before
}

TEST_F(Translate, WalksFourLevels) {
  start_translating();
  const u64 top = page();
  const u64 target = page();
  set_context(kDevice, top, 7);
  map(top, 0x7654'3210'0000, target);
  const Translation t = read(kDevice, 0x7654'3210'0123, 0x10000);
  EXPECT_EQ(t.verdict, Verdict::Translated);
  EXPECT_EQ(t.phys, target + 0x123);
  EXPECT_EQ(t.length, 0x1000u - 0x123u);
  expect_clean();
}

TEST_F(Translate, WalksThreeAndFiveLevels) {
  IommuModelConfig c;
  c.sagaw = 0b1110;
  c.mgaw = 57;
  start_translating(c);
  const u64 three = page();
  const u64 five = page();
  set_context(kDevice, three, 7, 1);
  set_context(kSibling, five, 8, 3);
  map(three, 0x12'3456'7000, 0x5000, kReadWrite, 3);
  map(five, 0x1F2'3456'789A'B000, 0x6000, kReadWrite, 5);
  EXPECT_EQ(read(kDevice, 0x12'3456'7008).phys, 0x5008u);
  EXPECT_EQ(read(kSibling, 0x1F2'3456'789A'B010).phys, 0x6010u);
  expect_clean();
}

TEST_F(Translate, LargePages) {
  start_translating();
  const u64 top = page();
  set_context(kDevice, top, 7);
  set_entry(top, 4, 0x20'0000, 2, 0x8060'0000 | 0x83);
  set_entry(top, 4, 0x8000'0000, 3, 0x1'4000'0000 | 0x83);
  Translation t = write(kDevice, 0x20'0000 + 0x12345, u64{1} << 40);
  EXPECT_EQ(t.phys, 0x8061'2345u);
  EXPECT_EQ(t.length, (u64{2} << 20) - 0x12345);
  t = write(kDevice, 0x8000'0000 + 0x1234'5678, u64{1} << 40);
  EXPECT_EQ(t.phys, 0x1'5234'5678u);
  EXPECT_EQ(t.length, (u64{1} << 30) - 0x1234'5678);
  expect_clean();
}

TEST_F(Translate, PassThroughEntry) {
  start_translating();
  set_context(kDevice, 0, 1, 2, 0b1001);
  const Translation t = write(kDevice, 0x40'0008, 0x10000);
  EXPECT_EQ(t.verdict, Verdict::PassThrough);
  EXPECT_EQ(t.phys, 0x40'0008u);
  EXPECT_EQ(t.length, 0xFF8u);
  expect_clean();
}

TEST_F(Translate, InterruptWindowIsNeverLookedUp) {
  start_translating();
  EXPECT_EQ(write(kDevice, 0xFEE0'0000, 4).verdict, Verdict::Interrupt);
  EXPECT_EQ(write(kDevice, 0xFEEF'FFFC, 4).verdict, Verdict::Interrupt);
  const Translation r = read(kDevice, 0xFEE0'0000, 4);
  EXPECT_EQ(r.verdict, Verdict::Blocked);
  EXPECT_EQ(r.fault, 0);
  EXPECT_EQ(fsts(), 0u);
}

// --- faults, one after the other -------------------------------------------------------------------------------

struct FaultCase {
  const char* name;
  unsigned reason;
  Access access;
  std::function<void(class Faults&)> arrange;
  bool violation = false;  // also software's mistake
  bool qualified = true;   // silenced by FPD
};

class Faults : public IommuTest {
 public:
  using IommuTest::config;
  using IommuTest::context_at;
  using IommuTest::map;
  using IommuTest::memory;
  using IommuTest::model;
  using IommuTest::put;
  using IommuTest::root;
  using IommuTest::set_context;
  using IommuTest::set_entry;
  using IommuTest::set_root;
  u64 top = 0;
  u64 iova = 0x12'3456'7000;

  void run(const FaultCase& c) {
    SCOPED_TRACE(c.name);
    iova = 0x12'3456'7000;
    start_translating();
    top = page();
    set_context(kDevice, top, 7);
    map(top, iova, 0x7000);
    c.arrange(*this);
    const Translation t = model->translate(kDevice, iova + 0x44, 4, c.access);
    EXPECT_EQ(t.verdict, Verdict::Blocked);
    EXPECT_EQ(t.length, 0u);
    EXPECT_EQ(t.fault, c.reason);
    EXPECT_TRUE(t.recorded);
    EXPECT_EQ(reason(), c.reason);
    EXPECT_EQ(fault_low(), iova);
    EXPECT_EQ(fault_high() & 0xFFFF, u64{kDevice});
    EXPECT_EQ((fault_high() >> 62) & 1, c.access == Access::Read ? 1u : 0u);  // T1
    EXPECT_EQ(fsts() & 2, 2u);
    EXPECT_EQ(model->violation_count() != 0, c.violation);
  }
  // The same with FPD set in the context entry: `low` is its first word.
  void run_silenced(const FaultCase& c) {
    SCOPED_TRACE(c.name);
    iova = 0x12'3456'7000;
    start_translating();
    top = page();
    set_context(kDevice, top, 7);
    map(top, iova, 0x7000);
    c.arrange(*this);
    if ((memory.word(root) & 1) != 0 && c.qualified) {
      const u64 at = context_at(kDevice);
      put(at, memory.word(at) | 2);
    }
    const Translation t = model->translate(kDevice, iova + 0x44, 4, c.access);
    EXPECT_EQ(t.fault, c.reason);
    EXPECT_EQ(t.recorded, !c.qualified);
    EXPECT_EQ(fsts() == 0, c.qualified);
  }
};

const std::vector<FaultCase>& fault_cases() {
  static const std::vector<FaultCase> cases = {
      {"root not present", 0x1, Access::Read, [](Faults& f) { f.put(f.root, 0); }, false, false},
      {"context not present", 0x2, Access::Write, [](Faults& f) { f.put(f.context_at(kDevice), 0); }},
      {"width the unit does not have", 0x3, Access::Read, [](Faults& f) { f.set_context(kDevice, f.top, 7, 3); }, true},
      {"translation type reserved", 0x3, Access::Read, [](Faults& f) { f.set_context(kDevice, f.top, 7, 2, 0b1101); },
       true},
      {"device TLB type without ECAP.DT", 0x3, Access::Read,
       [](Faults& f) { f.set_context(kDevice, f.top, 7, 2, 0b0101); }, true},
      {"pass-through with less than the largest width", 0x3, Access::Read,
       [](Faults& f) { f.set_context(kDevice, 0, 7, 1, 0b1001); }, true},
      {"beyond the table", 0x4, Access::Read,
       [](Faults& f) {
         f.set_context(kDevice, f.top, 7, 1);
         f.iova = u64{1} << 39;
       }},
      {"beyond MGAW", 0x4, Access::Read, [](Faults& f) { f.iova = u64{1} << 48; }},
      {"beyond MGAW, pass-through", 0x4, Access::Read,
       [](Faults& f) {
         f.set_context(kDevice, 0, 7, 2, 0b1001);
         f.iova = u64{1} << 48;
       }},
      {"leaf not present, write", 0x5, Access::Write, [](Faults& f) { f.map(f.top, f.iova, 0, 0); }},
      {"leaf not present, read", 0x6, Access::Read, [](Faults& f) { f.map(f.top, f.iova, 0, 0); }},
      {"address bits alone do not make present", 0x6, Access::Read, [](Faults& f) { f.map(f.top, f.iova, 0x7000, 0); }},
      {"read-only", 0x5, Access::Write, [](Faults& f) { f.map(f.top, f.iova, 0x7000, 1); }},
      {"write-only", 0x6, Access::Read, [](Faults& f) { f.map(f.top, f.iova, 0x7000, 2); }},
      {"read-only above the leaf", 0x5, Access::Write,
       [](Faults& f) {
         const u64 at = f.top + ((f.iova >> 39) & 0x1FF) * 8;
         f.put(at, f.memory.word(at) & ~u64{2});
       }},
      {"page table outside RAM", 0x3, Access::Read, [](Faults& f) { f.set_context(kDevice, 0x4000'0000, 7); }, true},
      {"lower page table outside RAM", 0x7, Access::Read,
       [](Faults& f) { f.set_entry(f.top, 4, f.iova, 2, 0x4000'0000 | 3); }, true},
      {"root table outside RAM", 0x8, Access::Read, [](Faults& f) { f.set_root(0x4000'0000); }, true, false},
      {"context table outside RAM", 0x9, Access::Read, [](Faults& f) { f.put(f.root, 0x4000'0001); }, true, false},
      {"reserved bits in root", 0xA, Access::Read, [](Faults& f) { f.put(f.root, f.memory.word(f.root) | 2); }, true,
       false},
      {"root beyond the host's width", 0xA, Access::Read,
       [](Faults& f) { f.put(f.root, f.memory.word(f.root) | u64{1} << 48); }, true, false},
      {"second word of root", 0xA, Access::Read, [](Faults& f) { f.put(f.root + 8, u64{1} << 40); }, true, false},
      {"reserved bits in context", 0xB, Access::Read, [](Faults& f) { f.set_context(kDevice, f.top, 7, 2, 0x11); },
       true},
      {"reserved bit 7 of the second word", 0xB, Access::Read,
       [](Faults& f) { f.put(f.context_at(kDevice) + 8, 2 | 7 << 8 | 0x80); }, true},
      {"reserved high bits of the second word", 0xB, Access::Read,
       [](Faults& f) { f.put(f.context_at(kDevice) + 8, 2 | 7 << 8 | u64{1} << 24); }, true},
      {"context beyond the host's width", 0xB, Access::Read,
       [](Faults& f) { f.set_context(kDevice, f.top | u64{1} << 50, 7); }, true},
      {"leaf beyond the host's width", 0xC, Access::Read, [](Faults& f) { f.map(f.top, f.iova, u64{1} << 48); }, true},
      {"PS in a 4 KiB leaf", 0xC, Access::Read, [](Faults& f) { f.map(f.top, f.iova, 0x7080); }, true},
      {"PS in level 4", 0xC, Access::Read, [](Faults& f) { f.set_entry(f.top, 4, f.iova, 4, 0x83); }, true},
      {"misaligned 2 MiB page", 0xC, Access::Read, [](Faults& f) { f.set_entry(f.top, 4, f.iova, 2, 0x1000 | 0x83); },
       true},
      {"misaligned 1 GiB page", 0xC, Access::Read,
       [](Faults& f) { f.set_entry(f.top, 4, f.iova, 3, 0x20'0000 | 0x83); }, true},
      {"SNP above the leaf", 0xC, Access::Read,
       [](Faults& f) {
         const u64 at = f.top + ((f.iova >> 39) & 0x1FF) * 8;
         f.put(at, f.memory.word(at) | 0x800);
       },
       true},
      {"result in the interrupt window", 0xE, Access::Write, [](Faults& f) { f.map(f.top, f.iova, 0xFEE0'0000); }},
  };
  return cases;
}

TEST_F(Faults, EveryReason) {
  for (const FaultCase& c : fault_cases()) run(c);
}

TEST_F(Faults, FpdSilencesQualifiedOnes) {
  for (const FaultCase& c : fault_cases()) run_silenced(c);
}

TEST_F(Faults, TranslationTypeBlocksTheRequest) {
  start_translating();
  top = page();
  set_context(kDevice, top, 7);
  map(top, iova, 0x7000);
  for (RequestType type : {RequestType::TranslationRequest, RequestType::Translated}) {
    const Translation t = model->translate(kDevice, iova, 4, Access::Read, type);
    EXPECT_EQ(t.fault, 0xD);
    EXPECT_EQ(reason(), 0xDu);
    clear_fault();
  }
  expect_clean();
}

TEST_F(Faults, DeviceTlbTypeLetsThemThrough) {
  IommuModelConfig c;
  c.device_tlb = true;
  start_translating(c);
  top = page();
  set_context(kDevice, top, 7, 2, 0b0101);
  map(top, iova, 0x7000);
  EXPECT_EQ(model->translate(kDevice, iova, 4, Access::Read, RequestType::TranslationRequest).phys, 0x7000u);
  EXPECT_EQ(model->translate(kDevice, 0x9000, 4, Access::Read, RequestType::Translated).phys, 0x9000u);
  EXPECT_EQ(read(kDevice, iova).phys, 0x7000u);
}

TEST_F(Faults, SnoopBitNeedsSnoopControl) {
  for (bool snoop_control : {false, true}) {
    IommuModelConfig c;
    c.snoop_control = snoop_control;
    start_translating(c);
    top = page();
    set_context(kDevice, top, 7);
    map(top, iova, 0x7800);
    const Translation t = read(kDevice, iova);
    EXPECT_EQ(t.ok(), snoop_control);
    EXPECT_EQ(t.fault, snoop_control ? 0 : 0xC);
  }
}

TEST_F(Faults, SuperpagesNeedCapability) {
  IommuModelConfig c;
  c.sslps = 0b01;
  start_translating(c);
  top = page();
  set_context(kDevice, top, 7);
  set_entry(top, 4, 0, 2, 0x83);
  set_entry(top, 4, 0x4000'0000, 3, 0x83);
  EXPECT_TRUE(read(kDevice, 0x1000).ok());
  EXPECT_EQ(read(kDevice, 0x4000'0000).fault, 0xC);
}

TEST_F(Faults, DomainIdBeyondTheUnits) {
  IommuModelConfig c;
  c.nd = 2;  // 8 bits
  start_translating(c);
  set_context(kDevice, page(), 0x100);
  EXPECT_EQ(read(kDevice, 0).fault, 0xB);
  EXPECT_EQ(violations(ViolationKind::ReservedBits), 1u);
}

TEST_F(Faults, IgnoredBitsAreIgnored) {
  start_translating();
  top = page();
  set_context(kDevice, top, 7);
  put(context_at(kDevice) + 8, 2 | 7 << 8 | 0x78);  // 6:3 are software's
  map(top, iova, 0x7000 | u64{0xBFF} << 52 | 0x400 | 0x37C);
  EXPECT_EQ(read(kDevice, iova).phys, 0x7000u);
  expect_clean();
}

TEST_F(Faults, AnswerStopsAtTheInterruptWindow) {
  start_translating();
  top = page();
  set_context(kDevice, top, 7);
  set_entry(top, 4, 0xC000'0000, 3, 0xC000'0000 | 0x83);
  EXPECT_EQ(write(kDevice, 0xFEDF'FFF0, 0x100).length, 0x10u);
  set_entry(top, 4, 0x1'0000'0000, 3, 0xC000'0000 | 0x83);
  EXPECT_EQ(write(kDevice, 0x1'0000'0000 + 0x3EE0'0000).fault, 0xE);
}

// --- records -----------------------------------------------------------------------------------------------------

class Records : public IommuTest {};

TEST_F(Records, OverflowDropsUntilCleared) {
  IommuModelConfig c;
  c.nfr = 3;
  start_translating(c);
  for (u64 i = 0; i < 3; ++i) EXPECT_TRUE(read(kDevice, i << 12).recorded);
  EXPECT_EQ(fsts(), 0x2u);
  EXPECT_FALSE(read(kDevice, 0x3000).recorded);
  EXPECT_EQ(fsts(), 0x3u);
  clear_fault(0);
  EXPECT_FALSE(read(kDevice, 0x4000).recorded);  // still: PFO
  model->write(0x34, 4, 1);
  EXPECT_EQ(fsts() & 1, 0u);
  EXPECT_TRUE(read(kDevice, 0x5000).recorded);
  EXPECT_EQ(fault_low(0), 0x5000u);
  EXPECT_EQ(fault_low(1), 0x1000u);
  EXPECT_EQ(model->statistics().faults_recorded, 4u);
  EXPECT_EQ(model->statistics().faults_dropped, 2u);
}

TEST_F(Records, IndexGoesRound) {
  IommuModelConfig c;
  c.nfr = 2;
  start_translating(c);
  for (unsigned i = 0; i < 5; ++i) {
    EXPECT_TRUE(read(kDevice, u64{i} << 12).recorded);
    EXPECT_EQ((fsts() >> 8) & 0xFF, i % 2);
    EXPECT_EQ(fault_low(i % 2), u64{i} << 12);
    clear_fault(i % 2);
    EXPECT_EQ(fsts() & 2, 0u);
  }
}

TEST_F(Records, OnlyTheTopBitCanBeWritten) {
  start_translating();
  read(kDevice, 0x1000);
  const u64 high = fault_high();
  model->write(config.fro, 8, 0);
  model->write(config.fro + 8, 8, 0);
  EXPECT_EQ(fault_low(), 0x1000u);
  EXPECT_EQ(fault_high(), high);
  model->write(config.fro + 8, 8, u64{1} << 63);
  EXPECT_EQ(fault_high() >> 63, 0u);
}

TEST_F(Records, QemuCollapsesOneSource) {
  IommuModelConfig c;
  c.nfr = 4;
  c.quirks = IommuQuirks::qemu_7_2();
  start_translating(c);
  EXPECT_TRUE(read(kDevice, 0x1000).recorded);
  EXPECT_FALSE(read(kDevice, 0x2000).recorded);
  EXPECT_TRUE(read(kSibling, 0x2000).recorded);
  EXPECT_EQ(fsts() & 1, 0u);
}

TEST_F(Records, QemuHasAPasidInFaultsOfPageTables) {
  IommuModelConfig c;
  c.quirks.pv_ones_without_pasid = true;
  start_translating(c);
  read(kDevice, 0x1000);  // no context
  EXPECT_EQ((fault_high() >> 40) & 0xFFFFF, 0u);
  clear_fault();
  set_context(kDevice, page(), 5);
  read(kDevice, 0x1000);
  EXPECT_EQ((fault_high() >> 40) & 0xFFFFF, 0xFFFFu);
  EXPECT_EQ(fault_high() >> 31 & 1, 0u) << "PP";
}

}  // namespace
}  // namespace perdure::board::testing
