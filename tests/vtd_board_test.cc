// Bring-up, attachment, flushes and live updates under DMA: every kind of unit must come out the same.
#include "tests/vtd_board_fixture.h"

namespace perdure::vtd {
namespace {

TEST_P(VtdBoardTest, BringUpBlocksAndAttachTranslates) {
  create();
  must_not(kStays, 0x10'0000);
  hw.devices();
  EXPECT_GT(unit->faults().reported() + unit->faults().overflows(), 0u) << "blocked DMA is reported";

  pt::IoPageTable& table = domain();
  const u32 did = *unit->did_alloc();
  const Phys a = page(), b = page();
  ASSERT_TRUE(unit->set_entry(kStays, did, table));
  hw.devices();
  hw.must_not.clear();
  map(table, did, 0x10'0000, a);
  must(kStays, 0x10'0000, a);
  hw.devices();
  must_not(kStays, 0x10'1000);
  hw.devices();
  hw.must_not.clear();
  map(table, did, 0x10'1000, b);
  must(kStays, 0x10'1000, b);
  hw.devices();

  // Unmapped: gone when the flush returns, and the neighbour does not notice.
  hw.must.erase({kStays.bdf, 0x10'1000});
  unmap(table, did, 0x10'1000);
  must_not(kStays, 0x10'1000);
  hw.devices();
  hw.must_not.clear();
  // Another page at the same place: the old one is not seen any more.
  map(table, did, 0x10'1000, a);
  must(kStays, 0x10'1000, a);
  hw.devices();

  // A second requester on another bus joins and leaves; the first one does not notice.
  ASSERT_TRUE(unit->set_entry(kSibling, did, table));
  must(kSibling, 0x10'0000, a);
  hw.devices();
  hw.must.erase({kSibling.bdf, 0x10'0000});
  ASSERT_TRUE(unit->clear_entry(kSibling));
  must_not(kSibling, 0x10'0000);
  hw.devices();

  // The id is used again for another table after the last entry is gone.
  hw.must.clear();
  ASSERT_TRUE(unit->clear_entry(kStays));
  must_not(kStays, 0x10'0000);
  hw.devices();
  hw.must_not.clear();
  pt::IoPageTable& second = domain();
  map(second, did, 0x10'0000, b);
  ASSERT_TRUE(unit->set_entry(kStays, did, second));
  must(kStays, 0x10'0000, b);
  hw.devices();
  ASSERT_TRUE(unit->flush_all());
  ASSERT_TRUE(unit->clear_entry(kSibling));
  EXPECT_GT(hw.transfers, 20u);
  expect_clean();

  hw.must.clear();
  hw.must_not.clear();
  unit->disable();
  unit.reset();
  domains.clear();
  EXPECT_EQ(hw.model.violation_count(), 0u);
}

// Two hops; at every store of either kernel the devices that travel get what they always got.
TEST_P(VtdBoardTest, LiveUpdateGoesOnUnderDma) {
  create();
  pt::IoPageTable* table = &domain();
  const u32 did = *unit->did_alloc();
  const u32 other_did = *unit->did_alloc();
  const Phys a = page(), b = page(), c = page();
  const u64 far = u64{1} << (unit->info().geometry.iova_bits - 1);
  map(*table, did, 0x10'0000, a);
  map(*table, did, far, b);
  ASSERT_TRUE(unit->set_entry(kStays, did, *table));
  ASSERT_TRUE(unit->set_entry(kSibling, did, *table));
  pt::IoPageTable& other = domain();
  map(other, other_did, 0x20'0000, c);
  ASSERT_TRUE(unit->set_entry(kLeaves, other_did, other));
  for (const SourceId s : {kStays, kSibling}) {
    must(s, 0x10'0000, a);
    must(s, far, b);
  }
  hw.devices();

  for (int hop = 0; hop < 2; ++hop) {
    SCOPED_TRACE(hop);
    ASSERT_TRUE(unit->preserve(world.kho())) << log();
    preserve(*table, {a, b});
    const Phys top = table->top();
    const Phys first = table->arena().first_descriptor();
    // A jump that fails, first.
    ASSERT_TRUE(unit->quiesce([](SourceId s) { return s != kLeaves; })) << log();
    if (hop == 0) {
      must_not(kLeaves, 0x20'0000);
      hw.devices();
      hw.must_not.clear();
      unit->resume();
      must(kLeaves, 0x20'0000, c);
      hw.devices();
      hw.must.erase({kLeaves.bdf, 0x20'0000});
      ASSERT_TRUE(unit->quiesce([](SourceId s) { return s != kLeaves; }));
    }
    must_not(kLeaves, 0x20'0000);
    const u64 messages = hw.messages;
    hw.devices();
    EXPECT_EQ(hw.messages, messages) << "no interrupt may leave between two kernels";
    abi::IommuUnitRecord record;
    unit->fill_record(record);
    jump();
    hw.must_not.clear();
    hw.writes.clear();
    // The second kernel wants a root table of its own.
    const bool renew = hop == 1;
    ASSERT_TRUE(adopt(record, renew)) << log();
    unsigned set_root = 0;
    std::optional<u64> after_srtp;  // the register that is written next
    for (const auto& [offset, value] : hw.writes) {
      if (offset == 0x20) {
        EXPECT_TRUE(renew) << "the root pointer and the table mode stay (R29)";
        EXPECT_EQ(value & 0xc00, record.rtaddr & 0xc00) << "so does the mode when the pointer does not";
        EXPECT_NE(value, record.rtaddr);
      }
      if (offset == 0x18) {
        EXPECT_EQ(value >> 31, 1u) << "TE";
        set_root += value >> 30 & 1;
      }
      if (set_root != 0 && offset != 0x18 && !after_srtp) after_srtp = offset;
    }
    EXPECT_EQ(set_root, renew ? 1u : 0u) << "SRTP";
    if (renew) {
      EXPECT_EQ(after_srtp, 0x88u) << "IQT: caches may hold what the former table said";
      // Nothing reads the former one any more; it is anybody's page.
      EXPECT_TRUE(world.frames().any_free(Phys(record.root), kPageSize));
      std::memset(world.machine.virt(Phys(record.root)), 0xff, kPageSize);
      hw.devices();
    }
    must_not(kLeaves, 0x20'0000);
    hw.devices();
    EXPECT_GE(unit->faults().reported() + unit->faults().overflows(), 1u) << "what came in between is inherited";
    hw.must_not.clear();

    std::map<u16, EntryState> entries;
    unit->each_present_entry([&](SourceId s, const EntryState& state) { entries[s.bdf] = state; });
    ASSERT_EQ(entries.size(), 2u);
    for (const SourceId s : {kStays, kSibling}) {
      EXPECT_EQ(entries.at(s.bdf).did, did);
      EXPECT_EQ(entries.at(s.bdf).top, top);
      EXPECT_EQ(entries.at(s.bdf).format, unit->info().geometry.format);
      EXPECT_EQ(entries.at(s.bdf).levels, unit->info().geometry.levels);
    }
    ASSERT_TRUE(unit->did_reserve(did));
    adopt_domain(top, first);
    table = domains.back().get();
    for (const Phys p : {a, b}) ASSERT_TRUE(world.kho().restore(p, 0));
    // The domain is this kernel's now: it may change.
    const Phys fresh = page();
    map(*table, did, 0x30'0000, fresh);
    must(kStays, 0x30'0000, fresh);
    hw.devices();
    hw.must.erase({kStays.bdf, 0x30'0000});
    unmap(*table, did, 0x30'0000);
    must_not(kStays, 0x30'0000);
    hw.devices();
    hw.must_not.clear();
    expect_clean();
  }

  hw.must.clear();
  for (const SourceId s : {kStays, kSibling}) ASSERT_TRUE(unit->clear_entry(s));
  must_not(kStays, 0x10'0000);
  hw.devices();
  hw.must_not.clear();
  EXPECT_GT(hw.transfers, 500u);
  expect_clean();
  unit->disable();
  unit.reset();
  domains.clear();
  EXPECT_EQ(hw.model.violation_count(), 0u);
}

TEST_P(VtdBoardTest, BlocksAUnitThatNobodyHandedOver) {
  create();
  pt::IoPageTable& table = domain();
  const u32 did = *unit->did_alloc();
  const Phys a = page();
  map(table, did, 0x10'0000, a);
  ASSERT_TRUE(unit->set_entry(kStays, did, table));
  ASSERT_TRUE(unit->preserve(world.kho()));
  ASSERT_TRUE(unit->quiesce([](SourceId) { return true; }));
  must(kStays, 0x10'0000, a);
  hw.devices();
  auto again = VtdUnit::create(world.heap(), base(), 0, config());
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error(), Errno::Ebusy);
  hw.must.clear();
  ASSERT_TRUE(VtdUnit::block_all(world.frames(), base(), config())) << log();
  must_not(kStays, 0x10'0000);
  hw.devices();
  expect_clean();
}

INSTANTIATE_TEST_SUITE_P(Units, VtdBoardTest, testing::ValuesIn(all_variants()),
                         [](const auto& p) { return p.param.name; });

}  // namespace
}  // namespace perdure::vtd
