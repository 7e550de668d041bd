// Dirty tracking: marks that hardware leaves in second-stage leaves (VT-d specification 9.8; hardware.md §3.3), read,
// taken back, and in the way of nothing else.
#include "core/pt/testing/table_world.h"

namespace perdure::pt {
namespace {

using namespace testing;

constexpr u64 k4 = kPageSize;
constexpr u64 k2M = kHugePageSize;
constexpr u64 k1G = kGiantPageSize;
constexpr u64 kA = 0x100, kD = 0x200;  // of the format, written down once more

struct DirtyTracking : ::testing::Test {
  TableWorld w;

  // Where the leaf at `iova` stands, and the entries on the way to it, as a walk of hardware finds them.
  u64* leaf_word(IoPageTable& t, u64 iova, bool accessed = false) {
    u64 page = t.top().value;
    for (unsigned level = t.geometry().levels;; --level) {
      u64* const entry = w.machine.virt<u64>(Phys(page)) + (iova >> (12 + 9 * (level - 1)) & 511);
      EXPECT_NE(*entry & 3, 0u);
      if (accessed) *entry |= kA;
      if (level == 1 || (*entry & 0x80) != 0) return entry;
      page = *entry & 0x000f'ffff'ffff'f000;
    }
  }
  void device_reads(IoPageTable& t, u64 iova) { leaf_word(t, iova, true); }
  void device_writes(IoPageTable& t, u64 iova) { *leaf_word(t, iova, true) |= kD; }

  using Found = std::vector<std::pair<u64, u64>>;
  // What is marked, whole leaves; with `clear` each loses its mark.
  Found dirty(IoPageTable& t, u64 iova = 0, u64 length = ~u64{0}, bool clear = false) {
    Found found;
    EXPECT_TRUE(t.each_dirty(Iova(iova), length, [&](const Leaf& leaf) -> Result<bool> {
      found.emplace_back(leaf.iova.value, leaf.length);
      return clear;
    }));
    return found;
  }
};

TEST_F(DirtyTracking, LeavesOfEverySizeAreFoundWholeAndInOrder) {
  auto t = w.table(vtd(4));
  ASSERT_TRUE(t->map(Iova(k1G - 4 * k2M), Phys(k1G - 4 * k2M), 4 * k2M + k1G + 3 * k4, Access::ReadWrite));
  EXPECT_EQ(dirty(*t), Found());
  device_reads(*t, k1G + 5);
  EXPECT_EQ(dirty(*t), Found()) << "read is not written";
  device_writes(*t, 2 * k1G + k4);
  device_writes(*t, k1G + 123 * k4);
  device_writes(*t, k1G - k4);
  const Found all{{k1G - k2M, k2M}, {k1G, k1G}, {2 * k1G + k4, k4}};
  EXPECT_EQ(dirty(*t), all);
  // A range that touches a leaf finds all of it, one that does not, nothing.
  EXPECT_EQ(dirty(*t, k1G + k2M, k4), (Found{{k1G, k1G}}));
  EXPECT_EQ(dirty(*t, k1G - 1, 2), (Found{{k1G - k2M, k2M}, {k1G, k1G}}));
  EXPECT_EQ(dirty(*t, 2 * k1G, k4), Found());
  EXPECT_EQ(dirty(*t, 2 * k1G, 0), Found());
  EXPECT_EQ(dirty(*t, u64{1} << 60, k4), Found());
}

TEST_F(DirtyTracking, OnlyWhatTheVisitorSaysLosesItsMarkAndNothingElse) {
  Recorder recorder;
  auto t = recorded_table<VtdSecondStage>(w, vtd(3), recorder);
  ASSERT_TRUE(t->map(Iova(0), Phys(k1G), 8 * k4, Access::ReadWrite));
  for (u64 page : {1, 3, 5}) device_writes(*t, page * k4);
  recorder.log.clear();
  ASSERT_TRUE(
      t->each_dirty(Iova(0), 8 * k4, [&](const Leaf& leaf) -> Result<bool> { return leaf.iova != Iova(3 * k4); }));
  // One store each, of the leaf, which hardware goes on walking: only the mark went.
  ASSERT_EQ(recorder.log.size(), 2u);
  for (const Recorder::Store& store : recorder.log) {
    EXPECT_EQ(store.old, store.value | kD);
    EXPECT_EQ(store.value & (kA | kD), kA);
  }
  EXPECT_EQ(dirty(*t), (Found{{3 * k4, k4}}));
  // Reading alone stores nothing.
  recorder.log.clear();
  EXPECT_EQ(dirty(*t), (Found{{3 * k4, k4}}));
  EXPECT_TRUE(recorder.log.empty());
}

TEST_F(DirtyTracking, ABitThatHardwareSetsMeanwhileStays) {
  // The word as software saw it is old by the time it takes the mark back.
  auto t = w.table(vtd(4));
  ASSERT_TRUE(t->map(Iova(0), Phys(0), k4, Access::ReadWrite));
  u64* const word = leaf_word(*t, 0);
  *word |= kD;
  ASSERT_TRUE(t->each_dirty(Iova(0), k4, [&](const Leaf&) -> Result<bool> {
    *word |= kA;
    return true;
  }));
  EXPECT_EQ(*word & (kA | kD), kA);
}

TEST_F(DirtyTracking, AVisitThatFailsEndsTheWalk) {
  auto t = w.table(vtd(4));
  ASSERT_TRUE(t->map(Iova(0), Phys(k4), 8 * k4, Access::ReadWrite));
  for (u64 page : {2, 4, 6}) device_writes(*t, page * k4);
  int visits = 0;
  const Result<void> stopped = t->each_dirty(Iova(0), 8 * k4, [&](const Leaf&) -> Result<bool> {
    if (++visits == 2) return fail(Errno::Eintr);
    return true;
  });
  EXPECT_EQ(stopped.error(), Errno::Eintr);
  EXPECT_EQ(dirty(*t), (Found{{4 * k4, k4}, {6 * k4, k4}}));
}

TEST_F(DirtyTracking, MarksDisturbNoOtherOperation) {
  for (unsigned levels : {3u, 4u, 5u}) {
    const Geometry g = vtd(levels);
    auto t = w.table(g);
    TableModel model(g);
    model.map(k2M - 4 * k4, k1G + k2M - 4 * k4, 4 * k4 + 2 * k2M + 4 * k4, 3);
    ASSERT_TRUE(t->map(Iova(k2M - 4 * k4), Phys(k1G + k2M - 4 * k4), 4 * k4 + 2 * k2M + 4 * k4, Access::ReadWrite));
    device_writes(*t, k2M - 3 * k4);
    device_writes(*t, 2 * k2M);
    device_reads(*t, 3 * k2M + k4);
    // Runs are joined across them, leaves are what they were.
    EXPECT_EQ(runs_of(*t), model.translation());
    EXPECT_EQ(leaves_of(*t), model.leaves());
    EXPECT_EQ(t->leaf_at(Iova(2 * k2M + 1))->phys, Phys(k1G + 2 * k2M));
    EXPECT_EQ(t->map(Iova(k2M - 3 * k4), Phys(0), k4, Access::Read).error(), Errno::Eaddrinuse);
    // Unmapped with its mark, and mapped anew without one.
    EXPECT_EQ(unmap_now(*t, k2M - 3 * k4, k4), k4);
    ASSERT_TRUE(t->map(Iova(k2M - 3 * k4), Phys(k1G + k2M - 3 * k4), k4, Access::ReadWrite));
    EXPECT_EQ(dirty(*t), (Found{{2 * k2M, k2M}}));
    // Tables that were walked through are cut out and freed like others.
    EXPECT_EQ(unmap_now(*t, 0, ~u64{0}), model.unmap(0, ~u64{0}));
    EXPECT_EQ(t->arena().pages_in_use(), 0u);
    EXPECT_EQ(dirty(*t), Found());
  }
}

TEST_F(DirtyTracking, MarksMoveWithAGraftAndCanBeAddedToTheNewTable) {
  auto live = w.table(vtd(4));
  auto fresh = w.table(vtd(4));
  for (IoPageTable* t : {live.get(), fresh.get()}) {
    ASSERT_TRUE(t->map(Iova(0), Phys(0), 16 * k4, Access::ReadWrite));
    ASSERT_TRUE(t->map(Iova(k1G), Phys(k1G), k2M, Access::Read));
  }
  device_writes(*live, 7 * k4);
  ASSERT_TRUE(fresh->graft_onto(*live));
  EXPECT_EQ(dirty(*live), (Found{{7 * k4, k4}})) << "the old leaves, now under the other's name";
  EXPECT_EQ(dirty(*fresh), Found());
  device_writes(*fresh, 8 * k4);
  ASSERT_TRUE(fresh->mark_dirty(Iova(6 * k4 + 1), 2 * k4 - 2));
  EXPECT_EQ(dirty(*fresh), (Found{{6 * k4, k4}, {7 * k4, k4}, {8 * k4, k4}}));
  // Nobody can have written through a leaf that does not allow it.
  ASSERT_TRUE(fresh->mark_dirty(Iova(k1G), k4));
  EXPECT_EQ(dirty(*fresh, k1G, k2M), Found());
}

TEST_F(DirtyTracking, WhereMarksTellNothingNobodyAsks) {
  auto first = w.table(x86(4));
  auto aloof = w.table(vtd(4, kAllLeafSizes, false));
  for (IoPageTable* t : {first.get(), aloof.get()}) {
    ASSERT_TRUE(t->map(Iova(0), Phys(0), k4, Access::ReadWrite));
    const auto none = [](const Leaf&) -> Result<bool> { return false; };
    EXPECT_EQ(t->each_dirty(Iova(0), k4, none).error(), Errno::Eopnotsupp);
    EXPECT_EQ(t->mark_dirty(Iova(0), k4).error(), Errno::Eopnotsupp);
  }
}

// A corrupt table of a former kernel: a link to what is not its own is not followed.
TEST_F(DirtyTracking, NotThroughALinkOutOfAnAdoptedTable) {
  auto old = w.table(vtd(4));
  ASSERT_TRUE(old->map(Iova(0), Phys(0), k4, Access::ReadWrite));
  const Phys top = old->top();
  const Phys chain = old->arena().first_descriptor();
  old->arena().seal();
  old->abandon();
  old.reset();
  auto t = pt::adopt(
      w.heap, vtd(4), top, chain, [](Phys, u64) { return true; }, [](Phys, unsigned) -> Result<void> { return {}; });
  ASSERT_TRUE(t);
  EXPECT_EQ(dirty(**t), Found());
  const Phys foreign = *w.frames.alloc_zeroed(0);
  *w.machine.virt<u64>(top) = foreign.value | 3;
  EXPECT_EQ((*t)->each_dirty(Iova(0), k4, [](const Leaf&) -> Result<bool> { return true; }).error(), Errno::Eio);
  EXPECT_EQ((*t)->mark_dirty(Iova(0), k4).error(), Errno::Eio);
  w.frames.free(foreign, 0);
}

}  // namespace
}  // namespace perdure::pt
