// What carve() makes of hostile images: every refusal names its place, nothing is read outside memory, and
// the walk ends.
#include <random>

#include "core/kho/fdt.h"
#include "core/kho/kho.h"
#include "tests/support/handover.h"

namespace perdure {
namespace {

using namespace kho;
using test::Handover;

class Carve : public ::testing::Test {
 protected:
  static constexpr Phys kAbove{u64{1} << 30};

  void SetUp() override {
    block = *world.frames().alloc_zeroed(3);
    ASSERT_TRUE(world.kho().preserve(block, 3));
    ASSERT_TRUE(world.kho().preserve(kAbove, 9));
    fdt = world.kho().outgoing_fdt();
    FdtProblem problem;
    const auto r = FdtReader::open({world.machine.virt(fdt), kPageSize}, problem);
    root = Phys(*r->word(r->root(), kMapProperty));
  }
  u64* node(u64 at) { return world.machine.virt<u64>(Phys(at)); }
  // The node on `level` on the way to the key.
  u64 node_of(Phys base, unsigned order, unsigned level) {
    u64 at = root.value;
    for (unsigned l = kRootLevel; l > level; --l) at = node(at)[slot_of(key_of(base, order), l)];
    return at;
  }
  // Sets a key behind Kho's back.
  void force(u64 key) {
    u64 at = root.value;
    for (unsigned level = kRootLevel; level > 0; --level) {
      u64& slot = node(at)[slot_of(key, level)];
      if (slot == 0) slot = world.frames().alloc_zeroed(0)->value;
      at = slot;
    }
    node(at)[slot_of(key, 0) / 64] |= u64{1} << (key % 64);
  }
  void expect_refused(std::string_view why) {
    world.machine.lines.clear();
    const auto r = world.jump_to(fdt);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error(), Errno::Eproto);
    ASSERT_FALSE(world.machine.lines.empty());
    const std::string& line = world.machine.lines.back();
    EXPECT_NE(line.find(why), std::string::npos) << line;
    EXPECT_NE(line.find("kho: the handover is unreadable"), std::string::npos) << line;
    EXPECT_FALSE(world.frames().opened());
  }
  u8* fdt_bytes() { return world.machine.virt<u8>(fdt); }

  Handover world;
  Phys block, fdt, root;
};

TEST_F(Carve, GoodImageIsTaken) {
  ASSERT_TRUE(world.jump_to(fdt));
  EXPECT_TRUE(world.kho().restorable_ram(block, 3));
  EXPECT_TRUE(world.kho().restorable(kAbove, 9));
}

TEST_F(Carve, FdtOutsideMemory) {
  fdt = Phys(world.machine.window);
  expect_refused("beyond all memory");
}
// It may not even be read: nothing need answer there.
TEST_F(Carve, FdtInABank) {
  const Phys there = kAbove + kHugePageSize;
  memcpy(world.machine.virt(there), fdt_bytes(), kPageSize);
  fdt = there;
  expect_refused("lies outside RAM");
}
TEST_F(Carve, FdtUnaligned) {
  fdt = fdt + 8;
  expect_refused("no page");
}
TEST_F(Carve, FdtDamaged) {
  fdt_bytes()[0] = 0;
  expect_refused("wrong magic");
}
TEST_F(Carve, UnknownVersion) {
  fdt_bytes()[0x40 + 12 + 5] = '5';  // kho-v5
  expect_refused("not compatible with kho-v4");
}
TEST_F(Carve, FdtNotPreserved) {
  world.kho().unpreserve(fdt, 0);
  expect_refused("is not preserved itself");
}
TEST_F(Carve, RootUnaligned) {
  fdt_bytes()[0x60] = 1;
  expect_refused("the root of the tree");
}
TEST_F(Carve, RootOutsideMemory) {
  fdt_bytes()[0x60 + 7] = 1;
  expect_refused("the root of the tree");
}
TEST_F(Carve, RootInABank) {
  const u64 at = kAbove.value + kHugePageSize;
  memcpy(fdt_bytes() + 0x60, &at, 8);
  expect_refused("lies outside RAM");
}
TEST_F(Carve, NodeUnaligned) {
  node(root.value)[0] |= 0x10;
  expect_refused("which is no page of memory");
}
TEST_F(Carve, NodeOutsideMemory) {
  node(node_of(block, 3, 3))[7] = world.machine.window;
  expect_refused("which is no page of memory");
}
TEST_F(Carve, NodeInABank) {
  node(node_of(block, 3, 2))[7] = kAbove.value + kHugePageSize;
  expect_refused("lies outside RAM");
}
TEST_F(Carve, NodeInScratch) {
  node(node_of(block, 3, 2))[7] = Handover::kScratch.value;
  expect_refused("lies in scratch or reserved memory");
}
TEST_F(Carve, NodeInReservedMemory) {
  node(node_of(block, 3, 2))[7] = Handover::kMemoryMap.value;
  expect_refused("lies in scratch or reserved memory");
}
TEST_F(Carve, NodeLinkedTwice) {
  u64* table = node(node_of(block, 3, 1));
  table[100] = table[slot_of(key_of(block, 3), 1)];
  expect_refused("is linked twice");
}
TEST_F(Carve, CycleToTheRoot) {
  node(node_of(block, 3, 4))[9] = root.value;
  expect_refused("is linked twice");
}
TEST_F(Carve, EverySlotPointsAtTheNodeItself) {
  for (u64 i = 0; i < kTableEntries; ++i) node(root.value)[i] = root.value;
  expect_refused("is linked twice");
}
TEST_F(Carve, KeyTooWide) {
  const Phys page = *world.frames().alloc_zeroed(0);
  node(root.value)[4] = page.value;
  expect_refused("wider than 53 bits");
}
TEST_F(Carve, KeyWithoutABlock) {
  force(1);  // 2^64 bytes
  expect_refused("impossible key 0x1");
}
TEST_F(Carve, KeyZero) {
  force(0);
  expect_refused("impossible key 0x0");
}
TEST_F(Carve, BlockOutsideMemory) {
  force(key_of(Phys(world.machine.window), 9));
  expect_refused("is beyond all memory");
}
TEST_F(Carve, BlockInScratch) {
  force(key_of(Handover::kScratch, 0));
  expect_refused("overlaps scratch memory");
}
TEST_F(Carve, BlockIsATreePage) {
  force(key_of(root, 0));
  expect_refused("a page of the tree");
}
TEST_F(Carve, BlocksOverlapInRam) {
  force(key_of(block + kPageSize * 5, 0));
  expect_refused("lies within block");
}
TEST_F(Carve, BlocksOverlapInABank) {
  force(key_of(kAbove + kPageSize * 5, 0));
  expect_refused("lies within block");
}
TEST_F(Carve, BlocksOverlapByOneOrder) {
  force(key_of(kAbove, 10));
  expect_refused("lies within block");
}
TEST_F(Carve, HugeBlockAroundEverything) {
  force(key_of(Phys(0), 20));  // in the window, over all RAM
  expect_refused("block 0x0 of order 20 overlaps");
}

// Any bits of tree and FDT flipped: taken or refused, never a crash, and what is taken lies in the window.
TEST_F(Carve, FlippedBitsAreRefusedOrHarmless) {
  std::vector<Phys> pages{fdt};
  RadixView(world.machine, root).each_node([&](Phys p) { pages.push_back(p); });
  std::mt19937 rng(3);
  int taken = 0, refused = 0;
  std::vector<std::vector<std::byte>> good;
  for (Phys p : pages) good.emplace_back(world.machine.virt(p), world.machine.virt(p) + kPageSize);
  for (int round = 0; round < 600; ++round) {
    for (usize i = 0; i < pages.size(); ++i) memcpy(world.machine.virt(pages[i]), good[i].data(), kPageSize);
    for (int n = 1 + static_cast<int>(rng() % 3); n > 0; --n) {
      const usize page = rng() % pages.size();
      // Near something: a word that is not zero, or its neighbour.
      u64 at = 0;
      do {
        at = rng() % kPageSize;
      } while (page != 0 && good[page][at] == std::byte{0} && rng() % 2000 != 0);
      if (page == 0) at %= 0x100;
      world.machine.virt<u8>(pages[page])[at] ^= static_cast<u8>(1 << rng() % 8);
    }
    const auto r = world.jump_to(fdt);
    if (!r) {
      ++refused;
      EXPECT_EQ(r.error(), Errno::Eproto);
      continue;
    }
    ++taken;
    EXPECT_LE(world.frames().totals().kept, world.machine.ram_bytes() >> kPageShift);
    (void)world.kho().retrieve_subtree("LUO");
    (void)world.kho().restore(block, 3);
  }
  EXPECT_GT(refused, 200);
  EXPECT_GT(taken, 50);
}

}  // namespace
}  // namespace perdure
