// The checks before a unit is taken over that concern no table format (hardware.md §9.3): each fails closed, with
// nothing touched and nothing taken over; and what is no reason to refuse.
#include "tests/vtd_adopt_fixture.h"

namespace perdure::vtd {
namespace {

struct RecordMutation {
  const char* name;
  const char* logged;
  void (*change)(abi::IommuUnitRecord&);
};

TEST_P(VtdAdoptTest, RecordsThatDisagreeWithTheHardware) {
  prepare();
  const abi::IommuUnitRecord good = record;
  const RecordMutation mutations[] = {
      {"cap", "CAP is", [](auto& r) { r.cap ^= u64{1} << 7; }},
      {"ecap", "ECAP is", [](auto& r) { r.ecap ^= 1; }},
      {"rtaddr", "RTADDR is", [](auto& r) { r.rtaddr ^= 0x1000; }},
      {"root", "the root table is", [](auto& r) { r.root += 0x1000; }},
      {"mode", "table mode", [](auto& r) { r.translation_mode ^= 3; }},
      {"mode2", "table mode", [](auto& r) { r.translation_mode = 4; }},
      {"gsts", "enables in GSTS", [](auto& r) { r.gsts ^= 1u << 25; }},
      {"te", "enables in GSTS", [](auto& r) { r.gsts &= ~(1u << 31); }},
      {"dids", "number of domain ids", [](auto& r) { r.did_limit /= 2; }},
      {"iqa", "the invalidation queue is", [](auto& r) { r.iqa += 0x10000; }},
      {"order", "queue's size", [](auto& r) { r.queue_order += 1; }},
      {"width", "the record's IQA", [](auto& r) { r.queue_descriptor_bytes ^= 48; }},
      {"width2", "descriptors of 24 bytes", [](auto& r) { r.queue_descriptor_bytes = 24; }},
      {"status", "status page", [](auto& r) { r.status_page += 0x1000 * 1000; }},
      {"status_in_queue", "status page", [](auto& r) { r.status_page = r.iqa & ~u64{0xfff}; }},
      {"status_beyond", "status page", [](auto& r) { r.status_page = u64{1} << 51; }},
      {"bitmap", "its record says otherwise", [](auto& r) { r.context_tables[7] |= 1; }},
      {"bitmap2", "its record says otherwise", [](auto& r) { r.context_tables[0] = 0; }},
  };
  jump();
  for (const RecordMutation& m : mutations) {
    SCOPED_TRACE(m.name);
    record = good;
    m.change(record);
    world.machine.lines.clear();
    const u64 writes = hw.register_writes;
    const auto kept = world.frames().totals().kept;
    auto adopted = adopt(record);
    ASSERT_FALSE(adopted);
    EXPECT_EQ(adopted.error(), Errno::Einval);
    EXPECT_EQ(hw.register_writes, writes);
    EXPECT_EQ(world.frames().totals().kept, kept);
    EXPECT_NE(log().find(m.logged), std::string::npos) << log();
  }
  // Nothing of that did any harm: the good one is taken.
  record = good;
  must(kStays, 0x10'0000, data);
  EXPECT_TRUE(adopt(record)) << log();
  expect_clean();
}

// R23: the unit's own pages are handed out once. A second initialisation with the same record takes nothing.
TEST_P(VtdAdoptTest, ASecondAdoptionTakesNothing) {
  prepare();
  jump();
  must(kStays, 0x10'0000, data);
  ASSERT_TRUE(adopt(record)) << log();
  const FrameAllocator::Totals before = world.frames().totals();
  const u64 heap_before = world.heap().bytes_in_use();
  const u64 writes = hw.register_writes;
  EXPECT_FALSE(VtdUnit::adopt(world.heap(), world.kho(), record, config()));
  EXPECT_EQ(VtdUnit::create(world.heap(), base(), 0, config()).error(), Errno::Ebusy);
  EXPECT_EQ(hw.register_writes, writes);
  EXPECT_EQ(world.frames().totals(), before);
  EXPECT_EQ(world.heap().bytes_in_use(), heap_before);
  EXPECT_TRUE(unit->flush_all()) << "and disturbs the first one in nothing";
  expect_clean();
}

TEST_P(VtdAdoptTest, AnotherType) {
  prepare();
  jump();
  record.type = 2;
  EXPECT_EQ(adopt(record).error(), Errno::Einval);
}

TEST_P(VtdAdoptTest, ARootThatIsNotPreserved) {
  prepare();
  world.kho().unpreserve(Phys(record.root), 0);
  expect_refused("root table at");
}

TEST_P(VtdAdoptTest, AQueueThatIsNotPreserved) {
  prepare();
  world.kho().unpreserve(Phys(record.iqa & ~u64{0xfff}), record.queue_order);
  expect_refused("its invalidation queue at");
}

TEST_P(VtdAdoptTest, TranslationThatIsOff) {
  prepare();
  // Somebody was there before this kernel.
  hw.model.write(0x18, 4, 1u << 26);
  hw.te_off = 0;
  for (int i = 0; i < 100; ++i) hw.model.step();
  expect_refused("translation is off");
}

TEST_P(VtdAdoptTest, AQueueInError) {
  prepare();
  hw.model.inject_queue_error(3);
  unit->resume();
  // The driver recovers from that; another error right before the jump is nobody's.
  hw.model.clear_violations();
  hw.model.inject_queue_error(3);
  const u64 tail = hw.model.read(0x88, 8);
  hw.model.write(0x88, 8, (tail + record.queue_descriptor_bytes) % (kPageSize << record.queue_order));
  for (int i = 0; i < 100; ++i) hw.model.step();
  expect_refused("queue is in error");
}

TEST_P(VtdAdoptTest, LostFaultRecordsAreNoReasonToRefuse) {
  prepare();
  must_not(kLeaves, 0x20'0000);
  must_not({0, 0x0020}, 0x20'0000);
  for (int i = 0; i < 20; ++i) hw.devices();
  jump();
  EXPECT_TRUE(adopt(record)) << log();
  expect_clean();
}

// A kernel of another make may leave its queue with something else than a wait at the end.
TEST_P(VtdAdoptTest, AQueueThatDoesNotEndInAWait) {
  prepare();
  const u64 tail = hw.model.read(0x88, 8);
  u64* slot = world.machine.virt<u64>(Phys((record.iqa & ~u64{0xfff}) + tail));
  std::memset(slot, 0, record.queue_descriptor_bytes);
  slot[0] = 0x11;  // context cache, global
  hw.written_back(world.machine.phys(slot), record.queue_descriptor_bytes);
  hw.model.write(0x88, 8, (tail + record.queue_descriptor_bytes) % (kPageSize << record.queue_order));
  for (int i = 0; i < 100; ++i) hw.model.step();
  jump();
  must(kStays, 0x10'0000, data);
  EXPECT_TRUE(adopt(record)) << log();
  expect_clean();
}

// ... or owe a flush.
TEST_P(VtdAdoptTest, AFlushThatTheFormerKernelOwed) {
  create();
  table = &domain();
  did = *unit->did_alloc();
  data = page();
  const Phys later = page();
  map(*table, did, 0x10'0000, data);
  map(*table, did, 0x10'1000, later);  // so that no table goes with the leaf
  ASSERT_TRUE(unit->set_entry(kStays, did, *table));
  must(kStays, 0x10'0000, data);
  hw.devices();  // cached
  hw.must.clear();
  ASSERT_TRUE(unit->preserve(world.kho()));
  ASSERT_TRUE(unit->quiesce([](SourceId) { return true; }));
  pt::Gather gather;
  EXPECT_EQ(table->unmap(Iova(0x10'0000), kPageSize, gather), kPageSize);
  ASSERT_TRUE(table->map(Iova(0x10'0000), later, kPageSize, perdure::Access::ReadWrite));
  preserve(*table, {data, later});
  unit->fill_record(record);
  jump();
  ASSERT_TRUE(adopt(record)) << log();
  must(kStays, 0x10'0000, later);
  hw.devices();
  expect_clean();
}

// Nothing is taken over and nothing touched while memory is short.
TEST_P(VtdAdoptTest, SurvivesEveryFailingAllocation) {
  prepare();
  jump();
  must(kStays, 0x10'0000, data);
  const auto kept = world.frames().totals().kept;
  for (u64 n = 1;; ++n) {
    ASSERT_LT(n, 100u);
    const u64 writes = hw.register_writes;
    const u64 heap_before = world.heap().bytes_in_use();
    hw.allocations = 0;
    hw.fail_allocation = n;
    auto adopted = adopt(record);
    hw.fail_allocation = 0;
    if (adopted) {
      EXPECT_GT(n, 5u);
      break;
    }
    EXPECT_EQ(adopted.error(), Errno::Enomem) << n;
    EXPECT_EQ(hw.register_writes, writes) << n;
    EXPECT_EQ(world.frames().totals().kept, kept) << n;
    EXPECT_EQ(world.heap().bytes_in_use(), heap_before) << n;
  }
  expect_clean();
}

INSTANTIATE_TEST_SUITE_P(
    Units, VtdAdoptTest,
    testing::ValuesIn(variants_named({"sticky", "not_coherent", "wide_descriptors", "second_stage_sticky",
                                      "second_stage_not_coherent_caching_mode_evict", "first_stage_sticky",
                                      "first_stage_not_coherent_caching_mode_evict"})),
    [](const auto& p) { return p.param.name; });

}  // namespace
}  // namespace perdure::vtd
