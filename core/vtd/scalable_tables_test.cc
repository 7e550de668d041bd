// Scalable mode against a unit that records everything: what is stored when, and which flushes go with it (hardware.md
// §3.2, §6). Whether DMA survives is for the board's model to say (tests/vtd_board_test.cc).
#include "core/vtd/scalable_tables.h"

#include "core/vtd/testing/scripted_unit.h"
#include "core/vtd/vtd_unit.h"
#include "tests/support/handover.h"

namespace perdure::vtd {
namespace {

using Event = test::ScriptedUnit::Event;
constexpr SourceId kDevice{0, 0x0010};
constexpr SourceId kNeighbour{0, 0x0018};
constexpr SourceId kUpper{0, 0x0190};
constexpr u64 kAddress = ~u64{0xfff};
constexpr u64 kSsts = u64{1} << 46, kFsts = u64{1} << 47, kSmpwcs = u64{1} << 48;

struct ScalableTablesTest : testing::Test {
  ScalableTablesTest() {
    hw.ecap |= test::ScriptedUnit::kScalable | kSsts;
    before = totals();
  }

  test::Handover world;
  test::ScriptedUnit hw{world.machine};
  UnitConfig config{.host_address_bits = 48, .timeout_ns = 1'000'000};
  FrameAllocator::Totals before;

  FrameAllocator::Totals totals() {
    world.heap().trim();
    return world.frames().totals();
  }
  Result<Owned<VtdUnit>> create() { return VtdUnit::create(world.heap(), Phys(test::ScriptedUnit::kBase), 0, config); }
  Owned<VtdUnit> up() {
    auto unit = create();
    EXPECT_TRUE(unit);
    hw.forget();
    return std::move(*unit);
  }
  void down(Owned<VtdUnit>& unit) {
    unit->disable();
    unit.reset();
  }
  Owned<pt::IoPageTable> table(const pt::Geometry& geometry) {
    auto t = pt::create(world.heap(), geometry);
    EXPECT_TRUE(t);
    return std::move(*t);
  }
  u64* at(u64 phys) { return world.machine.virt<u64>(Phys(phys & kAddress)); }
  u64* root() { return at(hw.latched_root); }
  u64* context(SourceId s) { return at(root()[s.bus() * 2 + (s.devfn() >> 7)]) + (s.devfn() & 0x7f) * 4; }
  u64* pasid(SourceId s) { return at(at(context(s)[0])[0]); }
  std::vector<Event> stores() const {
    std::vector<Event> found;
    for (const Event& e : hw.events) {
      if (e.kind == Event::Kind::Memory) found.push_back(e);
    }
    return found;
  }
  std::vector<u64> first_words(std::initializer_list<Descriptor> list) {
    std::vector<u64> words;
    for (const Descriptor& d : list) words.push_back(d.word[0]);
    return words;
  }
};

constexpr Drain kDrain{true, true};

TEST_F(ScalableTablesTest, ComesUpInScalableModeBlockingEverything) {
  auto unit = up();
  EXPECT_EQ(unit->mode(), TableMode::Scalable);
  EXPECT_EQ(hw.latched_root >> 10 & 3, 1u) << "TTM";
  for (int i = 0; i < 512; ++i) EXPECT_EQ(root()[i], 0u);
  EXPECT_EQ(hw.iqa & 0x800, 0x800u) << "flushes of this mode need wide descriptors";
  ASSERT_TRUE(unit->flush_all());
  EXPECT_EQ(hw.descriptors, first_words({InvalidateContext(), InvalidatePasidCache(), InvalidateIotlb(kDrain)}));
  down(unit);
  EXPECT_EQ(totals(), before);
}

TEST_F(ScalableTablesTest, PoliciesChooseTheMode) {
  const u64 can = hw.ecap;
  const struct {
    TableModePolicy policy;
    u64 ecap;
    std::optional<TableMode> mode;
  } cases[] = {
      {TableModePolicy::Auto, can, TableMode::Scalable},
      {TableModePolicy::Auto, can & ~test::ScriptedUnit::kScalable, TableMode::Legacy},
      {TableModePolicy::Auto, can & ~kSsts, TableMode::Legacy},  // no page table in scalable mode
      {TableModePolicy::Auto, (can & ~kSsts) | kFsts, TableMode::Scalable},
      {TableModePolicy::Legacy, can, TableMode::Legacy},
      {TableModePolicy::Scalable, can, TableMode::Scalable},
      {TableModePolicy::Scalable, can & ~test::ScriptedUnit::kScalable, std::nullopt},
      {TableModePolicy::Scalable, can & ~kSsts, std::nullopt},
  };
  for (const auto& c : cases) {
    config.mode = c.policy;
    hw.ecap = c.ecap;
    hw.gsts = 0;
    hw.iqt = hw.iqh = 0;
    hw.forget();
    auto unit = create();
    ASSERT_EQ(unit.has_value(), c.mode.has_value());
    if (!unit) {
      EXPECT_EQ(unit.error(), Errno::Eopnotsupp);
      EXPECT_TRUE(hw.events.empty());
      continue;
    }
    EXPECT_EQ((*unit)->mode(), *c.mode);
    down(*unit);
  }
}

TEST_F(ScalableTablesTest, CapabilitiesChooseTheTables) {
  const struct {
    u64 cap, ecap;
    StagePolicy stage;
    pt::Geometry geometry;
  } cases[] = {
      {0, kSsts, StagePolicy::FirstStage, {pt::FormatId::VtdSecondStage, 4, 48, 48, 0x40201000, false}},
      {0, kSsts | kSmpwcs, StagePolicy::SecondStage, {pt::FormatId::VtdSecondStage, 4, 48, 48, 0x40201000, true}},
      {0, kSsts | kFsts, StagePolicy::SecondStage, {pt::FormatId::VtdSecondStage, 4, 48, 48, 0x40201000, false}},
      {0, kSsts | kFsts, StagePolicy::FirstStage, {pt::FormatId::X86FirstStage, 4, 47, 48, 0x201000, false}},
      {0, kFsts | kSmpwcs, StagePolicy::SecondStage, {pt::FormatId::X86FirstStage, 4, 47, 48, 0x201000, true}},
      {u64{1} << 56, kFsts, StagePolicy::FirstStage, {pt::FormatId::X86FirstStage, 4, 47, 48, 0x40201000, false}},
      {u64{1} << 60, kFsts, StagePolicy::FirstStage, {pt::FormatId::X86FirstStage, 5, 48, 48, 0x201000, false}},
  };
  for (const auto& c : cases) {
    const Capabilities can{hw.cap | c.cap, (hw.ecap & ~kSsts) | c.ecap, 48};
    EXPECT_EQ(can.geometry(TableMode::Scalable, c.stage), c.geometry) << std::hex << c.cap << " " << c.ecap;
    EXPECT_EQ(can.geometry(TableMode::Legacy, c.stage).format, pt::FormatId::VtdSecondStage);
  }
  // What is written where neither bit alone says that walks snoop is written back.
  for (const u64 bits : {u64{0}, u64{1}, kSmpwcs, kSmpwcs | 1}) {
    const Capabilities can{hw.cap, (hw.ecap & ~u64{1}) | bits, 48};
    EXPECT_EQ(can.entries_coherent(TableMode::Scalable), bits == (kSmpwcs | 1));
    EXPECT_EQ(can.pages_coherent(TableMode::Scalable), (bits & kSmpwcs) != 0);
    EXPECT_EQ(can.entries_coherent(TableMode::Legacy), (bits & 1) != 0);
  }
}

TEST_F(ScalableTablesTest, AnEntryBecomesPresentWithItsLastStore) {
  auto unit = up();
  auto t = table(unit->info().geometry);
  const u32 did = *unit->did_alloc();
  ASSERT_TRUE(unit->set_entry(kUpper, did, *t));
  const auto s = stores();
  // Directory, upper root half, the way to the directory; PASID entry with its first word last; context, the same.
  ASSERT_EQ(s.size(), 3u + 8 + 4);
  const u64 c = world.machine.phys(context(kUpper)).value;
  const u64 directory = context(kUpper)[0] & kAddress;
  const u64 entry = world.machine.phys(pasid(kUpper)).value;
  EXPECT_EQ(s[0].at, directory);
  EXPECT_EQ(s[0].value, entry | 1);
  EXPECT_EQ(s[1].at, (hw.latched_root & kAddress) + 24);
  EXPECT_EQ(s[1].value & 0xfff, 1u);
  EXPECT_EQ(s[2].at, c);
  EXPECT_EQ(s[2].value, directory) << "not present yet";
  for (unsigned i = 0; i < 8; ++i) EXPECT_EQ(s[3 + i].at, entry + 8 * (7 - i));
  EXPECT_EQ(s[9].value, u64{did}) << "no PWSNP: ECAP does not have SMPWCS";
  EXPECT_EQ(s[10].value, t->top().value | 1 | 2 << 6 | 2 << 2);
  for (unsigned i = 0; i < 4; ++i) EXPECT_EQ(s[11 + i].at, c + 8 * (3 - i));
  EXPECT_EQ(s[13].value, 0u) << "RID_PASID";
  EXPECT_EQ(s[14].value, directory | 1);
  for (const u64 page : {c & kAddress, directory, entry, hw.latched_root & kAddress}) {
    EXPECT_TRUE(hw.visible.contains(page + 4032) || hw.visible.contains(page)) << "written back";
  }
  EXPECT_TRUE(hw.descriptors.empty()) << "neither caching mode nor a write buffer";

  const EntryState state = unit->read_entry(kUpper);
  EXPECT_TRUE(state.present);
  EXPECT_EQ(state.did, did);
  EXPECT_EQ(state.format, pt::FormatId::VtdSecondStage);
  EXPECT_EQ(state.levels, 4);
  EXPECT_EQ(state.top, t->top());
  EXPECT_FALSE(unit->read_entry({0, 0x0110}).present) << "same slot of the lower half";
  EXPECT_EQ(unit->set_entry(kUpper, did, *t).error(), Errno::Eexist);
  ASSERT_TRUE(unit->clear_entry(kUpper));
  down(unit);
}

TEST_F(ScalableTablesTest, AFirstStageEntry) {
  hw.ecap |= kFsts | kSmpwcs;
  hw.cap |= u64{1} << 60;
  config.stage = StagePolicy::FirstStage;
  auto unit = up();
  auto t = table(unit->info().geometry);
  const u32 did = *unit->did_alloc();
  ASSERT_TRUE(unit->set_entry(kDevice, did, *t));
  EXPECT_EQ(pasid(kDevice)[0], 1u | 1 << 6 | 3 << 2);
  EXPECT_EQ(pasid(kDevice)[1], u64{did} | u64{1} << 23) << "PWSNP";
  EXPECT_EQ(pasid(kDevice)[2], t->top().value | 1 << 2) << "five levels";
  EXPECT_EQ(unit->read_entry(kDevice).format, pt::FormatId::X86FirstStage);
  EXPECT_EQ(unit->read_entry(kDevice).levels, 5);
  EXPECT_EQ(unit->read_entry(kDevice).top, t->top());

  // Its flushes are by PASID; what became present needs none.
  hw.forget();
  ASSERT_TRUE(unit->mapped_pages(did, Iova(0x10000), 0x1000));
  EXPECT_TRUE(hw.descriptors.empty());
  ASSERT_TRUE(unit->flush_pages(did, Iova(0x5000), 0x1000, true));
  ASSERT_EQ(hw.whole.size(), 1u);
  EXPECT_EQ(hw.whole[0], std::pair(6 | 3u << 4 | u64{did} << 16, u64{0x5040}));
  hw.forget();
  ASSERT_TRUE(unit->flush_domain(did));
  EXPECT_EQ(hw.descriptors, std::vector<u64>{6 | 2u << 4 | u64{did} << 16});
  hw.forget();
  ASSERT_TRUE(unit->clear_entry(kDevice));
  EXPECT_EQ(hw.descriptors, first_words({InvalidateContext(did, kDevice.bdf), InvalidatePasidCache(did),
                                         InvalidatePasidIotlb(did, 0)}));
  down(unit);
}

// One id may not tag translations of both stages (hardware.md §4), until it is freed.
TEST_F(ScalableTablesTest, AnIdKeepsItsStage) {
  hw.ecap |= kFsts;
  auto unit = up();
  const Capabilities can{hw.cap, hw.ecap, 48};
  auto first = table(can.first_stage(TableMode::Scalable));
  auto second = table(can.second_stage(TableMode::Scalable));
  const u32 did = *unit->did_alloc();
  ASSERT_TRUE(unit->set_entry(kDevice, did, *first));
  EXPECT_EQ(unit->set_entry(kNeighbour, did, *second).error(), Errno::Einval);
  EXPECT_FALSE(unit->read_entry(kNeighbour).present);
  ASSERT_TRUE(unit->clear_entry(kDevice));
  unit->did_free(did);
  ASSERT_TRUE(unit->did_reserve(did));
  EXPECT_TRUE(unit->set_entry(kNeighbour, did, *second));
  ASSERT_TRUE(unit->clear_entry(kNeighbour));
  down(unit);
}

TEST_F(ScalableTablesTest, ClearingIsOneStoreThenTheFlushesThenTheRest) {
  auto unit = up();
  auto t = table(unit->info().geometry);
  const u32 did = *unit->did_alloc();
  ASSERT_TRUE(unit->set_entry(kDevice, did, *t));
  const u64 c = world.machine.phys(context(kDevice)).value;
  const u64 directory = context(kDevice)[0] & kAddress;
  const auto frames = totals();
  hw.forget();
  ASSERT_TRUE(unit->clear_entry(kDevice));
  EXPECT_EQ(hw.events.front().at, c) << "before anything else";
  EXPECT_EQ(hw.events.front().value, directory) << "P alone";
  EXPECT_EQ(hw.descriptors, first_words({InvalidateContext(did, kDevice.bdf), InvalidatePasidCache(did),
                                         InvalidateIotlb(kDrain, did)}));
  usize tail = 0, wiped = 0;
  for (usize i = 0; i < hw.events.size(); ++i) {
    if (hw.events[i].kind == Event::Kind::Register && hw.events[i].at == 0x88) tail = i;
    if (hw.events[i].at == c && i > 0) wiped = i;
  }
  EXPECT_GT(wiped, tail) << "the rest goes only when the wait is done";
  EXPECT_FALSE(unit->read_entry(kDevice).present);
  for (unsigned i = 0; i < 4; ++i) EXPECT_EQ(context(kDevice)[i], 0u);
  EXPECT_EQ(totals().free, frames.free + 2) << "directory and table";
  hw.forget();
  EXPECT_TRUE(unit->clear_entry(kDevice)) << "again: nothing to do";
  EXPECT_TRUE(unit->clear_entry({0, 0x4000})) << "no table";
  EXPECT_TRUE(hw.events.empty());
  down(unit);
}

TEST_F(ScalableTablesTest, AFlushThatFailedIsOwed) {
  auto unit = up();
  auto t = table(unit->info().geometry);
  const u32 did = *unit->did_alloc();
  ASSERT_TRUE(unit->set_entry(kDevice, did, *t));
  const auto frames = totals();
  hw.queue_dead = true;
  EXPECT_EQ(unit->clear_entry(kDevice).error(), Errno::Eio);
  EXPECT_FALSE(unit->read_entry(kDevice).present);
  EXPECT_EQ(unit->clear_entry(kDevice).error(), Errno::Eio) << "again";
  EXPECT_EQ(totals(), frames) << "hardware may still hold the way through its directory";
}

TEST_F(ScalableTablesTest, CachingModeFlushesWhatBecamePresent) {
  hw.cap |= test::ScriptedUnit::kCachingMode;
  auto unit = up();
  auto t = table(unit->info().geometry);
  const u32 did = *unit->did_alloc();
  ASSERT_TRUE(unit->set_entry(kDevice, did, *t));
  // A root entry became present, too: everything.
  EXPECT_EQ(hw.descriptors, first_words({InvalidateContext(), InvalidatePasidCache(), InvalidateIotlb(kDrain)}));
  hw.forget();
  ASSERT_TRUE(unit->set_entry(kNeighbour, did, *t));
  EXPECT_EQ(hw.descriptors,
            first_words({InvalidateContext(0, kNeighbour.bdf), InvalidatePasidCache(did, 0), InvalidateIotlb(kDrain, 0),
                         InvalidatePasidIotlb(did, 0), InvalidateIotlb(kDrain, did)}));
  for (const SourceId s : {kDevice, kNeighbour}) ASSERT_TRUE(unit->clear_entry(s));
  down(unit);
}

TEST_F(ScalableTablesTest, AWriteBufferIsFlushedWhereNothingElseDoes) {
  hw.cap |= test::ScriptedUnit::kWriteBuffer;
  auto unit = up();
  auto t = table(unit->info().geometry);
  ASSERT_TRUE(unit->set_entry(kDevice, *unit->did_alloc(), *t));
  EXPECT_EQ(hw.writes_to(0x18), std::vector<u64>{0x8c00'0000});
  ASSERT_TRUE(unit->clear_entry(kDevice));
  down(unit);
}

// Every allocation of an attachment, also while the unit is preserved: nothing changed, nothing kept.
TEST_F(ScalableTablesTest, SurvivesEveryFailingAllocation) {
  for (const bool preserved : {false, true}) {
    hw.gsts = 0;
    hw.iqt = hw.iqh = 0;
    auto unit = up();
    auto t = table(unit->info().geometry);
    const u32 did = *unit->did_alloc();
    if (preserved) {
      ASSERT_TRUE(unit->preserve(world.kho()));
    }
    u64 points = 0;
    for (;; ++points) {
      const auto frames = totals();
      hw.forget();
      hw.allocations = 0;
      hw.fail_allocation = points + 1;
      const auto set = unit->set_entry(kUpper, did, *t);
      hw.fail_allocation = 0;
      if (set) break;
      EXPECT_EQ(set.error(), Errno::Enomem);
      EXPECT_EQ(totals().free, frames.free) << points;
      EXPECT_EQ(root()[3], 0u) << "nothing is linked before everything is there";
      EXPECT_FALSE(unit->read_entry(kUpper).present);
    }
    EXPECT_GE(points, 3u);
    if (preserved) unit->unpreserve(world.kho());
    ASSERT_TRUE(unit->clear_entry(kUpper));
    t.reset();
    down(unit);
  }
}

// The mode stays, and what the PASID cache holds goes, too, which only a queue can ask for.
TEST_F(ScalableTablesTest, BlockAllStaysInScalableMode) {
  auto unit = up();
  const u64 former = hw.latched_root;
  const u64 queue = hw.iqa & kAddress;
  ASSERT_TRUE(VtdUnit::block_all(world.frames(), Phys(test::ScriptedUnit::kBase), config));
  EXPECT_FALSE(hw.te_dropped);
  EXPECT_NE(hw.latched_root & kAddress, former & kAddress);
  EXPECT_EQ(hw.latched_root & 0xfff, former & 0xfff);
  for (int i = 0; i < 512; ++i) EXPECT_EQ(root()[i], 0u);
  EXPECT_NE(hw.iqa & kAddress, queue) << "the former kernel's memory may be anything by now";
  EXPECT_EQ(hw.descriptors, first_words({InvalidateContext(), InvalidatePasidCache(), InvalidateIotlb(kDrain)}));
  hw.queue_dead = true;
  EXPECT_EQ(VtdUnit::block_all(world.frames(), Phys(test::ScriptedUnit::kBase), config).error(), Errno::Eio);
}

TEST_F(ScalableTablesTest, RefusesTablesThatTheUnitCannotWalk) {
  hw.ecap |= kFsts;
  auto unit = up();
  pt::Geometry g = Capabilities{hw.cap, hw.ecap, 48}.first_stage(TableMode::Scalable);
  EXPECT_TRUE(unit->walks(g));
  const auto refuses = [&](auto change) {
    pt::Geometry other = g;
    change(other);
    return !unit->walks(other);
  };
  EXPECT_TRUE(refuses([](auto& o) { o.levels = 5; }));  // no FS5LP
  EXPECT_TRUE(refuses([](auto& o) { o.levels = 3; }));
  EXPECT_TRUE(refuses([](auto& o) { o.coherent = true; }));  // no SMPWCS
  EXPECT_TRUE(refuses([](auto& o) { o.leaf_sizes |= kGiantPageSize; }));
  EXPECT_TRUE(refuses([](auto& o) { o.output_bits = 52; }));
  EXPECT_TRUE(refuses([](auto& o) { o.iova_bits = 48; }));
  EXPECT_TRUE(refuses([](auto& o) { o.format = pt::FormatId::None; }));
  down(unit);
}

}  // namespace
}  // namespace perdure::vtd
