#include "core/kho/kho.h"

#include <rapidcheck/gtest.h>

#include "core/kho/fdt.h"
#include "tests/support/handover.h"

namespace perdure {
namespace {

using test::Handover;

class KhoTest : public ::testing::Test {
 protected:
  Kho& kho() { return world.kho(); }
  FrameAllocator& frames() { return world.frames(); }
  Phys page() { return *frames().alloc_zeroed(0); }
  // Far above RAM, where guest banks are.
  static constexpr Phys kAbove{u64{1} << 30};
  Handover world;
};

TEST_F(KhoTest, BlocksComeThroughTheJumpAndAreHandedOutOnce) {
  const Phys small = page(), large = *frames().alloc(9);
  memset(world.machine.virt(small), 0x11, kPageSize);
  memset(world.machine.virt(large), 0x22, kHugePageSize);
  ASSERT_TRUE(kho().preserve(small, 0));
  ASSERT_TRUE(kho().preserve(large, 9));
  ASSERT_TRUE(kho().preserve(kAbove, 18));
  EXPECT_FALSE(kho().is_handover());
  ASSERT_TRUE(world.jump());

  EXPECT_TRUE(kho().is_handover());
  EXPECT_EQ(*kho().incoming_order(small), 0u);
  EXPECT_EQ(*kho().incoming_order(large), 9u);
  EXPECT_EQ(*kho().incoming_order(kAbove), 18u);
  EXPECT_EQ(kho().incoming_order(large + kPageSize).error(), Errno::Enoent);
  EXPECT_TRUE(kho().restorable_ram(large, 9));
  EXPECT_FALSE(kho().restorable_ram(kAbove, 18));
  EXPECT_TRUE(kho().restorable(kAbove, 18));

  EXPECT_EQ(kho().restore(large, 8).error(), Errno::Enoent);
  ASSERT_TRUE(kho().restore(large, 9));
  EXPECT_EQ(kho().restore(large, 9).error(), Errno::Enoent);
  ASSERT_TRUE(kho().restore(small, 0));
  ASSERT_TRUE(kho().restore(kAbove, 18));
  EXPECT_EQ(kho().restore(kAbove, 18).error(), Errno::Enoent);
  EXPECT_EQ(world.machine.virt<u8>(small)[kPageSize - 1], 0x11);
  EXPECT_EQ(world.machine.virt<u8>(large)[kHugePageSize - 1], 0x22);
  frames().free(small, 0);
  frames().free(large, 9);
  EXPECT_EQ(kho().restore(small, 0).error(), Errno::Enoent);  // freed is not kept
}

TEST_F(KhoTest, NextKernelStartsWithAnEmptyOutgoingTree) {
  const Phys a = page();
  ASSERT_TRUE(kho().preserve(a, 0));
  ASSERT_TRUE(world.jump());
  EXPECT_FALSE(kho().is_preserved(a, 0));
  const u64 kept = frames().totals().kept;
  EXPECT_EQ(kept, 2u);  // the block and the FDT page; the tree's own pages belong to this kernel's Kho now
  ASSERT_TRUE(world.jump());
  EXPECT_EQ(kho().incoming_order(a).error(), Errno::Enoent);
  EXPECT_EQ(frames().totals().kept, 1u);
}

TEST_F(KhoTest, OverlapIsRefusedAcrossOrders) {
  const Phys block = *frames().alloc(9);
  ASSERT_TRUE(kho().preserve(block + kPageSize * 8, 3));
  EXPECT_EQ(kho().preserve(block + kPageSize * 8, 3).error(), Errno::Eexist);
  EXPECT_EQ(kho().preserve(block, 9).error(), Errno::Eexist);
  EXPECT_EQ(kho().preserve(block, 4).error(), Errno::Eexist);
  EXPECT_EQ(kho().preserve(block + kPageSize * 9, 0).error(), Errno::Eexist);
  EXPECT_EQ(kho().preserve(block + kPageSize * 15, 0).error(), Errno::Eexist);
  EXPECT_TRUE(kho().preserve(block, 3));
  EXPECT_TRUE(kho().preserve(block + kPageSize * 16, 0));
  kho().unpreserve(block + kPageSize * 8, 3);
  EXPECT_TRUE(kho().preserve(block + kPageSize * 9, 0));
}

// kho-luo §6 row 13: memory that was freed while it was preserved would carry its next owner's contents across.
TEST_F(KhoTest, FreedButStillPreservedIsFound) {
  const Phys one = page(), four = *frames().alloc(2);
  ASSERT_TRUE(kho().preserve(one, 0));
  ASSERT_TRUE(kho().preserve(four, 2));
  ASSERT_TRUE(kho().preserve(kAbove, 18)) << "guest memory: no frames";
  EXPECT_TRUE(kho().check_outgoing());
  const Kho::Extent extent = kho().outgoing_extent();
  EXPECT_EQ(extent.blocks, 4u) << "and the FDT's page";
  EXPECT_EQ(extent.bytes, kPageSize * (1 + 1 + 4) + kGiantPageSize);
  EXPECT_GE(extent.tree_pages, 6u);
  // One page of the middle of a block, which its owner took to pieces.
  frames().free(one, 0);
  EXPECT_EQ(kho().check_outgoing().error(), Errno::Efault);
  EXPECT_NE(world.machine.lines.back().find("was freed"), std::string::npos);
  kho().unpreserve(one, 0);
  EXPECT_TRUE(kho().check_outgoing());
  frames().free(four, 2);
  EXPECT_EQ(kho().check_outgoing().error(), Errno::Efault);
  // Somebody else has a part of it by now: what is left of it is free, still.
  const Phys again = page();
  EXPECT_EQ(kho().check_outgoing().error(), Errno::Efault) << again.value;
  kho().unpreserve(four, 2);
  EXPECT_TRUE(kho().check_outgoing());
}

TEST_F(KhoTest, WhatNoBlockIsIsRefused) {
  EXPECT_EQ(kho().preserve(Phys(0x5800), 0).error(), Errno::Einval);
  EXPECT_EQ(kho().preserve(Phys(0x1000), 1).error(), Errno::Einval);
  EXPECT_EQ(kho().preserve(Handover::kScratch, 0).error(), Errno::Einval);
  EXPECT_EQ(kho().preserve(Phys(0), 14).error(), Errno::Einval);  // holds scratch
  EXPECT_EQ(kho().preserve(Phys(world.machine.window), 0).error(), Errno::Einval);
  EXPECT_EQ(kho().preserve(Phys(0), 52).error(), Errno::Einval);
  EXPECT_EQ(kho().preserve(Phys(0), 64).error(), Errno::Einval);
  EXPECT_EQ(kho().preserve_range(kAbove, 0).error(), Errno::Einval);
  EXPECT_EQ(kho().preserve_range(kAbove + 1, kPageSize).error(), Errno::Einval);
  EXPECT_EQ(kho().preserve_range(kAbove, 5).error(), Errno::Einval);
  EXPECT_EQ(kho().alloc_preserved(0).error(), Errno::Einval);
  EXPECT_EQ(kho().alloc_preserved((u64{4} << 20) + 1).error(), Errno::E2big);
}

TEST_F(KhoTest, RangesAreSplitGreedily) {
  // 1 GiB + 12 KiB from one page below a 2 MiB boundary.
  const Phys base = kAbove + kHugePageSize - kPageSize;
  ASSERT_TRUE(kho().preserve_range(base, 4 * kPageSize));
  EXPECT_TRUE(kho().is_preserved(base, 0));
  EXPECT_TRUE(kho().is_preserved(base + kPageSize, 1));
  EXPECT_TRUE(kho().is_preserved(base + 3 * kPageSize, 0));
  kho().unpreserve_range(base, 4 * kPageSize);
  EXPECT_TRUE(kho().preserve(kAbove, 18));  // nothing is left in it
}

TEST_F(KhoTest, StrictModeCapsTheOrder) {
  world.max_order = 9;
  ASSERT_TRUE(world.jump());
  ASSERT_TRUE(kho().preserve_range(kAbove, kGiantPageSize));
  EXPECT_TRUE(kho().is_preserved(kAbove, 9));
  EXPECT_TRUE(kho().is_preserved(kAbove + 511 * kHugePageSize, 9));
  EXPECT_FALSE(kho().is_preserved(kAbove, 18));
}

TEST_F(KhoTest, FailedRangeIsUndoneWhole) {
  const Phys obstacle = kAbove + 7 * kPageSize;
  ASSERT_TRUE(kho().preserve(obstacle, 0));
  EXPECT_EQ(kho().preserve_range(kAbove + kPageSize, 9 * kPageSize).error(), Errno::Eexist);
  EXPECT_TRUE(kho().preserve(kAbove, 2));
  EXPECT_TRUE(kho().preserve(kAbove + 4 * kPageSize, 1));
  EXPECT_TRUE(kho().preserve(kAbove + 6 * kPageSize, 0));
  EXPECT_TRUE(kho().preserve(kAbove + 8 * kPageSize, 3));
}

TEST_F(KhoTest, EveryAllocationMayFail) {
  // First touch of an area needs nodes: each failure must leave tree, frames and heap as they were.
  auto& steps = world.machine.counting;
  bool done = false;
  for (u64 nth = 1; !done; ++nth) {
    const auto before = frames().totals();
    steps.allocations = 0;
    steps.fail_at = nth;
    const auto r = kho().preserve_range(kAbove + kPageSize, kHugePageSize * 3);
    const auto blob = r ? kho().alloc_preserved(5 * kPageSize) : Result<Phys>(fail(Errno::Enomem));
    const bool failed = !r || !blob;
    steps.fail_at = 0;
    if (failed) {
      EXPECT_EQ(r ? blob.error() : r.error(), Errno::Enomem);
      if (r) kho().unpreserve_range(kAbove + kPageSize, kHugePageSize * 3);
      // Nodes stay by design, and only nodes.
      EXPECT_FALSE(kho().is_preserved(kAbove + kPageSize, 0));
      EXPECT_LE(before.free - frames().totals().free, 30u);
    } else {
      done = true;
    }
    ASSERT_LT(nth, 100u);
  }
  EXPECT_TRUE(kho().is_preserved(kAbove + kPageSize, 0));
}

TEST_F(KhoTest, BlobsAreFoundByTheNextKernel) {
  const Phys a = *kho().alloc_preserved(32), b = *kho().alloc_preserved(3 * kPageSize);
  memcpy(world.machine.virt(a), "hello", 5);
  ASSERT_TRUE(kho().add_subtree("LUO", {a, 32}));
  EXPECT_EQ(kho().add_subtree("LUO", {b, 32}).error(), Errno::Eexist);
  ASSERT_TRUE(kho().add_subtree("other", {b, 3 * kPageSize}));
  ASSERT_TRUE(kho().add_subtree("gone", {b, 1}));
  kho().remove_subtree("gone");
  const Phys loose = page();
  ASSERT_TRUE(kho().add_subtree("loose", {loose, 32}));  // not preserved
  EXPECT_EQ(kho().outgoing_subtree("other")->size, 3 * kPageSize);
  ASSERT_TRUE(world.jump());
  const auto luo = kho().retrieve_subtree("LUO");
  ASSERT_TRUE(luo);
  EXPECT_EQ(luo->at, a);
  EXPECT_EQ(luo->size, 32u);
  EXPECT_EQ(memcmp(world.machine.virt(a), "hello", 5), 0);
  EXPECT_EQ(kho().retrieve_subtree("gone").error(), Errno::Enoent);
  EXPECT_EQ(kho().retrieve_subtree("loose").error(), Errno::Einval);
  EXPECT_EQ(world.machine.lines.back().find("kho: blob \"loose\""), 0u);
  EXPECT_TRUE(kho().retrieve_subtree("LUO"));  // as often as wanted
  EXPECT_EQ(kho().outgoing_subtree("LUO").error(), Errno::Enoent);
}

TEST_F(KhoTest, ColdBootHasNothingIncoming) {
  EXPECT_EQ(kho().retrieve_subtree("LUO").error(), Errno::Enoent);
  EXPECT_EQ(kho().restore(Phys(0x5000), 0).error(), Errno::Enoent);
  EXPECT_EQ(kho().incoming_order(Phys(0x5000)).error(), Errno::Enoent);
  EXPECT_FALSE(kho().incoming_covers(Phys(0x5000), 1));
}

TEST_F(KhoTest, RestoreRangeTakesAllOrNothing) {
  ASSERT_TRUE(kho().preserve_range(kAbove + kPageSize, 7 * kPageSize));
  ASSERT_TRUE(kho().preserve(kAbove + 8 * kPageSize, 3));
  const Phys ram = *frames().alloc(3);
  ASSERT_TRUE(kho().preserve_range(ram + kPageSize, 5 * kPageSize));
  ASSERT_TRUE(world.jump());
  EXPECT_EQ(kho().restore_range(kAbove, 16 * kPageSize).error(), Errno::Enoent);
  EXPECT_EQ(kho().restore_range(kAbove + kPageSize, 8 * kPageSize).error(), Errno::Enoent);  // half a block
  EXPECT_EQ(kho().restore_range(kAbove + kPageSize, 16 * kPageSize).error(), Errno::Enoent);
  EXPECT_EQ(kho().restore_range(ram, 6 * kPageSize).error(), Errno::Enoent);
  ASSERT_TRUE(kho().restore_range(ram + kPageSize, 5 * kPageSize));
  EXPECT_EQ(kho().restore_range(ram + kPageSize, 5 * kPageSize).error(), Errno::Enoent);
  ASSERT_TRUE(kho().restore(kAbove + 4 * kPageSize, 2));
  EXPECT_EQ(kho().restore_range(kAbove + kPageSize, 15 * kPageSize).error(), Errno::Enoent);
  ASSERT_TRUE(kho().restore_range(kAbove + 8 * kPageSize, 8 * kPageSize));
  ASSERT_TRUE(kho().restore_range(kAbove + kPageSize, 3 * kPageSize));
}

TEST_F(KhoTest, CoverageIsExact) {
  ASSERT_TRUE(kho().preserve_range(kAbove + kPageSize, 7 * kPageSize));
  ASSERT_TRUE(world.jump());
  EXPECT_TRUE(kho().incoming_covers(kAbove + kPageSize, 7 * kPageSize));
  EXPECT_TRUE(kho().incoming_covers(kAbove + kPageSize + 17, 6 * kPageSize));
  EXPECT_FALSE(kho().incoming_covers(kAbove + kPageSize - 1, 2));
  EXPECT_FALSE(kho().incoming_covers(kAbove + 7 * kPageSize, kPageSize + 1));
  EXPECT_FALSE(kho().incoming_covers(Phys(~u64{0} - 5), 10));
  EXPECT_FALSE(kho().incoming_covers(kAbove + kPageSize, ~u64{0}));
}

TEST_F(KhoTest, EndsWithoutALeak) {
  const u64 used = frames().totals().frames - frames().totals().free;
  EXPECT_GT(used, 0u);
  ASSERT_TRUE(world.jump());
  {
    const Phys a = *kho().alloc_preserved(kPageSize);
    kho().unpreserve_free(a, kPageSize);
  }
  // Destroying Kho gives back tree, FDT, and the old tree's pages; only the old FDT page stays kept.
  FrameAllocator& f = frames();
  world.destroy_kho();
  world.heap().trim();
  EXPECT_EQ(f.totals().frames - f.totals().free, 1u);
  EXPECT_EQ(f.totals().kept, 1u);
}

TEST_F(KhoTest, InitFailsCleanlyAtEveryAllocation) {
  bool done = false;
  for (u64 nth = 1; !done; ++nth) {
    Handover fresh;
    ASSERT_TRUE(fresh.kho().preserve(kAbove + kPageSize, 0));
    fresh.fail_init_at = nth;
    if (fresh.jump()) {
      done = true;
      EXPECT_GT(nth, 8u);
      continue;
    }
    EXPECT_FALSE(fresh.kho().is_handover());
    const auto before = fresh.frames().totals();
    EXPECT_EQ(before.kept, 1u + 7u);  // the FDT page; 6 nodes for its key, a leaf for the other
    ASSERT_TRUE(fresh.retry_init());
    EXPECT_TRUE(fresh.kho().restorable(kAbove + kPageSize, 0));
    ASSERT_LT(nth, 40u);
  }
}

// Preserve and unpreserve of arbitrary aligned blocks, against a map of pages.
RC_GTEST_PROP(KhoProperty, PreservedSetIsExact, ()) {
  Handover world(u64{16} << 20);
  constexpr u64 kPages = 256;
  constexpr Phys kBase{u64{1} << 30};
  std::map<u64, unsigned> model;  // first page → order
  std::vector<bool> covered(kPages);
  for (int step = 0; step < 40; ++step) {
    const unsigned order = *rc::gen::inRange(0u, 6u);
    const u64 page = align_down(*rc::gen::inRange<u64>(0, kPages), u64{1} << order);
    if (const auto it = model.find(page); it != model.end() && *rc::gen::arbitrary<bool>()) {
      world.kho().unpreserve(kBase + page * kPageSize, it->second);
      for (u64 i = 0; i < u64{1} << it->second; ++i) covered[page + i] = false;
      model.erase(it);
      continue;
    }
    bool free = true;
    for (u64 i = 0; i < u64{1} << order; ++i) free = free && !covered[page + i];
    RC_ASSERT(world.kho().preserve(kBase + page * kPageSize, order).has_value() == free);
    if (free) {
      model[page] = order;
      for (u64 i = 0; i < u64{1} << order; ++i) covered[page + i] = true;
    }
  }
  RC_ASSERT(world.jump().has_value());
  for (u64 page = 0; page < kPages; ++page) {
    RC_ASSERT(world.kho().incoming_covers(kBase + page * kPageSize, kPageSize) == covered[page]);
    const auto order = world.kho().incoming_order(kBase + page * kPageSize);
    RC_ASSERT(order.has_value() == model.contains(page));
    if (order) RC_ASSERT(*order == model[page]);
  }
}

}  // namespace
}  // namespace perdure
