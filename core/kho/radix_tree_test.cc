#include "core/kho/radix_tree.h"

#include <rapidcheck/gtest.h>

#include "core/mem/heap.h"
#include "tests/support/test_machine.h"

namespace perdure::kho {
namespace {

// The three vectors of the format, and where their bits are.
static_assert(key_of(Phys(0x12'3456'7000), 0) == 0x0010'0000'0123'4567);
static_assert(key_of(Phys(0x4000'0000), 9) == 0x0000'0800'0000'0200);
static_assert(key_of(Phys(0x1'0000'0000), 18) == 0x0000'0004'0000'0004);
static_assert(block_of(0x0010'0000'0123'4567) == Block{Phys(0x12'3456'7000), 0});
static_assert(block_of(0x0000'0800'0000'0200) == Block{Phys(0x4000'0000), 9});
static_assert(block_of(0x0000'0004'0000'0004) == Block{Phys(0x1'0000'0000), 18});
static_assert(block_of(key_of(Phys(u64{1} << 63), 51)) == Block{Phys(u64{1} << 63), 51});

struct Vector {
  u64 pa;
  unsigned order;
  u64 slots[5];  // of levels 5 to 1
  u64 bit;
};
constexpr Vector kVectors[] = {
    {0x12'3456'7000, 0, {2, 0, 0, 1, 70}, 17767},
    {0x4000'0000, 9, {0, 2, 0, 0, 0}, 512},
    {0x1'0000'0000, 18, {0, 0, 2, 0, 0}, 4},
};

class Tree : public ::testing::Test {
 protected:
  Tree() : frames(machine) {
    const Extent ram[] = {{Phys(0), machine.window}};
    if (!frames.init(ram, {}, {})) throw std::runtime_error("frames");
    frames.open();
  }
  test::TestMachine machine{u64{64} << 20};
  FrameAllocator frames;
};

TEST_F(Tree, KeysLieWhereTheFormatSays) {
  RadixTree tree(frames);
  ASSERT_TRUE(tree.init());
  for (const Vector& v : kVectors) ASSERT_TRUE(*tree.insert(key_of(Phys(v.pa), v.order)));
  // Walked by hand, with the numbers of the format's description.
  for (const Vector& v : kVectors) {
    u64 at = tree.root().value;
    for (u64 slot : v.slots) {
      at = machine.virt<u64>(Phys(at))[slot];
      ASSERT_NE(at, 0u);
      ASSERT_EQ(at % 4096, 0u);
    }
    EXPECT_EQ(machine.virt<u64>(Phys(at))[v.bit / 64] >> (v.bit % 64) & 1, 1u);
  }
}

TEST_F(Tree, FourKeysOfOneAreaTakeSixNodes) {
  const u64 before = frames.totals().free;
  RadixTree tree(frames);
  ASSERT_TRUE(tree.init());
  for (u64 pa : {0x1000, 0x2000, 0x5000, 0x1000000}) ASSERT_TRUE(*tree.insert(key_of(Phys(pa), 0)));
  EXPECT_EQ(before - frames.totals().free, 6u);
  usize nodes = 0;
  tree.view().each_node([&](Phys) { ++nodes; });
  EXPECT_EQ(nodes, 6u);
  tree.clear();
  EXPECT_EQ(frames.totals().free, before);
}

TEST_F(Tree, ASecondInsertionIsTold) {
  RadixTree tree(frames);
  ASSERT_TRUE(tree.init());
  const u64 key = key_of(Phys(0x5000), 0);
  EXPECT_TRUE(*tree.insert(key));
  EXPECT_FALSE(*tree.insert(key));
  EXPECT_TRUE(tree.erase(key));
  EXPECT_FALSE(tree.erase(key));
  EXPECT_FALSE(tree.view().contains(key));
}

TEST_F(Tree, FailedInsertionLeavesNothing) {
  RadixTree tree(frames);
  ASSERT_TRUE(tree.init());
  ASSERT_TRUE(tree.insert(key_of(Phys(0x5000), 0)));
  const u64 before = frames.totals().free;
  const u64 key = key_of(Phys(0x4000'0000), 9);
  for (u64 nth = 1; nth <= 5; ++nth) {
    machine.counting.allocations = 0;
    machine.counting.fail_at = nth;
    ASSERT_EQ(tree.insert(key).error(), Errno::Enomem) << nth;
    ASSERT_EQ(frames.totals().free, before);
    ASSERT_FALSE(tree.view().contains(key));
    usize nodes = 0;
    tree.view().each_node([&](Phys) { ++nodes; });
    ASSERT_EQ(nodes, 6u);
  }
  machine.counting.fail_at = 0;
  EXPECT_TRUE(*tree.insert(key));
}

// Blocks of all orders that a 16 TiB machine can have, against a set.
RC_GTEST_PROP(RadixTree, IsASortedSet, ()) {
  test::TestMachine machine{u64{256} << 20};
  FrameAllocator frames(machine);
  const Extent ram[] = {{Phys(0), machine.window}};
  RC_ASSERT(frames.init(ram, {}, {}).has_value());
  frames.open();
  RadixTree tree(frames);
  RC_ASSERT(tree.init().has_value());
  std::set<u64> model;
  const auto keys = *rc::gen::container<std::vector<u64>>(rc::gen::map(
      rc::gen::pair(rc::gen::inRange(0u, 30u), rc::gen::inRange<u64>(0, u64{1} << 44)),
      [](std::pair<unsigned, u64> p) { return key_of(Phys(align_down(p.second, kPageSize << p.first)), p.first); }));
  for (u64 key : keys) {
    if (model.contains(key) && *rc::gen::arbitrary<bool>()) {
      RC_ASSERT(tree.erase(key));
      model.erase(key);
    } else {
      const auto inserted = tree.insert(key);
      RC_ASSERT(inserted.has_value());
      RC_ASSERT(*inserted == model.insert(key).second);
    }
  }
  std::vector<u64> seen;
  (void)tree.view().each([&](u64 key) -> Result<void> {
    seen.push_back(key);
    return {};
  });
  RC_ASSERT(seen == std::vector<u64>(model.begin(), model.end()));
  for (int i = 0; i < 20; ++i) {
    const u64 first = *rc::gen::inRange<u64>(1, u64{1} << kKeyBits);
    const u64 last = *rc::gen::inRange<u64>(first, u64{1} << kKeyBits);
    const auto at = model.lower_bound(first);
    RC_ASSERT(tree.view().find(first, last) == (at == model.end() || *at > last ? RadixView::kNone : *at));
  }
}

}  // namespace
}  // namespace perdure::kho
