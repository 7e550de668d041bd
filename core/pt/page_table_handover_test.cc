// What the next kernel does with a table: adoption in place, with nothing below the top looked at, and with tables
// that are not what they should be.
#include "core/pt/testing/table_world.h"

namespace perdure::pt {
namespace {

using namespace testing;

constexpr u64 k4 = kPageSize;
constexpr u64 k2M = kHugePageSize;
constexpr u64 k1G = kGiantPageSize;

// Leaves `t` as a former kernel does: sealed, and forgotten without being freed.
struct Left {
  Phys top;
  Phys chain;
  std::vector<std::pair<Phys, unsigned>> blocks;
};
Left leave(Owned<IoPageTable> t) {
  Left left{t->top(), t->arena().first_descriptor(), {}};
  EXPECT_TRUE(t->each_block([&](Phys base, unsigned order) -> Result<void> {
    left.blocks.emplace_back(base, order);
    return {};
  }));
  t->arena().seal();
  t->abandon();
  return left;
}

// The next kernel's memory, as far as a table is concerned: what is kept, once.
struct Kept {
  explicit Kept(const Left& from) : blocks(from.blocks.begin(), from.blocks.end()) {}
  Result<Owned<IoPageTable>> adopt(TableWorld& w, const Geometry& g, Phys top, Phys chain) {
    return pt::adopt(
        w.heap, g, top, chain,
        [&](Phys base, u64 length) {
          for (const auto& [at, order] : blocks) {
            const u64 bytes = k4 << order;
            if (base >= at && length <= bytes && base - at <= bytes - length) return true;
          }
          return false;
        },
        [&](Phys base, unsigned order) -> Result<void> {
          if (fail_at != 0 && --fail_at == 0) return fail(Errno::Enoent);
          if (!restored.insert({base, order}).second || !blocks.contains({base, order})) return fail(Errno::Enoent);
          return {};
        });
  }
  std::set<std::pair<Phys, unsigned>> blocks;
  std::set<std::pair<Phys, unsigned>> restored;
  u64 fail_at = 0;
};

TEST(PageTableHandover, AdoptedTableWorksLikeAnyOther) {
  for (unsigned levels : {3u, 4u, 5u}) {
    TableWorld w;
    w.heap.trim();
    const u64 free_before = w.frames.totals().free;
    const Geometry g = vtd(levels);
    TableModel model(g);
    auto old = w.table(g);
    auto put = [&](IoPageTable& t, u64 iova, u64 phys, u64 length) {
      model.map(iova, phys, length, 3);
      ASSERT_TRUE(t.map(Iova(iova), Phys(phys), length, Access::ReadWrite));
    };
    put(*old, k1G - k4, k4, 3 * k2M);
    put(*old, 8 * k1G, 8 * k1G, k1G);
    put(*old, 0, 0, k2M);
    const Left left = leave(std::move(old));
    // Which stores adoption does: none.
    std::vector<u64> top_words;
    for (u64 i = 0; i < 512; ++i) top_words.push_back(w.word(left.top.value + 8 * i));
    const u64 stores = w.machine.counting.stores;
    Kept kept(left);
    auto adopted = kept.adopt(w, g, left.top, left.chain);
    ASSERT_TRUE(adopted);
    EXPECT_EQ(kept.restored, kept.blocks);
    EXPECT_EQ(w.machine.counting.stores, stores);
    for (u64 i = 0; i < 512; ++i) EXPECT_EQ(w.word(left.top.value + 8 * i), top_words[i]);
    IoPageTable& t = **adopted;
    EXPECT_EQ(t.top(), left.top);
    expect_equals(w, t, model);
    // Changes of every kind.
    put(t, k2M, 7 * k4, 5 * k4);
    put(t, 3 * k1G - k4, 0, 2 * k4);
    expect_equals(w, t, model);
    EXPECT_EQ(unmap_now(t, k1G - k4, k4 + k2M), model.unmap(k1G - k4, k4 + k2M));
    expect_equals(w, t, model);
    // And on to the kernel after the next.
    const Left again = leave(std::move(*adopted));
    Kept kept_again(again);
    auto second = kept_again.adopt(w, g, again.top, again.chain);
    ASSERT_TRUE(second);
    expect_equals(w, **second, model);
    EXPECT_EQ(unmap_now(**second, 0, ~u64{0}), model.unmap(0, ~u64{0}));
    EXPECT_EQ((*second)->arena().pages_in_use(), 0u);
    second->reset();
    w.heap.trim();
    EXPECT_EQ(w.frames.totals().free, free_before);
  }
}

// R24, R25: the table of a unit that does not snoop was written back by the kernel that made it. Freeing it needs
// nothing of that unit: no store into a page that hardware may have walked, no write-back, whatever its leaves are.
TEST(PageTableHandover, FreeingAnAdoptedTableDoesNothingButGiveItsPagesBack) {
  for (unsigned levels : {3u, 4u, 5u}) {
    TableWorld w;
    w.heap.trim();
    const u64 free_before = w.frames.totals().free;
    const Geometry g = vtd(levels, kAllLeafSizes, /*coherent=*/false);
    auto old = w.table(g);
    ASSERT_TRUE(old->map(Iova(k1G - k4), Phys(k4), 3 * k2M, Access::ReadWrite));
    ASSERT_TRUE(old->map(Iova(8 * k1G), Phys(8 * k1G), k1G, Access::Read));
    ASSERT_TRUE(old->map(Iova((u64{1} << (12 + 9 * levels)) - k4), Phys(k4), k4, Access::Read)) << "the last page";
    const Left left = leave(std::move(old));
    const u64 written_back = w.machine.write_backs, stores = w.machine.counting.stores;
    Kept kept(left);
    auto adopted = kept.adopt(w, g, left.top, left.chain);
    ASSERT_TRUE(adopted);
    EXPECT_EQ((*adopted)->leaf_at(Iova((u64{1} << (12 + 9 * levels)) - k4))->phys, Phys(k4));
    adopted->reset();
    EXPECT_EQ(w.machine.write_backs, written_back);
    EXPECT_EQ(w.machine.counting.stores, stores);
    w.heap.trim();
    EXPECT_EQ(w.frames.totals().free, free_before);
  }
}

TEST(PageTableHandover, EmptyTableHasNoChain) {
  TableWorld w;
  const Left left = leave(w.table(vtd(3)));
  EXPECT_EQ(left.chain, Phys(0));
  Kept kept(left);
  auto t = kept.adopt(w, vtd(3), left.top, left.chain);
  ASSERT_TRUE(t);
  EXPECT_TRUE((*t)->map(Iova(0), Phys(0), k4, Access::Read));
}

TEST(PageTableHandover, WhatCannotBeAdopted) {
  TableWorld w;
  auto old = w.table(vtd(4));
  ASSERT_TRUE(old->map(Iova(0), Phys(k4), 64 * k2M, Access::Read));
  Phys inner;
  ASSERT_TRUE(old->each_table([&](Phys page, unsigned level) -> Result<void> {
    if (level == 2) inner = page;
    return {};
  }));
  const Left left = leave(std::move(old));
  auto refused = [&](const Geometry& g, Phys top, Phys chain) {
    Kept kept(left);
    return kept.adopt(w, g, top, chain).error();
  };
  EXPECT_EQ(refused(vtd(4), Phys(0), left.chain), Errno::Einval);
  EXPECT_EQ(refused(vtd(4), left.top + 8, left.chain), Errno::Einval);
  EXPECT_EQ(refused(vtd(4), Phys(~u64{0} & ~(k4 - 1)), left.chain), Errno::Einval);
  EXPECT_EQ(refused(vtd(4), Phys(u64{1} << 20), left.chain), Errno::Einval);
  Geometry six = vtd(4);
  six.levels = 6;
  EXPECT_EQ(refused(six, left.top, left.chain), Errno::Einval);
  six.format = static_cast<FormatId>(9);
  EXPECT_EQ(refused(six, left.top, left.chain), Errno::Eopnotsupp);
  // A top inside the arena would be freed twice.
  EXPECT_EQ(refused(vtd(4), inner, left.chain), Errno::Enoent);
  // Each block that cannot be taken over.
  for (u64 n = 1; n <= left.blocks.size(); ++n) {
    Kept kept(left);
    kept.fail_at = n;
    EXPECT_FALSE(kept.adopt(w, vtd(4), left.top, left.chain)) << n;
  }
  for (const auto& [base, order] : left.blocks) EXPECT_TRUE(w.frames.in_use(base, k4 << order));
}

// Links that a damaged or hostile image may have. Nothing of it may be followed, and every call returns.
TEST(PageTableHandover, LinksOutsideTheArenaAreNotFollowed) {
  for (u64 target : {u64{0}, u64{1} << 20, u64{1} << 45, u64{0x000f'ffff'ffff'f000}}) {
    TableWorld w;
    auto old = w.table(vtd(4));
    ASSERT_TRUE(old->map(Iova(k1G), Phys(k4), 2 * k2M, Access::Read));
    ASSERT_TRUE(old->map(Iova(0), Phys(k4), k4, Access::Read));
    const Left left = leave(std::move(old));
    Kept kept(left);
    auto adopted = kept.adopt(w, vtd(4), left.top, left.chain);
    ASSERT_TRUE(adopted);
    IoPageTable& t = **adopted;
    // Slot 1 of the level-3 table, which is what slot 0 of the top leads to.
    const u64 level3 = w.word(left.top.value) & ~(k4 - 1);
    hw::store(w.machine.virt<u64>(Phys(level3 + 8)), target | 3);
    EXPECT_EQ(t.leaf_at(Iova(k1G)).error(), Errno::Eio);
    EXPECT_EQ(t.map(Iova(k1G + k4), Phys(0), k4, Access::Read).error(), Errno::Eio);
    EXPECT_EQ(t.map(Iova(k1G - k4), Phys(k4), 2 * k4, Access::Read).error(), Errno::Eio);
    EXPECT_EQ(t.each_leaf(Iova(0), 2 * k1G, [](const Leaf&) -> Result<void> { return {}; }).error(), Errno::Eio);
    EXPECT_EQ(t.each_run(Iova(0), 2 * k1G, [](const Leaf&) -> Result<void> { return {}; }).error(), Errno::Eio);
    EXPECT_EQ(t.each_table([](Phys, unsigned) -> Result<void> { return {}; }).error(), Errno::Eio);
    EXPECT_EQ(unmap_now(t, k1G, k4), 0u);
    EXPECT_EQ(unmap_now(t, k1G, k1G), 0u);
    EXPECT_EQ(unmap_now(t, 0, 2 * k1G), k4);
  }
}

// One page linked from everywhere: as many walks as it has paths would take days.
TEST(PageTableHandover, WalksOfATangledTableEnd) {
  TableWorld w;
  auto old = w.table(vtd(5));
  ASSERT_TRUE(old->map(Iova(0), Phys(k4), k4, Access::Read));
  const Left left = leave(std::move(old));
  Kept kept(left);
  auto adopted = kept.adopt(w, vtd(5), left.top, left.chain);
  ASSERT_TRUE(adopted);
  IoPageTable& t = **adopted;
  // Every table page full of links to one of them, itself among them.
  u64 page = w.word(left.top.value) & ~(k4 - 1);
  for (u64 i = 0; i < 512; ++i) hw::store(w.machine.virt<u64>(left.top + 8 * i), page | 3);
  for (u64 i = 0; i < 512; ++i) hw::store(w.machine.virt<u64>(Phys(page + 8 * i)), page | 3);
  EXPECT_EQ(t.each_table([](Phys, unsigned) -> Result<void> { return {}; }).error(), Errno::Eio);
  EXPECT_EQ(t.each_leaf(Iova(0), ~u64{0}, [](const Leaf&) -> Result<void> { return {}; }).error(), Errno::Eio);
  Gather gather;
  t.unmap(Iova(0), ~u64{0}, gather);
  t.release(gather);
  t.unmap(Iova(k4), ~u64{0}, gather);
  t.release(gather);
  EXPECT_LE(t.arena().pages_in_use(), 4u);
}

TEST(PageTableHandover, GraftOntoAnAdoptedTable) {
  TableWorld w;
  w.heap.trim();
  const u64 free_before = w.frames.totals().free;
  const Geometry g = vtd(4);
  TableModel model(g);
  auto old = w.table(g);
  for (u64 i = 0; i < 512; ++i) ASSERT_TRUE(old->map(Iova(k1G + i * k4), Phys(k2M + i * k4), k4, Access::ReadWrite));
  const Left left = leave(std::move(old));
  Kept kept(left);
  auto live = kept.adopt(w, g, left.top, left.chain);
  ASSERT_TRUE(live);
  auto fresh = w.table(g);
  ASSERT_TRUE(fresh->map(Iova(k1G), Phys(k2M), k2M, Access::ReadWrite));
  model.map(k1G, k2M, k2M, 3);

  // Refusals: other geometry, other format, itself.
  auto narrow = w.table(vtd(3));
  EXPECT_EQ(narrow->graft_onto(**live).error(), Errno::Einval);
  auto incoherent = w.table(vtd(4, kAllLeafSizes, false));
  EXPECT_EQ(incoherent->graft_onto(**live).error(), Errno::Einval);
  auto first_stage = w.table(x86(4));
  EXPECT_EQ(first_stage->graft_onto(**live).error(), Errno::Einval);
  EXPECT_EQ((*live)->graft_onto(**live).error(), Errno::Einval);
  EXPECT_EQ((*live)->top(), left.top);

  ASSERT_TRUE(fresh->graft_onto(**live));
  EXPECT_EQ(fresh->top(), left.top);
  expect_equals(w, *fresh, model);
  EXPECT_EQ(leaves_of(**live).size(), 512u);
  live->reset();
  expect_equals(w, *fresh, model);
  fresh.reset();
  narrow.reset();
  incoherent.reset();
  first_stage.reset();
  w.heap.trim();
  EXPECT_EQ(w.frames.totals().free, free_before);
}

}  // namespace
}  // namespace perdure::pt
