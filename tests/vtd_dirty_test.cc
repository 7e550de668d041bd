// Dirty tracking by the VT-d driver, under DMA through the board's unit, which keeps what it cached until it is flushed
// (hardware.md §3.2 SSADE, §6): what is written is marked, by whatever entry, at whatever time it was set.
#include "tests/vtd_board_fixture.h"

namespace perdure::vtd {
namespace {

class VtdDirtyTest : public VtdBoardTest {
 protected:
  static constexpr u64 kFirst = 0x10'0000;
  static constexpr u64 kPages = 8;

  bool tracks() const { return unit->info().dirty_tracking.format != pt::FormatId::None; }
  // A domain that can be tracked, with kPages mapped at kFirst.
  pt::IoPageTable& tracked_domain(u32 did) {
    auto made = pt::create(world.heap(), unit->info().dirty_tracking);
    EXPECT_TRUE(made);
    domains.push_back(std::move(*made));
    for (u64 i = 0; i < kPages; ++i) {
      pages.push_back(page());
      map(*domains.back(), did, kFirst + i * kPageSize, pages.back());
    }
    return *domains.back();
  }
  void device_writes(SourceId s, u64 page) {
    const auto t = hw.model.translate(s.bdf, kFirst + page * kPageSize + 8, 8, board::Access::Write);
    EXPECT_TRUE(t.ok()) << "fault " << +t.fault;
  }
  std::set<u64> marked(pt::IoPageTable& table, bool clear = false) {
    std::set<u64> found;
    EXPECT_TRUE(table.each_dirty(Iova(kFirst), kPages * kPageSize, [&](const pt::Leaf& leaf) -> Result<bool> {
      found.insert((leaf.iova.value - kFirst) / kPageSize);
      return clear;
    }));
    return found;
  }
  using Set = std::set<u64>;
  std::vector<Phys> pages;
};

TEST_P(VtdDirtyTest, WhatIsWrittenIsMarked) {
  create();
  const u32 did = *unit->did_alloc();
  const auto& can = GetParam().config;
  EXPECT_EQ(tracks(), GetParam().scalable() && can.second_stage && can.second_stage_dirty && can.scalable_coherent);
  if (!tracks()) {
    EXPECT_EQ(unit->set_dirty_tracking(did, true).error(), Errno::Eopnotsupp);
    EXPECT_EQ(unit->set_dirty_tracking(did, false).error(), Errno::Eopnotsupp);
    return;
  }
  pt::IoPageTable& table = tracked_domain(did);
  ASSERT_TRUE(unit->set_entry(kStays, did, table));
  device_writes(kStays, 0);
  EXPECT_EQ(marked(table), Set()) << "nobody asked for it";
  EXPECT_FALSE(unit->read_entry(kStays).tracks_dirty);

  // Entry and translation are cached by now, and neither may serve any longer.
  ASSERT_TRUE(unit->set_dirty_tracking(did, true));
  EXPECT_TRUE(unit->read_entry(kStays).tracks_dirty);
  device_writes(kStays, 0);
  device_writes(kStays, 3);
  EXPECT_EQ(marked(table), (Set{0, 3}));

  // Who comes later is tracked from its first write on.
  ASSERT_TRUE(unit->set_entry(kSibling, did, table));
  device_writes(kSibling, 5);
  EXPECT_EQ(marked(table, true), (Set{0, 3, 5}));
  ASSERT_TRUE(unit->flush_pages(did, Iova(kFirst), kPages * kPageSize, true));
  // Once flushed, a translation that was cached as marked marks again.
  device_writes(kSibling, 5);
  device_writes(kStays, 0);
  EXPECT_EQ(marked(table), (Set{0, 5}));

  ASSERT_TRUE(unit->set_dirty_tracking(did, false));
  EXPECT_FALSE(unit->read_entry(kStays).tracks_dirty);
  EXPECT_FALSE(unit->read_entry(kSibling).tracks_dirty);
  device_writes(kStays, 6);
  device_writes(kSibling, 7);
  EXPECT_EQ(marked(table), (Set{0, 5})) << "off, and what was marked stays";
  ASSERT_TRUE(unit->set_dirty_tracking(did, true));
  device_writes(kStays, 6);
  device_writes(kSibling, 7);
  EXPECT_EQ(marked(table), (Set{0, 5, 6, 7}));

  // Another id is not concerned, nor is the next user of this one.
  const u32 other = *unit->did_alloc();
  pt::IoPageTable& plain = tracked_domain(other);
  ASSERT_TRUE(unit->set_entry(kLeaves, other, plain));
  device_writes(kLeaves, 1);
  EXPECT_EQ(marked(plain), Set());
  for (const SourceId s : {kStays, kSibling, kLeaves}) ASSERT_TRUE(unit->clear_entry(s));
  unit->did_free(did);
  unit->did_free(other);
  EXPECT_EQ(unit->set_dirty_tracking(did, true).error(), Errno::Einval) << "nobody's id";
  u32 again = 0;
  while (again != did) again = *unit->did_alloc();
  ASSERT_TRUE(unit->set_entry(kStays, did, table));
  EXPECT_FALSE(unit->read_entry(kStays).tracks_dirty);
  ASSERT_TRUE(unit->clear_entry(kStays));
  expect_clean();
}

// Devices go on while the entry changes: no transfer fails.
TEST_P(VtdDirtyTest, IsTurnedOnAndOffUnderDma) {
  create();
  if (!tracks()) return;
  const u32 did = *unit->did_alloc();
  pt::IoPageTable& table = tracked_domain(did);
  ASSERT_TRUE(unit->set_entry(kStays, did, table));
  must(kStays, kFirst, pages[0]);
  const u64 before = hw.transfers;
  for (const bool on : {true, false, true, true}) ASSERT_TRUE(unit->set_dirty_tracking(did, on));
  EXPECT_GT(hw.transfers, before + 6);
  expect_clean();
}

TEST_P(VtdDirtyTest, GoesOnAcrossAnUpdate) {
  create();
  if (!tracks()) return;
  const u32 did = *unit->did_alloc();
  pt::IoPageTable& table = tracked_domain(did);
  ASSERT_TRUE(unit->set_dirty_tracking(did, true));
  ASSERT_TRUE(unit->set_entry(kStays, did, table));
  device_writes(kStays, 1);
  ASSERT_TRUE(unit->preserve(world.kho()));
  preserve(table, {});
  for (const Phys p : pages) ASSERT_TRUE(world.kho().preserve(p, 0));
  ASSERT_TRUE(unit->quiesce([](SourceId) { return true; }));
  EXPECT_EQ(unit->set_dirty_tracking(did, false).error(), Errno::Ebusy) << "at rest";
  device_writes(kStays, 2);
  abi::IommuUnitRecord record;
  unit->fill_record(record);
  const Phys top = table.top(), chain = table.arena().first_descriptor();
  const pt::Geometry geometry = table.geometry();
  jump();
  device_writes(kStays, 3);
  ASSERT_TRUE(adopt(record)) << log();
  EXPECT_TRUE(unit->read_entry(kStays).tracks_dirty);
  ASSERT_TRUE(unit->did_reserve(did));
  auto made = pt::adopt(
      world.heap(), geometry, top, chain, [&](Phys at, u64 bytes) { return world.kho().incoming_covers(at, bytes); },
      [&](Phys at, unsigned order) { return world.kho().restore(at, order); });
  ASSERT_TRUE(made) << log();
  domains.push_back(std::move(*made));
  pt::IoPageTable& adopted = *domains.back();
  device_writes(kStays, 4);
  EXPECT_EQ(marked(adopted), (Set{1, 2, 3, 4}));
  // One that is attached now is tracked like the one that never stopped, and both stop together.
  ASSERT_TRUE(unit->set_entry(kSibling, did, adopted));
  EXPECT_TRUE(unit->read_entry(kSibling).tracks_dirty);
  ASSERT_TRUE(unit->set_dirty_tracking(did, false));
  EXPECT_FALSE(unit->read_entry(kStays).tracks_dirty);
  EXPECT_FALSE(unit->read_entry(kSibling).tracks_dirty);
  expect_clean();
  for (const SourceId s : {kStays, kSibling}) ASSERT_TRUE(unit->clear_entry(s));
}

std::vector<Variant> variants() {
  std::vector<Variant> all = scalable_variants();
  Variant none = variant("does_not_mark", [](auto& c) {
    c.scalable = true;
    c.second_stage_dirty = false;
  });
  all.push_back(none);
  none = variant("legacy_mode", [](auto& c) { c.scalable = true; });
  none.mode = TableModePolicy::Legacy;
  all.push_back(none);
  return all;
}
INSTANTIATE_TEST_SUITE_P(Units, VtdDirtyTest, testing::ValuesIn(variants()),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace perdure::vtd
