// The entry checks of scalable tables that a former kernel left (hardware.md §9.3): a walk root → context → directory →
// PASID table. Numbers by hand, as in hardware.md §3.2.
#include "tests/vtd_adopt_fixture.h"

namespace perdure::vtd {
namespace {

class VtdAdoptScalableTest : public VtdAdoptTest {
 protected:
  static constexpr u64 kAddress = ~u64{0xfff};

  u64* at(u64 phys) { return world.machine.virt<u64>(Phys(phys)); }
  u64* root_half(SourceId s) { return at(record.root + s.bus() * 16u + (s.devfn() >= 0x80 ? 8 : 0)); }
  u64* context(SourceId s) { return at((*root_half(s) & kAddress) + (s.devfn() & 0x7fu) * 32); }
  u64* directory(SourceId s) { return at(context(s)[0] & kAddress); }
  u64* pasid(SourceId s) { return at(directory(s)[0] & kAddress); }
  bool first_stage() const { return GetParam().stage == StagePolicy::FirstStage; }
  // The word of the PASID entry that leads to the page table.
  u64& top(SourceId s) { return pasid(s)[first_stage() ? 2 : 0]; }

  // Prepares, changes the tables as `change` says, and expects the adoption to be refused.
  void refuses(std::string_view why, const std::function<void()>& change) {
    prepare();
    change();
    expect_refused(why);
  }
};

// Units that walk both kinds of tables.
class VtdAdoptBothStagesTest : public VtdAdoptScalableTest {};
// Units with fewer domain ids than an entry has room for.
class VtdAdoptFewIdsTest : public VtdAdoptScalableTest {};

TEST_P(VtdAdoptScalableTest, ReservedBitsInRoot) {
  refuses("lower root entry of bus 0x3: reserved bits", [&] { root_half(kSibling)[0] |= 0x20; });
}

TEST_P(VtdAdoptScalableTest, AnUpperRootEntryThatTheRecordDoesNotKnow) {
  refuses("upper root entry of bus 0x3 is present", [&] { root_half(kSibling)[1] = root_half(kSibling)[0]; });
}

TEST_P(VtdAdoptScalableTest, ContextEntries) {
  const struct {
    const char* why;
    unsigned word;
    u64 bits;
  } cases[] = {
      {"context entry of 0000:03:00.0: reserved bits", 0, 0x100},
      {"context entry of 0000:03:00.0: reserved bits", 1, u64{1} << 21},
      {"context entry of 0000:03:00.0: reserved bits", 2, 1},
      {"context entry of 0000:03:00.0: reserved bits", 3, u64{1} << 63},
      {"context entry of 0000:03:00.0: device TLB", 0, 4},
      {"context entry of 0000:03:00.0: PASIDs in use", 0, 8},          // R45
      {"context entry of 0000:03:00.0: page requests in use", 0, 16},  // R47
      {"context entry of 0000:03:00.0: PASIDs in use", 1, 1},          // another RID_PASID
      {"context entry of 0000:03:00.0: privileged requests", 1, u64{1} << 20},
      {"context entry of 0000:03:00.0: PASID directory larger", 0, u64{1} << 9},
      {"PASID directory at", 0, u64{1} << 45},
  };
  prepare();
  jump();
  must(kStays, 0x10'0000, data);
  for (const auto& c : cases) {
    SCOPED_TRACE(::testing::Message() << c.why << " " << c.word << " " << std::hex << c.bits);
    u64& word = context(kSibling)[c.word];
    word |= c.bits;
    expect_refused_now(c.why);
    word &= ~c.bits;
  }
  EXPECT_TRUE(adopt(record)) << log();
  expect_clean();
}

TEST_P(VtdAdoptScalableTest, PasidEntries) {
  const struct {
    const char* why;
    unsigned word;
    u64 set;
    u64 clear;
  } cases[] = {
      {"PASID entry of 0000:03:00.0: reserved bits", 0, 0x400, 0},
      {"PASID entry of 0000:03:00.0: reserved bits", 1, u64{1} << 16, 0},
      {"PASID entry of 0000:03:00.0: reserved bits", 2, u64{1} << 8, 0},
      {"PASID entry of 0000:03:00.0: reserved bits", 3, 1, 0},
      {"PASID entry of 0000:03:00.0: reserved bits", 7, u64{1} << 63, 0},
      {"PASID entry of 0000:03:00.0: not present", 0, 0, 1},
      {"PASID entry of 0000:03:00.0: nested table", 0, u64{3} << 6, 0},
      {"PASID entry of 0000:03:00.0: reserved translation type", 0, u64{7} << 6, 0},
      {"PASID entry of 0000:03:00.0: another PASID", 9 * 8, 1, 0},
  };
  prepare();
  jump();
  must(kStays, 0x10'0000, data);
  for (const auto& c : cases) {
    SCOPED_TRACE(::testing::Message() << c.why << " " << c.word);
    u64& word = pasid(kSibling)[c.word];
    const u64 before = word;
    word = (word | c.set) & ~c.clear;
    expect_refused_now(c.why);
    word = before;
  }
  // What the unit cannot do, of either stage.
  const u64 low = pasid(kSibling)[0];
  const u64 third = pasid(kSibling)[2];
  const u64 page = top(kSibling) & kAddress;
  pasid(kSibling)[0] = page | 1 | 2 << 6 | 6 << 2;
  expect_refused_now(GetParam().config.second_stage ? "width that the unit cannot do" : "second-stage table that");
  if (GetParam().config.second_stage) {
    pasid(kSibling)[0] = page | 1 | 2 << 6 | 2 << 2 | 1 << 9;
    // The other one, under the same id, does not.
    expect_refused_now(GetParam().config.scalable_coherent ? "tracks writes to one by halves"
                                                           : "dirty tracking that the unit cannot do");
  }
  pasid(kSibling)[0] = 1 | 1 << 6;
  pasid(kSibling)[2] = page | 2 << 2;
  expect_refused_now("first-stage table that the unit cannot do");
  pasid(kSibling)[0] = low;
  pasid(kSibling)[2] = third;
  pasid(kSibling)[1] ^= u64{1} << 23;
  expect_refused_now("walks of another coherence");
  pasid(kSibling)[1] ^= u64{1} << 23;
  EXPECT_TRUE(adopt(record)) << log();
  expect_clean();
}

TEST_P(VtdAdoptScalableTest, DirectoryEntries) {
  prepare();
  jump();
  u64* d = directory(kSibling);
  const struct {
    unsigned at;
    u64 set;
    u64 clear;
  } cases[] = {{0, 4, 0}, {0, 0, 1}, {1, 1, 0}, {127, 1, 0}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.at);
    const u64 before = d[c.at];
    d[c.at] = (before | c.set) & ~c.clear;
    expect_refused_now("PASID directory of 0000:03:00.0: entry");
    d[c.at] = before;
  }
  d[128] = 1;  // beyond the smallest directory: nobody looks
  must(kStays, 0x10'0000, data);
  EXPECT_TRUE(adopt(record)) << log();
  expect_clean();
}

// Retracted and never flushed, it cannot be known what the unit still holds.
TEST_P(VtdAdoptScalableTest, LeftoversInAnEntryThatIsNotPresent) {
  refuses("not present, and not empty", [&] { context(kSibling)[0] &= ~u64{1}; });
}

TEST_P(VtdAdoptScalableTest, AnIdForTwoTables) {
  refuses("stands for two page tables", [&] {
    const Phys second = page();
    ASSERT_TRUE(world.kho().preserve(second, 0));
    top(kSibling) = (top(kSibling) & 0xfff) | second.value;
  });
}

// First-stage and second-stage translations may not have an id in common, even of the same table page (§4).
TEST_P(VtdAdoptBothStagesTest, AnIdForBothStages) {
  ASSERT_TRUE(GetParam().config.second_stage && GetParam().config.first_stage);
  refuses("stands for two page tables", [&] {
    u64* entry = pasid(kSibling);
    const u64 shared = top(kSibling) & kAddress;
    entry[0] = first_stage() ? shared | 1 | 2 << 6 | 2 << 2 : 1 | 1 << 6;
    entry[2] = first_stage() ? 0 : shared;
  });
}

// What passes through may share its id with first-stage tables, as on Linux, never with second-stage ones.
TEST_P(VtdAdoptScalableTest, AnIdOfPassThrough) {
  prepare();
  pasid(kSibling)[0] = 1 | 4 << 6;
  pasid(kSibling)[2] = 0;
  if (!first_stage()) return expect_refused("stands for two page tables");
  jump();
  must(kStays, 0x10'0000, data);
  ASSERT_TRUE(adopt(record)) << log();
  EXPECT_TRUE(unit->read_entry(kSibling).pass_through);
  EXPECT_EQ(unit->read_entry(kSibling).format, pt::FormatId::None);
  ASSERT_TRUE(unit->clear_entry(kSibling));
  expect_clean();
}

TEST_P(VtdAdoptFewIdsTest, AnIdThatTheUnitCannotDo) {
  ASSERT_LT(GetParam().config.nd, 6) << "every id fits";
  refuses("domain id that the unit cannot do", [&] { pasid(kSibling)[1] |= 16; });
}

TEST_P(VtdAdoptScalableTest, ATableThatIsNotPreserved) {
  refuses("page table that is not preserved", [&] {
    const Phys second = page();
    for (const SourceId s : {kStays, kSibling}) top(s) = (top(s) & 0xfff) | second.value;
  });
}

TEST_P(VtdAdoptScalableTest, ATableBeyondTheHostAddressWidth) {
  refuses("beyond the host address width", [&] { top(kStays) |= u64{1} << 45; });
}

TEST_P(VtdAdoptScalableTest, AContextTableThatIsNotPreserved) {
  refuses("context table at", [&] { world.kho().unpreserve(Phys(*root_half(kSibling) & kAddress), 0); });
}

TEST_P(VtdAdoptScalableTest, ADirectoryThatIsNotPreserved) {
  refuses("PASID directory at", [&] { world.kho().unpreserve(Phys(context(kSibling)[0] & kAddress), 0); });
}

TEST_P(VtdAdoptScalableTest, APasidTableThatIsNotPreserved) {
  refuses("PASID table at", [&] { world.kho().unpreserve(Phys(directory(kSibling)[0] & kAddress), 0); });
}

// Each page is taken over once (R23), whatever the tables say.
TEST_P(VtdAdoptScalableTest, PagesThatAreUsedTwice) {
  prepare();
  jump();
  const auto with = [&](u64& word, u64 value, std::string_view why = "is used twice") {
    const u64 before = std::exchange(word, (word & 0xfff) | (value & kAddress));
    expect_refused_now(why);
    word = before;
  };
  with(*root_half(kSibling), *root_half(kStays));
  with(*root_half(kSibling), record.root);
  with(context(kSibling)[0], context(kStays)[0]);
  with(context(kSibling)[0], record.root);
  with(context(kSibling)[0], record.status_page);
  with(directory(kSibling)[0], directory(kStays)[0]);
  with(directory(kSibling)[0], record.iqa, "is no preserved page");  // of several
  must(kStays, 0x10'0000, data);
  EXPECT_TRUE(adopt(record)) << log();
  expect_clean();
}

// Every bit of an entry that decides where DMA goes, flipped alone; the others are ignored by hardware, or harmless.
TEST_P(VtdAdoptScalableTest, NoFlippedBitGoesUnnoticed) {
  constexpr u64 kAll = ~u64{0};
  constexpr u64 kFpd = 2;
  const u64 pasid_bits[8] = {
      first_stage() ? u64{0xdc1} : ~(kFpd | 0x20),  // SSEE; of first stage P, PGTT and what is reserved
      u64{0xff} << 16,                              // PWSNP; another domain id is another tag, and legal
      first_stage() ? kAddress | 0xf0c : u64{0xf00},
      kAll,
      kAll,
      kAll,
      kAll,
      kAll};
  prepare();
  jump();
  must(kStays, 0x10'0000, data);
  u64 tried = 0;
  const auto flip = [&](std::string_view what, u64* words, usize count, auto bits_of) {
    for (usize w = 0; w < count; ++w) {
      for (unsigned bit = 0; bit < 64; ++bit) {
        if ((bits_of(w) >> bit & 1) == 0) continue;
        words[w] ^= u64{1} << bit;
        const u64 writes = hw.register_writes;
        const auto kept = world.frames().totals().kept;
        auto adopted = adopt(record);
        ASSERT_FALSE(adopted) << what << " word " << w << " bit " << bit;
        EXPECT_EQ(adopted.error(), Errno::Einval);
        EXPECT_EQ(hw.register_writes, writes);
        EXPECT_EQ(world.frames().totals().kept, kept);
        words[w] ^= u64{1} << bit;
        ++tried;
      }
    }
  };
  flip("root", root_half(kSibling), 2, [&](usize w) { return w == 0 ? kAll : u64{1}; });
  flip("context", context(kSibling), 4, [&](usize w) { return w == 0 ? ~kFpd : kAll; });
  flip("directory", directory(kSibling), 1, [&](usize) { return ~kFpd; });
  flip("PASID", pasid(kSibling), 8, [&](usize w) { return pasid_bits[w]; });
  EXPECT_GT(tried, 700u);
  EXPECT_TRUE(adopt(record)) << log();
  expect_clean();
}

// R52: what hardware can reach travels, and nothing else, whatever happens while it is preserved.
TEST_P(VtdAdoptScalableTest, ExactlyWhatHardwareReachesIsPreserved) {
  create();
  const u64 before = keys();
  table = &domain();
  did = *unit->did_alloc();
  const SourceId upper{0, 0x03f8};
  ASSERT_TRUE(unit->set_entry(kStays, did, *table));
  ASSERT_TRUE(unit->preserve(world.kho()));
  constexpr u64 kQueueAndStatus = 2, kInterruptTable = 1, kRoot = 1, kContexts = 1, kDirectoryAndTable = 2;
  u64 expected = before + kQueueAndStatus + kInterruptTable + kRoot + kContexts + kDirectoryAndTable;
  EXPECT_EQ(keys(), expected);
  // Joins, on another bus, in its upper half.
  ASSERT_TRUE(unit->set_entry(upper, did, *table));
  expected += kContexts + kDirectoryAndTable;
  EXPECT_EQ(keys(), expected);
  ASSERT_TRUE(unit->set_entry(kLeaves, did, *table));
  EXPECT_EQ(keys(), expected + kDirectoryAndTable);
  // Leaves again; its context table stays linked, and so stays.
  ASSERT_TRUE(unit->clear_entry(kLeaves));
  EXPECT_EQ(keys(), expected);
  // Not kept for the jump, and back when it fails.
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(unit->quiesce([&](SourceId s) { return s == kStays; }));
    EXPECT_EQ(keys(), expected - kDirectoryAndTable);
    must_not(upper, 0x10'0000);
    hw.devices();
    hw.must_not.clear();
    unit->resume();
    EXPECT_EQ(keys(), expected);
    EXPECT_TRUE(unit->read_entry(upper).present);
  }
  unit->fill_record(record);
  EXPECT_EQ(record.context_tables[0], 1u | u64{1} << 7) << "the lower half of bus 0, the upper one of bus 3";
  unit->unpreserve(world.kho());
  EXPECT_EQ(keys(), before);
  ASSERT_TRUE(unit->clear_entry(upper));
  ASSERT_TRUE(unit->clear_entry(kStays));
  expect_clean();
}

// R28: entries of preserved devices are the same words before and after.
TEST_P(VtdAdoptScalableTest, EntriesAreNotRewritten) {
  prepare();
  jump();
  std::vector<u64> before;
  const auto words = [&] {
    std::vector<u64> all;
    for (const SourceId s : {kStays, kSibling}) {
      all.insert(all.end(), context(s), context(s) + 4);
      all.push_back(*directory(s));
      all.insert(all.end(), pasid(s), pasid(s) + 8);
    }
    return all;
  };
  before = words();
  const Phys first = Phys(context(kStays)[0] & kAddress);
  std::vector<u64> touched;
  hw.on_store = [&](Phys p) { touched.push_back(p.value & kAddress); };
  ASSERT_TRUE(adopt(record)) << log();
  EXPECT_EQ(words(), before);
  EXPECT_EQ(std::count(touched.begin(), touched.end(), first.value), 0);
  EXPECT_EQ(std::count(touched.begin(), touched.end(), record.root), 0);
  hw.on_store = nullptr;
  expect_clean();
}

INSTANTIATE_TEST_SUITE_P(Units, VtdAdoptScalableTest,
                         testing::ValuesIn(variants_named(
                             {"second_stage_sticky", "second_stage_not_coherent_evict",
                              "second_stage_no_psi_no_drain_few_ids", "both_stages_sticky", "first_stage_sticky",
                              "first_stage_not_coherent_caching_mode_evict", "first_stage_alone"})),
                         [](const auto& p) { return p.param.name; });
INSTANTIATE_TEST_SUITE_P(Units, VtdAdoptBothStagesTest,
                         testing::ValuesIn(variants_named({"both_stages_sticky", "first_stage_sticky",
                                                           "first_stage_not_coherent_caching_mode_evict"})),
                         [](const auto& p) { return p.param.name; });
INSTANTIATE_TEST_SUITE_P(Units, VtdAdoptFewIdsTest,
                         testing::ValuesIn(variants_named({"second_stage_no_psi_no_drain_few_ids",
                                                           "first_stage_no_psi_no_drain_few_ids"})),
                         [](const auto& p) { return p.param.name; });

}  // namespace
}  // namespace perdure::vtd
