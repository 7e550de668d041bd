#include "core/iommu/testing/iommu_world.h"

namespace perdure::testing {
namespace {

using PagingDomainTest = IommuTest;

TEST_F(PagingDomainTest, DevicesBehindTwoUnitsHaveADidOnEachAndShareItOnOne) {
  w.hw_b.dids = {2, 3};  // taken by somebody else there
  auto who = w.owner();
  auto d = w.domain();
  w.attach(a0, who, d);
  w.attach(a1, who, d);
  w.attach(b0, who, d);
  EXPECT_EQ(d->attached_devices(), 3u);
  EXPECT_EQ(d->did_on(w.unit(kUnitA)), 2u);
  EXPECT_EQ(d->did_on(w.unit(kUnitB)), 4u);
  EXPECT_EQ(w.hw_a.entries.at(a0), (FakeHardware::Entry{2, 4, d->table().top().value, false}));
  EXPECT_EQ(w.hw_a.entries.at(a1), w.hw_a.entries.at(a0));
  EXPECT_EQ(w.hw_b.entries.at(b0), (FakeHardware::Entry{4, 4, d->table().top().value, false}));

  w.group(a0).release(*who);
  EXPECT_EQ(w.hw_a.dids, (std::set<u64>{2})) << "a1 still uses it";
  w.group(a1).release(*who);
  EXPECT_TRUE(w.hw_a.dids.empty());
  EXPECT_EQ(d->did_on(w.unit(kUnitA)), 0u);
  EXPECT_EQ(d->did_on(w.unit(kUnitB)), 4u);
}

TEST_F(PagingDomainTest, MapIsMadeVisibleAndUnmapFlushedOnEveryUnit) {
  auto who = w.owner();
  auto d = w.domain();
  w.attach(a0, who, d);
  w.attach(b0, who, d);
  w.events.clear();
  ASSERT_TRUE(d->map(Iova(0x10000), Phys(0x5000), 0x3000, Access::ReadWrite));
  EXPECT_EQ(w.events, (std::vector<std::string>{"mapped_pages did 2 65536+12288", "mapped_pages did 2 65536+12288"}));
  EXPECT_EQ(d->mapped_bytes(), 0x3000u);
  EXPECT_EQ(d->leaf_at(Iova(0x11000))->phys, Phys(0x6000));
  w.events.clear();
  // A part: no table page goes, so cached non-leaf entries may stay (IH).
  EXPECT_EQ(*d->unmap(Iova(0x10000), 0x1000), 0x1000u);
  EXPECT_EQ(w.events, (std::vector<std::string>{"flush_pages did 2 65536+4096 IH", "flush_pages did 2 65536+4096 IH"}));
  w.events.clear();
  // The rest: its tables go, whose slot was 512 GiB wide.
  EXPECT_EQ(*d->unmap(Iova(0x11000), 0x2000), 0x2000u);
  ASSERT_EQ(w.events.size(), 2u);
  EXPECT_EQ(w.events[0], "flush_pages did 2 0+549755813888");
  EXPECT_EQ(d->mapped_bytes(), 0u);
  EXPECT_EQ(d->table().arena().pages_in_use(), 0u);
  w.events.clear();
  EXPECT_EQ(*d->unmap(Iova(0x11000), 0x2000), 0u);
  EXPECT_TRUE(w.events.empty()) << "nothing was there, nothing is flushed";
}

TEST_F(PagingDomainTest, LeafThatReachesBeyondTheRangeIsFlushedWhole) {
  auto who = w.owner();
  auto d = w.domain();
  w.attach(a0, who, d);
  ASSERT_TRUE(d->map(Iova(0), Phys(0), 2 * kHugePageSize, Access::ReadWrite));
  ASSERT_TRUE(d->map(Iova(2 * kHugePageSize), Phys(2 * kHugePageSize), 0x1000, Access::ReadWrite));
  w.events.clear();
  EXPECT_EQ(*d->unmap(Iova(kHugePageSize - 0x1000), 0x2000), 2 * kHugePageSize);
  EXPECT_EQ(w.events.at(0), "flush_pages did 2 0+" + std::to_string(2 * kHugePageSize) + " IH");
}

TEST_F(PagingDomainTest, TablePagesAreReleasedOnlyAfterEveryUnitFlushed) {
  auto who = w.owner();
  auto d = w.domain();
  w.attach(a0, who, d);
  w.attach(b0, who, d);
  ASSERT_TRUE(d->map(Iova(0), Phys(0x1000), 0x1000, Access::Read));
  const u64 pages = d->table().arena().pages_in_use();
  ASSERT_GT(pages, 0u);
  u64 seen = 0;
  const auto watch = [&](const std::string& what) {
    if (!what.starts_with("flush_pages")) return;
    ++seen;
    EXPECT_EQ(d->table().arena().pages_in_use(), pages);
  };
  w.hw_a.on_call = w.hw_b.on_call = watch;
  EXPECT_TRUE(d->unmap(Iova(0), 0x1000));
  EXPECT_EQ(seen, 2u);
  EXPECT_EQ(d->table().arena().pages_in_use(), 0u);
}

TEST_F(PagingDomainTest, FailedFlushLeaksThePagesAndQuarantinesTheUnitAlone) {
  auto who = w.owner();
  auto d = w.domain();
  auto other = w.domain();
  w.attach(a0, who, d);
  w.attach(b0, who, d);
  w.attach(a1, who, other);
  w.attach(b1, who, other);
  ASSERT_TRUE(d->map(Iova(0), Phys(0x1000), 0x1000, Access::Read));
  const u64 pages = d->table().arena().pages_in_use();
  const Phys top = d->table().top();
  w.hw_a.fail_after["flush_pages"] = 0;
  EXPECT_EQ(d->unmap(Iova(0), 0x1000).error(), Errno::Eio);
  EXPECT_EQ(d->leaf_at(Iova(0)).error(), Errno::Enoent);
  EXPECT_EQ(d->table().arena().pages_in_use(), pages) << "cut out, never freed";

  EXPECT_EQ(w.group(a0).ownership(), Ownership::Quarantined);
  EXPECT_EQ(w.group(a1).ownership(), Ownership::Quarantined);
  EXPECT_EQ(w.group(a2).ownership(), Ownership::Quarantined);
  EXPECT_EQ(w.group(b0).ownership(), Ownership::Owned);
  EXPECT_EQ(w.group(b1).ownership(), Ownership::Owned);
  EXPECT_TRUE(w.hw_a.entries.empty());
  EXPECT_EQ(w.hw_b.entries.size(), 2u);
  EXPECT_FALSE(w.bus.is_on(a0));
  EXPECT_TRUE(w.bus.is_on(b0));

  // Nothing is attached behind the unit again, and nothing is mapped in the domain again.
  EXPECT_EQ(w.group(a2).claim(who).error(), Errno::Eio);
  EXPECT_EQ(d->map(Iova(0), Phys(0x1000), 0x1000, Access::Read).error(), Errno::Eio);
  EXPECT_EQ(w.group(a0).attach(*who, other).error(), Errno::Eio);

  // Its pages never come back, not even with the domain.
  for (SourceId s : {a0, a1, b0, b1}) w.group(s).release(*who);
  d = nullptr;
  EXPECT_TRUE(w.frames().in_use(top, kPageSize));
}

TEST_F(PagingDomainTest, MappingThatAUnitDoesNotConfirmIsTakenBack) {
  auto who = w.owner();
  auto d = w.domain();
  w.attach(a0, who, d);
  w.attach(b0, who, d);
  w.hw_b.fail_after["mapped_pages"] = 0;
  EXPECT_EQ(d->map(Iova(0), Phys(0x1000), 0x1000, Access::Read).error(), Errno::Eio);
  EXPECT_EQ(d->leaf_at(Iova(0)).error(), Errno::Enoent);
  EXPECT_EQ(d->mapped_bytes(), 0u);
  EXPECT_EQ(w.group(b0).ownership(), Ownership::Quarantined);
  EXPECT_EQ(w.group(a0).ownership(), Ownership::Owned);
}

TEST_F(PagingDomainTest, NothingStaysMappedOrAttachedWhenMemoryRunsOut) {
  auto who = w.owner();
  auto& steps = w.handover.machine.counting;
  u64 failures = 0;
  for (u64 nth = 1;; ++nth) {
    auto d = w.domain();
    ASSERT_TRUE(w.group(a0).claim(who));
    steps.allocations = 0;
    steps.fail_at = nth;
    Result<void> done = w.group(a0).attach(*who, d);
    if (done) done = d->map(Iova(0), Phys(0x1000), 0x1000, Access::Read);
    const bool reached = steps.allocations >= nth;
    steps.fail_at = 0;
    if (!reached) {
      EXPECT_TRUE(done);
      w.group(a0).release(*who);
      break;
    }
    // An arena that is refused a large chunk takes a smaller one.
    if (!done) {
      ++failures;
      EXPECT_EQ(done.error(), Errno::Enomem);
      EXPECT_EQ(d->leaf_at(Iova(0)).error(), Errno::Enoent);
    }
    w.group(a0).release(*who);
    EXPECT_TRUE(w.hw_a.entries.empty());
    EXPECT_TRUE(w.hw_a.dids.empty());
  }
  EXPECT_GE(failures, 2u);
}

TEST_F(PagingDomainTest, AnAttachmentThatCannotBeTrackedIsNone) {
  auto who = w.owner();
  auto d = *w.iommu->domain_alloc(w.device(a0), true);
  w.attach(a0, who, d);
  ASSERT_TRUE(d->set_dirty_tracking(true));
  ASSERT_TRUE(w.group(b0).claim(who));
  w.hw_b.fail_after["set_dirty_tracking"] = 0;
  EXPECT_EQ(w.group(b0).attach(*who, d).error(), Errno::Eio);
  EXPECT_TRUE(w.hw_b.entries.empty());
  EXPECT_TRUE(w.hw_b.dids.empty());
  EXPECT_EQ(d->did_on(w.unit(kUnitB)), 0u);
  EXPECT_TRUE(w.hw_a.entries.at(a0).tracks_dirty);
  w.group(b0).release(*who);
  w.group(a0).release(*who);
}

// What loses its mark may still be cached as marked on any unit.
TEST_F(PagingDomainTest, UnmarkedLeavesAreFlushedOnEveryUnit) {
  auto who = w.owner();
  auto d = *w.iommu->domain_alloc(w.device(a0), true);
  w.attach(a0, who, d);
  w.attach(b0, who, d);
  ASSERT_TRUE(d->map(Iova(0x10000), Phys(0x5000), 0x3000, Access::ReadWrite));
  ASSERT_TRUE(d->set_dirty_tracking(true));
  ASSERT_TRUE(d->table().mark_dirty(Iova(0x11000), 1));
  const std::string span = "0+" + std::to_string(u64{1} << 48) + " IH";
  w.events.clear();
  ASSERT_TRUE(d->set_dirty_tracking(true));
  EXPECT_EQ(w.events, (std::vector<std::string>{"flush_pages did 2 " + span, "flush_pages did 2 " + span}));
  w.events.clear();
  ASSERT_TRUE(d->flush_unmarked(Iova(0x11000), Iova(0x11fff)));
  EXPECT_EQ(w.events, (std::vector<std::string>{"flush_pages did 2 69632+4096 IH", "flush_pages did 2 69632+4096 IH"}));
  // One that does not answer loses its devices: what they write from now on would leave no mark.
  w.hw_b.fail_after["flush_pages"] = 0;
  EXPECT_EQ(d->flush_unmarked(Iova(0x11000), Iova(0x11fff)).error(), Errno::Eio);
  EXPECT_TRUE(w.hw_b.entries.empty());
  EXPECT_TRUE(w.hw_a.entries.contains(a0));
  w.group(b0).release(*who);
  w.group(a0).release(*who);
}

TEST_F(PagingDomainTest, AllMemoryComesBack) {
  const u64 heap = w.heap().bytes_in_use();
  w.heap().trim();
  const u64 free = w.frames().totals().free;
  {
    auto who = w.owner();
    auto d = w.domain();
    w.attach(a0, who, d);
    ASSERT_TRUE(d->map(Iova(0), Phys(0x1000), 0x201000, Access::Read));
    ASSERT_TRUE(d->unmap(Iova(0x1000), 0x1000));
    w.group(a0).release(*who);
  }
  EXPECT_EQ(w.heap().bytes_in_use(), heap);
  w.heap().trim();
  EXPECT_EQ(w.frames().totals().free, free);
}

TEST_F(PagingDomainTest, RangesThatWrapAreRefused) {
  auto d = w.domain();
  EXPECT_EQ(d->unmap(Iova(~u64{0xfff}), 0x2000).error(), Errno::Einval);
  EXPECT_EQ(*d->unmap(Iova(0), 0), 0u);
}

}  // namespace
}  // namespace perdure::testing
