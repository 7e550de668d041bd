#include "core/kho/blocks.h"

#include <list>

#include "tests/support/handover.h"

namespace perdure::kho {
namespace {

using test::Handover;

class Blocks : public ::testing::Test {
 public:
  BlockHeader& header(Phys at) { return *world.machine.virt<BlockHeader>(at); }

 protected:
  static constexpr u32 kSize = 80;
  static constexpr u64 kPer = 51;
  static_assert(entries_per_block(kSize) == kPer);
  static_assert(entries_per_block(64) == 63);

  // Writes `n` entries that number themselves; the chain outlives the jump because the set is forgotten.
  Phys write(u64 n) {
    BlockSet& set = sets.emplace_back().make(world.kho(), kSize);
    if (!set.grow(n)) throw std::runtime_error("grow");
    for (u64 i = 0; i < n; ++i) {
      std::byte* e = set.append();
      memcpy(e, &i, 8);
      memcpy(e + kSize - 8, &i, 8);
    }
    return set.head();
  }
  Result<u64> read(Phys head) {
    auto reader = BlockReader::open(world.kho(), head, kSize, "the test");
    if (!reader) return fail(reader.error());
    u64 next = 0;
    TRY(reader->each([&](const std::byte* e) -> Result<void> {
      u64 first = 0, last = 0;
      memcpy(&first, e, 8);
      memcpy(&last, e + kSize - 8, 8);
      if (first != next || last != next) return fail(Errno::Eio);
      ++next;
      return {};
    }));
    if (next != reader->count()) return fail(Errno::Eio);
    return next;
  }
  void jump() {
    for (auto& s : sets) s.forget();
    sets.clear();
    ASSERT_TRUE(world.jump());
  }
  Handover world;
  std::list<test::Forgettable<BlockSet>> sets;
};

TEST_F(Blocks, EntriesComeThrough) {
  for (u64 n : {u64{0}, u64{1}, kPer, kPer + 1, 3 * kPer}) {
    const Phys head = write(n);
    EXPECT_EQ(static_cast<bool>(head), n != 0);
    jump();
    const auto before = world.frames().totals();
    EXPECT_EQ(*read(head), n);
    // The pages were taken over and freed.
    const auto after = world.frames().totals();
    EXPECT_EQ(before.kept - after.kept, (n + kPer - 1) / kPer);
  }
}

TEST_F(Blocks, ExactBlocksNeedNoExtraOne) {
  BlockSet set(world.kho(), kSize);
  ASSERT_TRUE(set.grow(kPer));
  EXPECT_EQ(set.room(), kPer);
  ASSERT_TRUE(set.grow(kPer + 1));
  EXPECT_EQ(set.room(), 2 * kPer);
  EXPECT_NE(header(set.head()).next, 0u);
  set.shrink(kPer);
  EXPECT_EQ(set.room(), kPer);
  EXPECT_EQ(header(set.head()).next, 0u);
  set.shrink(0);
  EXPECT_FALSE(set.head());
}

TEST_F(Blocks, ClearKeepsRoomAndForgetsEntries) {
  const u64 before = world.frames().totals().free;
  {
    BlockSet set(world.kho(), kSize);
    ASSERT_TRUE(set.grow(2 * kPer));
    for (u64 i = 0; i < kPer + 3; ++i) memset(set.append(), 0xff, kSize);
    EXPECT_EQ(header(set.head()).count, kPer);
    set.clear();
    EXPECT_EQ(header(set.head()).count, 0u);
    EXPECT_EQ(set.room(), 2 * kPer);
    EXPECT_EQ(world.machine.virt<u8>(set.head())[100], 0);
    EXPECT_TRUE(world.kho().is_preserved(set.head(), 0));
  }
  world.heap().trim();
  // Tree nodes may have come: the page the set had was in an area that had one already.
  EXPECT_EQ(world.frames().totals().free, before);
}

TEST_F(Blocks, GrowingFailsWithNothingChanged) {
  auto& steps = world.machine.counting;
  BlockSet set(world.kho(), kSize);
  ASSERT_TRUE(set.grow(1));
  world.heap().trim();
  const u64 before = world.frames().totals().free;
  for (u64 nth = 1;; ++nth) {
    const auto r = steps.failing(nth, [&] { return set.grow(6 * kPer); });
    if (r) break;
    EXPECT_EQ(r.error(), Errno::Enomem);
    EXPECT_EQ(set.room(), kPer);
    EXPECT_EQ(header(set.head()).next, 0u);
    world.heap().trim();
    EXPECT_LE(before - world.frames().totals().free, 1u);  // a bigger list of blocks
    ASSERT_LT(nth, 30u);
  }
  EXPECT_EQ(set.room(), 6 * kPer);
  EXPECT_EQ(set.grow(kMaxBlocks * kPer + 1).error(), Errno::Enospc);
}

TEST_F(Blocks, PartialAndEmptyBlocksAreAccepted) {
  const Phys head = write(3 * kPer);
  const Phys second(header(head).next), third(header(second).next);
  header(second).count = 0;
  header(third).count = 1;
  header(head).count = 2;
  jump();
  auto reader = BlockReader::open(world.kho(), head, kSize, "the test");
  ASSERT_TRUE(reader);
  EXPECT_EQ(reader->count(), 3u);
  std::vector<u64> seen;
  (void)reader->each([&](const std::byte* e) -> Result<void> {
    u64 v = 0;
    memcpy(&v, e, 8);
    seen.push_back(v);
    return {};
  });
  EXPECT_EQ(seen, (std::vector<u64>{0, 1, 2 * kPer}));
  EXPECT_NE(world.machine.lines.back().find("is empty"), std::string::npos);
}

TEST_F(Blocks, BadChainsAreRefusedAndStayKept) {
  struct Case {
    const char* what;
    std::function<void(Blocks&, Phys head, Phys second, Phys third)> damage;
    std::string_view why;
  };
  const Case cases[] = {
      {"self", [](Blocks& t, Phys head, Phys, Phys) { t.header(head).next = head.value; }, "circle"},
      {"cycle", [](Blocks& t, Phys head, Phys, Phys third) { t.header(third).next = head.value; }, "circle"},
      {"rho", [](Blocks& t, Phys, Phys second, Phys third) { t.header(third).next = second.value; }, "circle"},
      {"count", [](Blocks& t, Phys, Phys second, Phys) { t.header(second).count = kPer + 1; }, "more entries"},
      {"huge count", [](Blocks& t, Phys, Phys second, Phys) { t.header(second).count = ~u64{0}; }, "more entries"},
      {"outside", [](Blocks& t, Phys, Phys second, Phys) { t.header(second).next = ~u64{0} << 12; }, "no preserved"},
      {"unaligned", [](Blocks& t, Phys, Phys second, Phys) { t.header(second).next += 8; }, "no preserved"},
      {"not preserved", [](Blocks& t, Phys, Phys second, Phys) { t.header(second).next = 0x2000000; }, "no preserved"},
      {"bank", [](Blocks& t, Phys, Phys second, Phys) { t.header(second).next = u64{1} << 30; }, "no preserved"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    ASSERT_TRUE(world.kho().preserve(Phys(u64{1} << 30), 0));
    const Phys head = write(3 * kPer);
    const Phys second(header(head).next), third(header(second).next);
    c.damage(*this, head, second, third);
    jump();
    const u64 kept = world.frames().totals().kept;
    EXPECT_EQ(read(head).error(), Errno::Einval);
    EXPECT_NE(world.machine.lines.back().find(c.why), std::string::npos) << world.machine.lines.back();
    EXPECT_EQ(world.frames().totals().kept, kept);
  }
}

TEST_F(Blocks, APageBelongsToOneChainOnly) {
  const Phys first = write(kPer + 1), second = write(kPer + 1);
  header(Phys(header(second).next)).next = header(first).next;
  jump();
  auto one = BlockReader::open(world.kho(), first, kSize, "one");
  ASSERT_TRUE(one);
  EXPECT_EQ(BlockReader::open(world.kho(), second, kSize, "two").error(), Errno::Einval);
}

TEST_F(Blocks, TooLongChainsAreRefused) {
  // 10,001 blocks need 40 MiB of their own.
  Handover big(u64{128} << 20);
  test::Forgettable<BlockSet> set;
  BlockSet& s = set.make(big.kho(), kSize);
  ASSERT_TRUE(s.grow(kMaxBlocks * kPer));
  const Phys extra = *big.kho().alloc_preserved(kPageSize);
  Phys last = s.head();
  while (big.machine.virt<BlockHeader>(last)->next != 0) last = Phys(big.machine.virt<BlockHeader>(last)->next);
  const Phys head = s.head();
  set.forget();
  ASSERT_TRUE(big.jump());
  big.machine.lines.clear();
  EXPECT_TRUE(BlockReader::open(big.kho(), head, kSize, "exactly as many as may be"));
  big.machine.virt<BlockHeader>(last)->next = extra.value;
  test::Handover again(u64{128} << 20);
  test::Forgettable<BlockSet> other;
  BlockSet& o = other.make(again.kho(), kSize);
  ASSERT_TRUE(o.grow(kMaxBlocks * kPer));
  Phys tail = o.head();
  while (again.machine.virt<BlockHeader>(tail)->next != 0) tail = Phys(again.machine.virt<BlockHeader>(tail)->next);
  again.machine.virt<BlockHeader>(tail)->next = again.kho().alloc_preserved(kPageSize)->value;
  const Phys start = o.head();
  other.forget();
  ASSERT_TRUE(again.jump());
  EXPECT_EQ(BlockReader::open(again.kho(), start, kSize, "one too many").error(), Errno::Enospc);
}

}  // namespace
}  // namespace perdure::kho
