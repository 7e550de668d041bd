#include "core/pt/testing/rationed.h"
#include "core/pt/testing/table_world.h"

namespace perdure::pt {
namespace {

using namespace testing;

constexpr u64 k4 = kPageSize;
constexpr u64 k2M = kHugePageSize;
constexpr u64 k1G = kGiantPageSize;

Errno error_of(const Result<void>& r) {
  return r ? Errno{} : r.error();
}

TEST(PageTable, GeometriesThatAFormatCannotDoAreRefused) {
  TableWorld w;
  const u64 before = w.frames.totals().free;
  for (unsigned levels : {0u, 1u, 2u, 6u}) {
    Geometry g = vtd(3);
    g.levels = static_cast<u8>(levels);
    EXPECT_EQ(create(w.heap, g).error(), Errno::Einval) << levels;
  }
  Geometry wide = vtd(3);
  wide.iova_bits = 40;
  EXPECT_EQ(create(w.heap, wide).error(), Errno::Einval);
  Geometry no_small = vtd(4, kHugePageSize);
  EXPECT_EQ(create(w.heap, no_small).error(), Errno::Einval);
  Geometry odd = vtd(4, kPageSize | (u64{64} << 10));
  EXPECT_EQ(create(w.heap, odd).error(), Errno::Einval);
  Geometry far = vtd(4);
  far.output_bits = 53;
  EXPECT_EQ(create(w.heap, far).error(), Errno::Einval);
  far.output_bits = 11;
  EXPECT_EQ(create(w.heap, far).error(), Errno::Einval);
  // First stage: the upper half of the address space is not canonical without sign extension.
  Geometry canonical = x86(4);
  canonical.iova_bits = 48;
  EXPECT_EQ(create(w.heap, canonical).error(), Errno::Einval);
  Geometry three = x86(4);
  three.levels = 3;
  three.iova_bits = 38;
  EXPECT_EQ(create(w.heap, three).error(), Errno::Einval);
  Geometry none = vtd(4);
  none.format = FormatId::None;
  EXPECT_EQ(create(w.heap, none).error(), Errno::Eopnotsupp);
  w.heap.trim();
  EXPECT_EQ(w.frames.totals().free, before);
  EXPECT_FALSE(w.machine.lines.empty());
}

TEST(PageTable, LargestLeavesThatAlignmentAllows) {
  TableWorld w;
  auto t = w.table(vtd(4));
  // 4 KiB before a 2 MiB border, up to 4 KiB after a 1 GiB one.
  const u64 iova = k1G - 2 * k2M - k4;
  const u64 length = k4 + 2 * k2M + 2 * k1G + k2M + k4;
  ASSERT_TRUE(t->map(Iova(iova), Phys(8 * k1G + iova), length, Access::Write));
  std::map<u64, u64> sizes;
  for (const auto& [start, leaf] : leaves_of(*t)) {
    ++sizes[leaf.length];
    EXPECT_EQ(leaf.phys, 8 * k1G + start);
    EXPECT_EQ(leaf.access, 2u);
  }
  EXPECT_EQ(sizes, (std::map<u64, u64>{{k4, 2}, {k2M, 3}, {k1G, 2}}));
  const Result<Leaf> leaf = t->leaf_at(Iova(k1G + 12345));
  ASSERT_TRUE(leaf);
  EXPECT_EQ(leaf->iova, Iova(k1G));
  EXPECT_EQ(leaf->phys, Phys(9 * k1G));
  EXPECT_EQ(leaf->length, k1G);
  EXPECT_EQ(unmap_now(*t, iova, length), length);
  EXPECT_EQ(t->arena().pages_in_use(), 0u);
}

TEST(PageTable, OutputMisalignedToItsAddressFallsBackToSmallLeaves) {
  TableWorld w;
  auto t = w.table(vtd(3));
  ASSERT_TRUE(t->map(Iova(0), Phys(k1G + k4), 2 * k2M, Access::Read));
  for (const auto& [start, leaf] : leaves_of(*t)) EXPECT_EQ(leaf.length, k4) << start;
  // 2 MiB apart: giant leaves do not fit, huge ones do.
  ASSERT_TRUE(t->map(Iova(k1G), Phys(4 * k1G + k2M), k1G, Access::Read));
  EXPECT_EQ(t->leaf_at(Iova(k1G))->length, k2M);
}

TEST(PageTable, ArgumentsAreChecked) {
  TableWorld w;
  auto t = w.table(vtd(3));
  auto map = [&](u64 iova, u64 phys, u64 length, Access access = Access::ReadWrite) {
    return error_of(t->map(Iova(iova), Phys(phys), length, access));
  };
  const u64 top = u64{1} << 39;
  const u64 out = u64{1} << 46;
  EXPECT_EQ(map(0, 0, 0), Errno::Einval);
  EXPECT_EQ(map(1, 0, k4), Errno::Einval);
  EXPECT_EQ(map(0, 512, k4), Errno::Einval);
  EXPECT_EQ(map(0, 0, k4 + 1), Errno::Einval);
  EXPECT_EQ(map(0, 0, k4, Access{}), Errno::Einval);
  EXPECT_EQ(map(0, 0, k4, static_cast<Access>(4)), Errno::Einval);
  EXPECT_EQ(map(0, 0, k4, static_cast<Access>(7)), Errno::Einval);
  EXPECT_EQ(map(top, 0, k4), Errno::Erange);
  EXPECT_EQ(map(top - k4, 0, 2 * k4), Errno::Erange);
  EXPECT_EQ(map(top - k4, 0, top), Errno::Erange);
  EXPECT_EQ(map(0, out, k4), Errno::Erange);
  EXPECT_EQ(map(0, out - k4, 2 * k4), Errno::Erange);
  // Sums that leave 64 bits.
  EXPECT_EQ(map(k4, 0, ~u64{0} & ~(k4 - 1)), Errno::Erange);
  EXPECT_EQ(map(~u64{0} - k4 + 1, 0, 2 * k4), Errno::Erange);
  EXPECT_EQ(map(0, ~u64{0} - k4 + 1, 2 * k4), Errno::Erange);
  // The interrupt range as output, from both sides and from around.
  EXPECT_EQ(map(0, 0xfee0'0000, k4), Errno::Einval);
  EXPECT_EQ(map(0, 0xfeef'f000, 2 * k4), Errno::Einval);
  EXPECT_EQ(map(0, 0xfedf'f000, 2 * k4), Errno::Einval);
  EXPECT_EQ(map(0, 0, u64{4} << 30), Errno::Einval);
  EXPECT_TRUE(leaves_of(*t).empty());
  EXPECT_EQ(t->arena().pages_in_use(), 0u);

  // The last page of either side is good.
  EXPECT_EQ(map(top - k4, out - k4, k4), Errno{});
  EXPECT_EQ(map(0, 0xfedf'f000, k4), Errno{});
  EXPECT_EQ(map(k4, 0xfef0'0000, k4), Errno{});
  EXPECT_EQ(t->leaf_at(Iova(top)).error(), Errno::Enoent);
  EXPECT_EQ(t->leaf_at(Iova(~u64{0})).error(), Errno::Enoent);
  EXPECT_EQ(t->leaf_at(Iova(top - 1))->phys, Phys(out - k4));
}

TEST(PageTable, AddressWidthBelowWhatTheLevelsReach) {
  TableWorld w;
  Geometry g = vtd(4);
  g.iova_bits = 39;
  auto t = w.table(g);
  EXPECT_EQ(error_of(t->map(Iova(u64{1} << 39), Phys(0), k4, Access::Read)), Errno::Erange);
  EXPECT_TRUE(t->map(Iova((u64{1} << 39) - k1G), Phys(k1G * 8), k1G, Access::Read));
  // unmap and each_leaf clip.
  EXPECT_EQ(unmap_now(*t, 0, ~u64{0}), k1G);
  EXPECT_EQ(unmap_now(*t, u64{1} << 39, ~u64{0}), 0u);
}

TEST(PageTable, FirstStageHasNoWriteOnly) {
  TableWorld w;
  auto t = w.table(x86(4));
  EXPECT_EQ(error_of(t->map(Iova(0), Phys(0), k4, Access::Write)), Errno::Eopnotsupp);
  ASSERT_TRUE(t->map(Iova(0), Phys(0), k4, Access::Read));
  ASSERT_TRUE(t->map(Iova(k4), Phys(0), k4, Access::ReadWrite));
  EXPECT_EQ(t->leaf_at(Iova(0))->access, Access::Read);
  EXPECT_EQ(t->leaf_at(Iova(k4))->access, Access::ReadWrite);
}

// Every way in which a new range can touch an old one.
TEST(PageTable, OverlapIsRefusedAndChangesNothing) {
  for (u64 sizes : {kAllLeafSizes, kPageSize | kHugePageSize, kPageSize}) {
    TableWorld w;
    auto t = w.table(vtd(4, sizes));
    TableModel model(vtd(4, sizes));
    auto put = [&](u64 iova, u64 length) {
      ASSERT_TRUE(t->map(Iova(iova), Phys(iova), length, Access::ReadWrite));
      model.map(iova, iova, length, 3);
    };
    put(k1G - k4, k4);                // one small leaf at the end of a table
    put(k1G + 4 * k2M, k2M);          // a huge leaf or a full table
    put(2 * k1G + k2M + 8 * k4, k4);  // alone in its table
    const std::pair<u64, u64> bad[] = {
        {k1G - k4, k4},
        {0, k1G},
        {k1G - 2 * k4, 3 * k4},
        {k1G - k4, 2 * k1G},
        {k1G - k2M, 2 * k2M},
        {k1G, k1G},
        {k1G + 4 * k2M + k4, k4},
        {k1G + 3 * k2M, 2 * k2M},
        {k1G + 5 * k2M - k4, 2 * k4},
        {k1G, 4 * k2M + k4},
        {2 * k1G + k2M, k2M},
        {2 * k1G, k1G},
        {2 * k1G + k2M + 7 * k4, 2 * k4},
        {2 * k1G + k2M + 8 * k4, 2 * k4},
        {2 * k1G - k4, k1G},
        {0, 3 * k1G},
    };
    for (const auto& [iova, length] : bad) {
      EXPECT_EQ(error_of(t->map(Iova(iova), Phys(iova + 16 * k1G), length, Access::Read)), Errno::Eaddrinuse)
          << std::hex << iova << "+" << length;
      // With another alignment, so with other leaves.
      EXPECT_EQ(error_of(t->map(Iova(iova), Phys(iova + 16 * k1G + k4), length, Access::Read)), Errno::Eaddrinuse)
          << std::hex << iova << "+" << length;
    }
    expect_equals(w, *t, model);
  }
}

TEST(PageTable, UnmapTakesWholeLeavesAndReportsThem) {
  TableWorld w;
  auto t = w.table(vtd(4));
  TableModel model(vtd(4));
  for (auto [iova, length] : {std::pair{u64{0}, k2M}, {k2M, k4 * 3}, {k1G, k1G}}) {
    ASSERT_TRUE(t->map(Iova(iova), Phys(iova), length, Access::ReadWrite));
    model.map(iova, iova, length, 3);
  }
  EXPECT_EQ(unmap_now(*t, k2M + k4, k4), k4);
  EXPECT_EQ(unmap_now(*t, k2M + k4, k4), 0u);
  EXPECT_EQ(unmap_now(*t, k1G + 5 * k4, k4), k1G);
  EXPECT_EQ(unmap_now(*t, k2M - k4, 2 * k4), k2M + k4);
  for (auto [iova, length] : {std::pair{k2M + k4, k4}, {k1G, k1G}, {k2M - k4, 2 * k4}}) model.unmap(iova, length);
  expect_equals(w, *t, model);
  EXPECT_EQ(unmap_now(*t, 5, 0), 0u);
  EXPECT_EQ(unmap_now(*t, 0, ~u64{0}), k4);
  EXPECT_EQ(t->arena().pages_in_use(), 0u);
}

TEST(PageTable, GatherTellsWhetherTablesWentAndWhere) {
  TableWorld w;
  auto t = w.table(vtd(4, kPageSize));
  ASSERT_TRUE(t->map(Iova(k2M), Phys(k2M), 4 * k2M, Access::ReadWrite));
  Gather leaves;
  EXPECT_EQ(t->unmap(Iova(k2M + k4), k4, leaves), k4);
  EXPECT_FALSE(leaves.tables_removed);
  EXPECT_EQ(leaves.count, 0u);
  Gather gather;
  EXPECT_EQ(t->unmap(Iova(k2M), k4, gather), k4);
  EXPECT_FALSE(gather.tables_removed);
  // The rest of the first table: it goes, though the range does not cover it.
  EXPECT_EQ(t->unmap(Iova(k2M + 2 * k4), k2M - 2 * k4, gather), k2M - 2 * k4);
  EXPECT_TRUE(gather.tables_removed);
  EXPECT_EQ(gather.count, 1u);
  EXPECT_EQ(gather.first, Iova(k2M));
  EXPECT_EQ(gather.last, Iova(2 * k2M - 1));
  // More into the same gather, from elsewhere.
  EXPECT_EQ(t->unmap(Iova(4 * k2M), k2M, gather), k2M);
  EXPECT_EQ(gather.first, Iova(k2M));
  EXPECT_EQ(gather.last, Iova(5 * k2M - 1));
  const u64 pages = t->arena().pages_in_use();
  t->release(gather);
  EXPECT_EQ(t->arena().pages_in_use(), pages - 2);
  EXPECT_FALSE(gather.tables_removed);
  t->release(gather);  // nothing in it
  // All that is left goes with one store at the top.
  EXPECT_EQ(t->unmap(Iova(0), k1G, gather), 2 * k2M);
  EXPECT_TRUE(gather.tables_removed);
  EXPECT_EQ(w.walker(*t).walk(t->top()), Translation{});
  EXPECT_GT(t->arena().pages_in_use(), 0u);
  t->release(gather);
  EXPECT_EQ(t->arena().pages_in_use(), 0u);
}

TEST(PageTable, NoMappingWhereTablesWaitForTheFlush) {
  TableWorld w;
  auto t = w.table(vtd(4, kPageSize | kHugePageSize));
  ASSERT_TRUE(t->map(Iova(k1G), Phys(k4), 2 * k2M, Access::ReadWrite));
  ASSERT_TRUE(t->map(Iova(k1G + 3 * k2M), Phys(k4), k4, Access::ReadWrite));
  Gather gather;
  EXPECT_EQ(t->unmap(Iova(k1G), k2M, gather), k2M);
  const u64 pages = t->arena().pages_in_use();
  EXPECT_EQ(error_of(t->map(Iova(k1G), Phys(0), k4, Access::Read)), Errno::Ebusy);            // build
  EXPECT_EQ(error_of(t->map(Iova(k1G), Phys(0), k2M, Access::Read)), Errno::Ebusy);           // run
  EXPECT_EQ(error_of(t->map(Iova(k1G - k4), Phys(k4), 2 * k4, Access::Read)), Errno::Ebusy);  // spread
  EXPECT_EQ(t->arena().pages_in_use(), pages);
  t->release(gather);
  EXPECT_TRUE(t->map(Iova(k1G - k4), Phys(k4), 2 * k4, Access::Read));
}

// A flush that failed: the Gather is dropped, its pages stay with the table until it goes.
TEST(PageTable, DroppedGatherLeaksNothingBeyondTheTable) {
  TableWorld w;
  w.heap.trim();
  const u64 before = w.frames.totals().free;
  {
    auto t = w.table(vtd(4, kPageSize));
    ASSERT_TRUE(t->map(Iova(0), Phys(0), 2 * k2M, Access::Read));
    Gather dropped;
    t->unmap(Iova(0), k2M, dropped);
    EXPECT_EQ(t->arena().pages_in_use(), 4u);
    // After a flush of the whole domain, a release that spans the slot frees it too.
    EXPECT_EQ(unmap_now(*t, 0, 2 * k2M), k2M);
    EXPECT_EQ(t->arena().pages_in_use(), 0u);
    ASSERT_TRUE(t->map(Iova(0), Phys(0), 2 * k2M, Access::Read));
    t->unmap(Iova(0), k2M, dropped);
  }
  w.heap.trim();
  EXPECT_EQ(w.frames.totals().free, before);
}

TEST(PageTable, VisitorsStopAtTheFirstError) {
  TableWorld w;
  auto t = w.table(vtd(3, kPageSize));
  ASSERT_TRUE(t->map(Iova(0), Phys(0), 8 * k4, Access::Read));
  unsigned calls = 0;
  auto stop = [&]<class... A>(A&&...) -> Result<void> {
    if (++calls == 3) return fail(Errno::Eintr);
    return {};
  };
  EXPECT_EQ(error_of(t->each_leaf(Iova(0), k2M, [&](const Leaf& l) { return stop(l); })), Errno::Eintr);
  EXPECT_EQ(calls, 3u);
  calls = 0;
  EXPECT_EQ(error_of(t->each_table([&](Phys p, unsigned l) { return stop(p, l); })), Errno::Eintr);
  EXPECT_EQ(calls, 3u);
  calls = 0;
  EXPECT_EQ(error_of(t->each_block([&](Phys p, unsigned o) {
              EXPECT_TRUE(calls != 0 || (p == t->top() && o == 0));
              if (++calls == 2) return Result<void>(fail(Errno::Eintr));
              return Result<void>{};
            })),
            Errno::Eintr);
}

TEST(PageTable, EachLeafGivesWhatOverlapsInOrder) {
  TableWorld w;
  auto t = w.table(vtd(5));
  const u64 far = u64{1} << 56;
  for (auto [iova, length] : {std::pair{u64{0}, k2M}, {k2M, 4 * k4}, {far, k1G}}) {
    ASSERT_TRUE(t->map(Iova(iova), Phys(length), length, Access::Read));
  }
  auto in = [&](u64 iova, u64 length) {
    std::vector<u64> found;
    EXPECT_TRUE(t->each_leaf(Iova(iova), length, [&](const Leaf& leaf) -> Result<void> {
      found.push_back(leaf.iova.value);
      return {};
    }));
    return found;
  };
  EXPECT_EQ(in(k2M - 1, 2), (std::vector<u64>{0, k2M}));
  EXPECT_EQ(in(k2M + k4, 2 * k4), (std::vector<u64>{k2M + k4, k2M + 2 * k4}));
  EXPECT_EQ(in(k2M + 4 * k4, far - k2M - 4 * k4), std::vector<u64>{});
  EXPECT_EQ(in(k2M + 3 * k4, ~u64{0}), (std::vector<u64>{k2M + 3 * k4, far}));
  EXPECT_EQ(in(0, 0), std::vector<u64>{});
}

TEST(PageTable, RunsJoinWhatIsContiguousAcrossTablesAndSizes) {
  TableWorld w;
  auto t = w.table(vtd(4));
  const u64 base = 16 * k1G;
  auto put = [&](u64 iova, u64 phys, u64 length, Access access) {
    ASSERT_TRUE(t->map(Iova(iova), Phys(phys), length, access));
  };
  put(k2M - k4, base + k2M - k4, k4 + 2 * k2M + k4, Access::Read);        // small, huge, small
  put(3 * k2M + k4, base + 3 * k2M + k4, k4, Access::ReadWrite);          // other access
  put(3 * k2M + 2 * k4, base + 3 * k2M + 3 * k4, k4, Access::ReadWrite);  // gap in the output
  put(3 * k2M + 4 * k4, base + 3 * k2M + 4 * k4, k4, Access::ReadWrite);  // gap in the IOVA
  put(k1G - k4, base - k4, k4 + k1G + k4, Access::Read);                  // over a giant leaf
  Translation expected;
  expected.append(k2M - k4, {2 * k2M + 2 * k4, base + k2M - k4, 1});
  expected.append(3 * k2M + k4, {k4, base + 3 * k2M + k4, 3});
  expected.append(3 * k2M + 2 * k4, {k4, base + 3 * k2M + 3 * k4, 3});
  expected.append(3 * k2M + 4 * k4, {k4, base + 3 * k2M + 4 * k4, 3});
  expected.append(k1G - k4, {k1G + 2 * k4, base - k4, 1});
  EXPECT_EQ(runs_of(*t), expected);
  // Clipped to the leaves that the range touches.
  Translation part;
  part.append(k2M, {2 * k2M + k4, base + k2M, 1});
  EXPECT_EQ(runs_of(*t, k2M + k4, 2 * k2M), part);
  EXPECT_TRUE(runs_of(*t, 0, 0).empty());
  EXPECT_TRUE(runs_of(*t, u64{1} << 48, k4).empty());
  unsigned calls = 0;
  EXPECT_EQ(error_of(t->each_run(Iova(0), ~u64{0},
                                 [&](const Leaf&) -> Result<void> {
                                   if (++calls == 2) return fail(Errno::Eintr);
                                   return {};
                                 })),
            Errno::Eintr);
  EXPECT_EQ(calls, 2u);
}

// The leaf that would continue a run of small leaves has the same bits as a link to the table page at its output.
TEST(PageTable, RunDoesNotTakeALinkForALeaf) {
  TableWorld w;
  auto t = w.table(vtd(3, kPageSize));
  ASSERT_TRUE(t->map(Iova(k2M), Phys(k1G), k4, Access::ReadWrite));
  Phys link;
  ASSERT_TRUE(t->each_table([&](Phys page, unsigned level) -> Result<void> {
    if (level == 1) link = page;
    return {};
  }));
  ASSERT_TRUE(t->map(Iova(k2M - 2 * k4), link - 2 * k4, 2 * k4, Access::ReadWrite));
  Translation expected;
  expected.append(k2M - 2 * k4, {2 * k4, link.value - 2 * k4, 3});
  expected.append(k2M, {k4, k1G, 3});
  EXPECT_EQ(runs_of(*t), expected);
}

// A table in between: the leaf behind it continues the output of the leaf before it, but not the run.
TEST(PageTable, RunDoesNotReachAcrossATable) {
  TableWorld w;
  auto t = w.table(vtd(3));
  ASSERT_TRUE(t->map(Iova(0), Phys(k1G), k2M, Access::ReadWrite));
  ASSERT_TRUE(t->map(Iova(2 * k2M - k4), Phys(8 * k1G), k4, Access::ReadWrite));
  ASSERT_TRUE(t->map(Iova(2 * k2M), Phys(k1G + k2M), k2M, Access::ReadWrite));
  Translation expected;
  expected.append(0, {k2M, k1G, 3});
  expected.append(2 * k2M - k4, {k4, 8 * k1G, 3});
  expected.append(2 * k2M, {k2M, k1G + k2M, 3});
  EXPECT_EQ(runs_of(*t), expected);
}

// Map with room for 0, 1, 2, … table pages until it succeeds: before that nothing may have changed.
TEST(PageTable, EveryAllocationOfMapCanFail) {
  struct Case {
    u64 iova, length;
  };
  const Case cases[] = {
      {5 * k1G, k4},                           // a chain under one slot
      {5 * k1G, 9 * k2M},                      // one subtree of many tables
      {k1G - 2 * k2M - k4, 4 * k2M + 3 * k4},  // two existing edges, new tables between
      {3 * k1G - k4, 2 * k4},                  // two new chains
      {4 * k1G - 3 * k2M, 7 * k2M},            // two of them
      {(u64{1} << 39) - k2M - k4, 3 * k2M},    // over a border of the top table
  };
  for (u64 sizes : {kAllLeafSizes, kPageSize}) {
    for (const Case& c : cases) {
      SCOPED_TRACE(::testing::Message() << std::hex << c.iova << "+" << c.length << " sizes " << sizes);
      TableWorld w;
      auto t = w.table(vtd(4, sizes));
      TableModel model(vtd(4, sizes));
      // Neighbours, so that the edges of some cases find tables.
      for (u64 iova : {k1G - 2 * k2M - 2 * k4, k1G + 2 * k2M + 2 * k4, 7 * k1G}) {
        ASSERT_TRUE(t->map(Iova(iova), Phys(iova), k4, Access::Read));
        model.map(iova, iova, k4, 1);
      }
      const u64 phys = c.iova + 16 * k1G;
      const u64 before = t->arena().pages_in_use();
      TableModel mapped = model;
      mapped.map(c.iova, phys, c.length, 3);
      const u64 needed = mapped.tables() - model.tables();
      for (u64 room = 0; room < needed; ++room) {
        {
          Rationed ration(w, *t, room);
          const u64 in_use = t->arena().pages_in_use();
          EXPECT_EQ(error_of(t->map(Iova(c.iova), Phys(phys), c.length, Access::ReadWrite)), Errno::Enomem) << room;
          EXPECT_EQ(t->arena().pages_in_use(), in_use);
        }
        EXPECT_EQ(t->arena().pages_in_use(), before);
        expect_equals(w, *t, model);
      }
      {
        Rationed ration(w, *t, needed);
        EXPECT_TRUE(t->map(Iova(c.iova), Phys(phys), c.length, Access::ReadWrite));
      }
      expect_equals(w, *t, mapped);
    }
  }
}

// The same with the nth allocation of the machine failing, from a table's creation on.
TEST(PageTable, NthAllocationFails) {
  for (u64 n = 1;; ++n) {
    TableWorld w;
    w.heap.trim();
    const u64 before = w.frames.totals().free;
    bool done = false;
    w.machine.counting.fail_at = w.machine.counting.allocations + n;
    {
      Result<Owned<IoPageTable>> t = create(w.heap, vtd(4, kPageSize));
      if (t) {
        TableModel model(vtd(4, kPageSize));
        const Result<void> mapped = (*t)->map(Iova(k1G - 10 * k2M), Phys(0), 40 * k2M, Access::Read);
        if (mapped) {
          model.map(k1G - 10 * k2M, 0, 40 * k2M, 1);
          done = w.machine.counting.allocations < w.machine.counting.fail_at;
        } else {
          EXPECT_EQ(mapped.error(), Errno::Enomem);
        }
        w.machine.counting.fail_at = 0;
        expect_equals(w, **t, model);
      } else {
        EXPECT_EQ(t.error(), Errno::Enomem);
      }
    }
    w.machine.counting.fail_at = 0;
    w.heap.trim();
    EXPECT_EQ(w.frames.totals().free, before) << n;
    if (done) break;
    ASSERT_LT(n, 1000u);
  }
}

TEST(PageTable, DestructionGivesEverythingBackAndAbandonKeepsIt) {
  TableWorld w;
  w.heap.trim();
  const u64 before = w.frames.totals().free;
  {
    auto t = w.table(vtd(5, kPageSize));
    ASSERT_TRUE(t->map(Iova(0), Phys(0), 64 * k2M, Access::Read));
  }
  w.heap.trim();
  EXPECT_EQ(w.frames.totals().free, before);
  u64 held = 0;
  {
    auto t = w.table(vtd(5, kPageSize));
    ASSERT_TRUE(t->map(Iova(0), Phys(0), 64 * k2M, Access::Read));
    ASSERT_TRUE(t->each_block([&](Phys, unsigned order) -> Result<void> {
      held += u64{1} << order;
      return {};
    }));
    const Phys top = t->top();
    t->abandon();
    EXPECT_TRUE(w.frames.in_use(top, kPageSize));
  }
  w.heap.trim();
  EXPECT_EQ(w.frames.totals().free, before - held);
}

}  // namespace
}  // namespace perdure::pt
