#include "core/vtd/vtd_unit.h"

#include "core/vtd/testing/scripted_unit.h"
#include "tests/support/handover.h"

namespace perdure::vtd {
namespace {

using Event = test::ScriptedUnit::Event;
constexpr SourceId kDevice{0, 0x0010};
constexpr SourceId kOther{0, 0x0108};

UnitConfig config() {
  UnitConfig c;
  c.host_address_bits = 48;
  c.timeout_ns = 1'000'000;
  return c;
}

struct VtdUnitTest : testing::Test {
  VtdUnitTest() { before = totals(); }

  test::Handover world;
  test::ScriptedUnit hw{world.machine};
  FrameAllocator::Totals before;

  FrameAllocator::Totals totals() {
    world.heap().trim();
    return world.frames().totals();
  }
  Result<Owned<VtdUnit>> create() {
    return VtdUnit::create(world.heap(), Phys(test::ScriptedUnit::kBase), 0, config());
  }
  Owned<VtdUnit> up() {
    auto unit = create();
    EXPECT_TRUE(unit);
    hw.forget();
    return std::move(*unit);
  }
  Owned<pt::IoPageTable> table(VtdUnit& unit) {
    auto t = pt::create(world.heap(), unit.info().geometry);
    EXPECT_TRUE(t);
    return std::move(*t);
  }
  u64* root() { return world.machine.virt<u64>(Phys(hw.latched_root & ~u64{0xfff})); }
  u64* context(SourceId s) {
    const u64 low = root()[s.bus() * 2];
    return (low & 1) != 0 ? world.machine.virt<u64>(Phys(low & ~u64{0xfff})) + s.devfn() * 2 : nullptr;
  }
  bool logged(std::string_view what) {
    for (const auto& line : world.machine.lines) {
      if (line.find(what) != std::string::npos) return true;
    }
    return false;
  }
};

TEST_F(VtdUnitTest, ComesUpBlockingEverything) {
  auto created = create();
  ASSERT_TRUE(created);
  VtdUnit& unit = **created;
  EXPECT_EQ(hw.gsts, 0xc400'0000u);
  EXPECT_TRUE(unit.alive());
  for (int i = 0; i < 512; ++i) EXPECT_EQ(root()[i], 0u);
  EXPECT_EQ(hw.descriptors, (std::vector<u64>{0x11, 0xd2}));
  // Queue, root, flush, and translation as the very last command.
  EXPECT_EQ(hw.writes_to(0x18), (std::vector<u64>{0x0400'0000, 0x4400'0000, 0x8400'0000 | 0}));
  EXPECT_EQ(hw.events.back().at, 0x18u);
  EXPECT_EQ(hw.other[0x38], 0u);            // fault event armed
  EXPECT_EQ(hw.other[0xa0], 0x8000'0000u);  // completion event not used
  EXPECT_EQ(unit.info().did_limit, 65536u);
  EXPECT_EQ(unit.info().geometry.levels, 4);
  EXPECT_EQ(unit.info().geometry.iova_bits, 48);
  EXPECT_EQ(unit.info().geometry.leaf_sizes, kPageSize | kHugePageSize | kGiantPageSize);
  EXPECT_FALSE(unit.info().geometry.coherent);
  // A unit that does not snoop sees an empty root, too.
  EXPECT_TRUE(hw.visible.contains(hw.latched_root));
  EXPECT_TRUE(hw.visible.contains(hw.latched_root + 4032));
  unit.disable();
  EXPECT_EQ(hw.gsts, 0x4000'0000u);
  created->reset();
  EXPECT_EQ(totals(), before);
}

TEST_F(VtdUnitTest, LeavesAUnitAloneThatTranslatesAlready) {
  hw.gsts = 0xc400'0000;
  auto unit = create();
  ASSERT_FALSE(unit);
  EXPECT_EQ(unit.error(), Errno::Ebusy);
  EXPECT_TRUE(hw.events.empty());
  EXPECT_EQ(totals(), before);
}

TEST_F(VtdUnitTest, RefusesWhatItCannotDrive) {
  const struct {
    u64 cap, ecap;
    Errno error;
  } cases[] = {
      {~u64{0}, ~u64{0}, Errno::Enodev},
      {hw.cap, hw.ecap & ~u64{2}, Errno::Eopnotsupp},            // no queue
      {hw.cap & ~(u64{0x1f} << 8), hw.ecap, Errno::Eopnotsupp},  // no width
      {hw.cap | u64{0x3ff} << 24, hw.ecap, Errno::Enodev},       // fault records outside the window
      {hw.cap, hw.ecap | u64{0x3ff} << 8, Errno::Enodev},        // IOTLB register outside
  };
  for (const auto& c : cases) {
    hw.cap = c.cap;
    hw.ecap = c.ecap;
    auto unit = create();
    ASSERT_FALSE(unit);
    EXPECT_EQ(unit.error(), c.error);
    EXPECT_TRUE(hw.events.empty());
  }
  EXPECT_EQ(totals(), before);
}

TEST_F(VtdUnitTest, TakesTheFirmwaresQueueDown) {
  hw.gsts = 1u << 26;
  hw.iqh = hw.iqt = 0x80;
  auto unit = create();
  ASSERT_TRUE(unit);
  EXPECT_EQ(hw.writes_to(0x18).front(), 0u);
  EXPECT_EQ(hw.gsts, 0xc400'0000u);
}

TEST_F(VtdUnitTest, BringUpThatFailsLeavesTheUnitOffAndNothingBehind) {
  hw.queue_dead = true;
  auto unit = create();
  ASSERT_FALSE(unit);
  EXPECT_EQ(unit.error(), Errno::Eio);
  EXPECT_EQ(hw.gsts & 1u << 31, 0u);
  EXPECT_EQ(hw.sink, nullptr);
  // The queue still runs: its three pages are not given to anybody.
  EXPECT_EQ(totals().free, before.free - 2);
}

TEST_F(VtdUnitTest, SurvivesEveryFailingAllocation) {
  for (u64 n = 1;; ++n) {
    hw.gsts = 0;
    hw.iqt = hw.iqh = 0;
    hw.forget();
    hw.allocations = 0;
    hw.fail_allocation = n;
    auto unit = create();
    hw.fail_allocation = 0;
    if (unit) {
      (*unit)->disable();
      unit->reset();
      EXPECT_GT(n, 3u);
      break;
    }
    EXPECT_EQ(unit.error(), Errno::Enomem) << n;
    EXPECT_EQ(hw.gsts, 0u);
    EXPECT_EQ(totals(), before) << n;
  }
  EXPECT_EQ(totals(), before);
}

TEST_F(VtdUnitTest, AnEntryBecomesPresentWithItsLastStore) {
  auto unit = up();
  auto t = table(*unit);
  const u32 did = *unit->did_alloc();
  ASSERT_TRUE(unit->set_entry(kDevice, did, *t));

  const auto& e = hw.events;
  std::vector<Event> stores;
  for (const Event& x : e) {
    if (x.kind == Event::Kind::Memory) stores.push_back(x);
  }
  // Root entry high, low; context entry high, low.
  ASSERT_EQ(stores.size(), 4u);
  const u64 root_page = hw.latched_root & ~u64{0xfff};
  EXPECT_EQ(stores[0].at, root_page + 8);
  EXPECT_EQ(stores[1].at, root_page);
  EXPECT_EQ(stores[1].value & 1, 1u);
  const u64 context_page = stores[1].value & ~u64{0xfff};
  EXPECT_EQ(stores[2].at, context_page + 0x10 * 16 + 8);
  EXPECT_EQ(stores[2].value, u64{did} << 8 | 2);
  EXPECT_EQ(stores[3].at, context_page + 0x10 * 16);
  EXPECT_EQ(stores[3].value, t->top().value | 1);
  // Each visible to a walker that does not snoop.
  EXPECT_TRUE(hw.visible.contains(stores[3].at & ~u64{63}));
  EXPECT_TRUE(hw.visible.contains(context_page + 4032));
  // Neither caching mode nor a write buffer: nothing to flush.
  EXPECT_TRUE(hw.descriptors.empty());

  const EntryState state = unit->read_entry(kDevice);
  EXPECT_TRUE(state.present);
  EXPECT_FALSE(state.pass_through);
  EXPECT_EQ(state.did, did);
  EXPECT_EQ(state.levels, 4);
  EXPECT_EQ(state.top, t->top());
  EXPECT_FALSE(unit->read_entry(kOther).present);
  EXPECT_EQ(unit->set_entry(kDevice, did, *t).error(), Errno::Eexist);
}

TEST_F(VtdUnitTest, ClearingIsOneStoreThenTheFlushesThenTheRest) {
  auto unit = up();
  auto t = table(*unit);
  const u32 did = *unit->did_alloc();
  ASSERT_TRUE(unit->set_entry(kDevice, did, *t));
  hw.forget();
  ASSERT_TRUE(unit->clear_entry(kDevice));
  const u64 entry = world.machine.phys(context(kDevice)).value;
  const auto stores = hw.stores_to(Phys(entry), 16);
  ASSERT_EQ(stores.size(), 3u);
  EXPECT_EQ(stores[0].at, entry);
  EXPECT_EQ(stores[0].value, t->top().value);
  EXPECT_EQ(hw.events.front().at, entry) << "before anything else";
  EXPECT_EQ(hw.descriptors, (std::vector<u64>{InvalidateContext(did, kDevice.bdf).word[0],
                                              InvalidateIotlb({true, true}, did).word[0]}));
  // The rest goes only when the wait is done.
  usize tail = 0, wiped = 0;
  for (usize i = 0; i < hw.events.size(); ++i) {
    if (hw.events[i].kind == Event::Kind::Register && hw.events[i].at == 0x88) tail = i;
    if (hw.events[i].at == entry + 8) wiped = i;
  }
  EXPECT_GT(wiped, tail);
  EXPECT_FALSE(unit->read_entry(kDevice).present);
  EXPECT_EQ(context(kDevice)[0] | context(kDevice)[1], 0u);
  hw.forget();
  EXPECT_TRUE(unit->clear_entry(kDevice)) << "again: nothing to do";
  EXPECT_TRUE(unit->clear_entry(kOther)) << "no table";
  EXPECT_TRUE(hw.events.empty());
}

TEST_F(VtdUnitTest, ADeadQueueIsReportedWithTheEntryNotPresent) {
  auto unit = up();
  auto t = table(*unit);
  const u32 did = *unit->did_alloc();
  ASSERT_TRUE(unit->set_entry(kDevice, did, *t));
  hw.queue_dead = true;
  EXPECT_EQ(unit->clear_entry(kDevice).error(), Errno::Eio);
  EXPECT_FALSE(unit->read_entry(kDevice).present);
  EXPECT_FALSE(unit->alive());
  // The flush is still owed, and stays so.
  EXPECT_EQ(unit->clear_entry(kDevice).error(), Errno::Eio);
  EXPECT_EQ(unit->set_entry(kOther, did, *t).error(), Errno::Eio);
  EXPECT_EQ(unit->flush_all().error(), Errno::Eio);
  EXPECT_EQ(unit->flush_domain(did).error(), Errno::Eio);
  EXPECT_EQ(unit->preserve(world.kho()).error(), Errno::Eio);
}

// An entry that a former kernel left may carry any id, 0 too: the flush that it is owed must not be forgotten.
TEST_F(VtdUnitTest, AFlushIsOwedForIdZeroAsWell) {
  auto unit = up();
  auto t = table(*unit);
  ASSERT_TRUE(unit->set_entry(kDevice, *unit->did_alloc(), *t));
  context(kDevice)[1] &= 7;
  hw.queue_dead = true;
  EXPECT_EQ(unit->clear_entry(kDevice).error(), Errno::Eio);
  EXPECT_FALSE(unit->read_entry(kDevice).present);
  EXPECT_EQ(unit->clear_entry(kDevice).error(), Errno::Eio);
}

TEST_F(VtdUnitTest, CachingModeFlushesWhatBecamePresent) {
  hw.cap |= test::ScriptedUnit::kCachingMode;
  auto unit = up();
  auto t = table(*unit);
  const u32 did = *unit->did_alloc();
  ASSERT_TRUE(unit->set_entry(kDevice, did, *t));
  // A root entry became present, too: everything.
  EXPECT_EQ(hw.descriptors, (std::vector<u64>{0x11, 0xd2}));
  hw.forget();
  const SourceId neighbour{0, 0x0018};
  ASSERT_TRUE(unit->set_entry(neighbour, did, *t));
  EXPECT_EQ(hw.descriptors,
            (std::vector<u64>{InvalidateContext(0, neighbour.bdf).word[0], InvalidateIotlb({true, true}, 0).word[0],
                              InvalidateIotlb({true, true}, did).word[0]}));
  hw.forget();
  ASSERT_TRUE(unit->mapped_pages(did, Iova(0x10000), 0x1000));
  EXPECT_EQ(hw.descriptors, std::vector<u64>{InvalidateIotlb({true, true}, did, 0x10000, 0, false).word[0]});
}

TEST_F(VtdUnitTest, AWriteBufferIsFlushedWhereNothingElseDoes) {
  hw.cap |= test::ScriptedUnit::kWriteBuffer;
  auto unit = up();
  auto t = table(*unit);
  const u32 did = *unit->did_alloc();
  ASSERT_TRUE(unit->set_entry(kDevice, did, *t));
  EXPECT_EQ(hw.writes_to(0x18), std::vector<u64>{0x8c00'0000});
  hw.forget();
  ASSERT_TRUE(unit->mapped_pages(did, Iova(0x10000), 0x1000));
  EXPECT_EQ(hw.writes_to(0x18), std::vector<u64>{0x8c00'0000});
  EXPECT_FALSE(hw.te_dropped);
}

TEST_F(VtdUnitTest, FlushesExactlyTheRange) {
  auto unit = up();
  const Drain drain{true, true};
  const struct {
    u64 iova, length;
    std::vector<Descriptor> expected;
  } cases[] = {
      {0x5000, 0x1000, {InvalidateIotlb(drain, 7, 0x5000, 0, true)}},
      {0x0, 0x200000, {InvalidateIotlb(drain, 7, 0, 9, true)}},
      {0x3000, 0x2000, {InvalidateIotlb(drain, 7, 0x3000, 0, true), InvalidateIotlb(drain, 7, 0x4000, 0, true)}},
      {0x40000000,
       0x80000000,
       {InvalidateIotlb(drain, 7, 0x40000000, 18, true), InvalidateIotlb(drain, 7, 0x80000000, 18, true)}},
      // Not worth it page by page, too large, and all of it.
      {0x1000, 0x3fe000, {InvalidateIotlb(drain, 7)}},
      {0, u64{1} << 48, {InvalidateIotlb(drain, 7)}},
      {0x1000, ~u64{0}, {InvalidateIotlb(drain, 7)}},
  };
  for (const auto& c : cases) {
    hw.forget();
    ASSERT_TRUE(unit->flush_pages(7, Iova(c.iova), c.length, true));
    ASSERT_EQ(hw.whole.size(), c.expected.size()) << std::hex << c.iova;
    for (usize i = 0; i < c.expected.size(); ++i) {
      EXPECT_EQ(hw.whole[i].first, c.expected[i].word[0]);
      EXPECT_EQ(hw.whole[i].second, c.expected[i].word[1]);
    }
  }
  hw.forget();
  ASSERT_TRUE(unit->flush_pages(7, Iova(0x5000), 0x1000, false));
  EXPECT_EQ(hw.whole[0].second, 0x5000u) << "IH = 0 when tables changed";
  hw.forget();
  ASSERT_TRUE(unit->flush_pages(7, Iova(0x5000), 0, false));
  EXPECT_TRUE(hw.events.empty());
}

TEST_F(VtdUnitTest, WithoutPageSelectiveFlushesTheDomainIsFlushed) {
  hw.cap &= ~(u64{1} << 39);
  auto unit = up();
  ASSERT_TRUE(unit->flush_pages(7, Iova(0x5000), 0x1000, true));
  EXPECT_EQ(hw.descriptors, std::vector<u64>{InvalidateIotlb({true, true}, 7).word[0]});
}

TEST_F(VtdUnitTest, RefusesEntriesThatTheUnitCannotWalk) {
  auto unit = up();
  auto t = table(*unit);
  const u32 did = *unit->did_alloc();
  EXPECT_EQ(unit->set_entry({1, 0x10}, did, *t).error(), Errno::Einval);
  EXPECT_EQ(unit->set_entry(kDevice, did + 1, *t).error(), Errno::Einval);
  EXPECT_EQ(unit->set_entry(kDevice, 0, *t).error(), Errno::Einval);
  pt::Geometry g = unit->info().geometry;
  EXPECT_TRUE(unit->walks(g));
  g.coherent = true;
  EXPECT_FALSE(unit->walks(g)) << "its stores would stay in the CPU's cache";
  g = unit->info().geometry;
  g.levels = 5;
  EXPECT_FALSE(unit->walks(g));
  g.levels = 3;
  EXPECT_TRUE(unit->walks(g));
  g.format = pt::FormatId::X86FirstStage;
  EXPECT_FALSE(unit->walks(g));
  EXPECT_TRUE(hw.events.empty());
}

TEST_F(VtdUnitTest, PreservesItsPagesAndThoseThatComeLater) {
  auto unit = up();
  auto t = table(*unit);
  const u32 did = *unit->did_alloc();
  ASSERT_TRUE(unit->set_entry(kDevice, did, *t));
  ASSERT_TRUE(unit->preserve(world.kho()));
  EXPECT_TRUE(unit->preserved());
  EXPECT_EQ(unit->preserve(world.kho()).error(), Errno::Ebusy);
  const auto kept = [&](u64 page) { return world.kho().is_preserved(Phys(page & ~u64{0xfff}), 0); };
  EXPECT_TRUE(kept(hw.latched_root));
  EXPECT_TRUE(kept(root()[0]));
  EXPECT_TRUE(kept(hw.iqa));
  abi::IommuUnitRecord record;
  unit->fill_record(record);
  EXPECT_TRUE(kept(record.status_page));
  EXPECT_EQ(record.context_tables[0], 1u);

  ASSERT_TRUE(unit->set_entry(kOther, did, *t));
  const u64 late = root()[2];
  EXPECT_TRUE(kept(late));
  unit->fill_record(record);
  EXPECT_EQ(record.context_tables[0], 5u);

  unit->unpreserve(world.kho());
  for (const u64 page : {hw.latched_root, root()[0], late, hw.iqa, record.status_page}) EXPECT_FALSE(kept(page));
  EXPECT_TRUE(unit->preserve(world.kho()));
}

TEST_F(VtdUnitTest, PreserveIsUndoneWholeWhenItFails) {
  auto unit = up();
  auto t = table(*unit);
  const u32 did = *unit->did_alloc();
  ASSERT_TRUE(unit->set_entry(kDevice, did, *t));
  abi::IommuUnitRecord record;
  unit->fill_record(record);
  // Somebody else's key in the way of the last one.
  ASSERT_TRUE(world.kho().preserve(Phys(record.status_page), 0));
  EXPECT_FALSE(unit->preserve(world.kho()));
  EXPECT_FALSE(unit->preserved());
  for (const u64 page : {record.root, root()[0], record.iqa}) {
    EXPECT_FALSE(world.kho().is_preserved(Phys(page & ~u64{0xfff}), 0));
  }
  world.kho().unpreserve(Phys(record.status_page), 0);
  EXPECT_TRUE(unit->preserve(world.kho()));
}

TEST_F(VtdUnitTest, QuiesceClearsWhoDoesNotTravelAndResumePutsItBack) {
  auto unit = up();
  auto t = table(*unit);
  const u32 did = *unit->did_alloc();
  const u32 did2 = *unit->did_alloc();
  ASSERT_TRUE(unit->set_entry(kDevice, did, *t));
  ASSERT_TRUE(unit->set_entry(kOther, did2, *t));
  EXPECT_EQ(unit->quiesce([](SourceId) { return true; }).error(), Errno::Ebusy) << "not preserved";
  ASSERT_TRUE(unit->preserve(world.kho()));
  const u64 saved[] = {context(kOther)[0], context(kOther)[1]};
  hw.forget();
  hw.record_fault(0, 0x1000, 0x10, 6, true);
  ASSERT_TRUE(unit->quiesce([](SourceId s) { return s == kDevice; }));
  EXPECT_TRUE(unit->read_entry(kDevice).present);
  EXPECT_FALSE(unit->read_entry(kOther).present);
  EXPECT_EQ(context(kOther)[0] | context(kOther)[1], 0u);
  EXPECT_EQ(hw.descriptors, (std::vector<u64>{0x11, 0xd2}));
  EXPECT_EQ(hw.waits, 2u) << "the last descriptor is a wait of its own";
  EXPECT_EQ(hw.iqh, hw.iqt);
  EXPECT_EQ(hw.other[0x38], 0x8000'0000u);
  EXPECT_EQ(hw.fsts & 3, 0u) << "faults so far are this kernel's";
  EXPECT_TRUE(hw.writes_to(0x18).empty()) << "no command";
  EXPECT_EQ(unit->set_entry({0, 0x20}, did, *t).error(), Errno::Ebusy);

  unit->resume();
  EXPECT_EQ(context(kOther)[0], saved[0]);
  EXPECT_EQ(context(kOther)[1], saved[1]);
  EXPECT_EQ(hw.other[0x38], 0u);
  EXPECT_TRUE(unit->set_entry({0, 0x20}, did, *t));
  EXPECT_TRUE(unit->quiesce([](SourceId) { return true; })) << "and once more";
}

TEST_F(VtdUnitTest, QuiesceThatFailsPutsEverythingBack) {
  auto unit = up();
  auto t = table(*unit);
  const u32 did = *unit->did_alloc();
  ASSERT_TRUE(unit->set_entry(kDevice, did, *t));
  ASSERT_TRUE(unit->preserve(world.kho()));
  hw.queue_dead = true;
  EXPECT_EQ(unit->quiesce([](SourceId) { return false; }).error(), Errno::Eio);
  EXPECT_TRUE(unit->read_entry(kDevice).present);
  EXPECT_EQ(unit->read_entry(kDevice).did, did);
  EXPECT_EQ(hw.other[0x38], 0u);
}

TEST_F(VtdUnitTest, DisableAndResumeGoOffAndOn) {
  auto unit = up();
  auto t = table(*unit);
  const u32 did = *unit->did_alloc();
  ASSERT_TRUE(unit->set_entry(kDevice, did, *t));
  unit->disable();
  EXPECT_EQ(hw.gsts & 0x8400'0000u, 0u);
  EXPECT_EQ(hw.other[0x38], 0x8000'0000u);
  hw.latched_root = 0;
  unit->resume();
  EXPECT_EQ(hw.gsts, 0xc400'0000u);
  EXPECT_TRUE(unit->alive());
  EXPECT_TRUE(unit->read_entry(kDevice).present);
  EXPECT_EQ(hw.other[0x38], 0u);
  EXPECT_TRUE(unit->flush_domain(did));
}

TEST_F(VtdUnitTest, AUnitThatTranslatesOutlivesItsDriver) {
  auto unit = up();
  unit.reset();
  EXPECT_FALSE(hw.te_dropped);
  EXPECT_EQ(hw.gsts, 0xc400'0000u);
  EXPECT_EQ(hw.other[0x38], 0x8000'0000u) << "no message to a driver that is gone";
  EXPECT_EQ(hw.sink, nullptr);
  EXPECT_EQ(totals().free, before.free - 3) << "root, queue and status pages stay";
}

TEST_F(VtdUnitTest, BlockAllNeverTurnsTranslationOff) {
  auto unit = up();
  abi::IommuUnitRecord record;
  unit->fill_record(record);
  const Phys base(test::ScriptedUnit::kBase);
  const u64 former = hw.latched_root;
  ASSERT_TRUE(VtdUnit::block_all(world.frames(), base, config()));
  EXPECT_FALSE(hw.te_dropped);
  EXPECT_EQ(hw.gsts, 0xc000'0000u) << "the queue is off, so that registers may flush";
  EXPECT_NE(hw.latched_root, former);
  for (int i = 0; i < 512; ++i) EXPECT_EQ(root()[i], 0u);
  EXPECT_EQ(hw.writes_to(0x28), std::vector<u64>{u64{1} << 63 | u64{1} << 61});
  EXPECT_EQ(hw.writes_to(0xf8), std::vector<u64>{u64{1} << 63 | u64{1} << 60 | u64{3} << 48});

  hw.gsts = 0;
  EXPECT_EQ(VtdUnit::block_all(world.frames(), base, config()).error(), Errno::Einval);
  hw.gsts = 0xc400'0000;
  hw.stuck = 1u << 26;
  EXPECT_EQ(VtdUnit::block_all(world.frames(), base, config()).error(), Errno::Eio);
  EXPECT_TRUE(logged("only a reset"));
}

}  // namespace
}  // namespace perdure::vtd
