#include "metal/survivors.h"

#include <set>

#include "core/kho/kho.h"
#include "core/mem/heap.h"
#include "tests/support/test_machine.h"

namespace perdure::metal {

namespace {
std::set<u64> written_blocks;
}

// Stands in for what the processor notes in its page tables.
bool written(Phys base) {
  return written_blocks.contains(base.value / kHugePageSize);
}

namespace {

constexpr u64 kRam = u64{64} << 20;

class SurvivorsTest : public testing::Test {
 protected:
  SurvivorsTest() {
    facts.region[0] = {0, kRam, 1};
    facts.regions = 1;
    written_blocks.clear();
    for (u64 block = 0; block < kRam / kHugePageSize; ++block) written_blocks.insert(block);
    const Extent ram{Phys(0), kRam};
    const Extent scratch{Phys(u64{4} << 20), u64{8} << 20};
    EXPECT_TRUE(frames.init({&ram, 1}, {}, {&scratch, 1}));
    frames.open();
    EXPECT_TRUE(kho.init(Phys(), 52));
  }
  bool poisoned(Phys page) const {
    const u64* words = machine.virt<const u64>(page);
    return std::all_of(words, words + kPageSize / 8, [](u64 w) { return w == 0x0BAD'0BAD'0BAD'0F87; });
  }
  bool touched(Phys page) const {
    const u64* words = machine.virt<const u64>(page);
    return std::any_of(words, words + kPageSize / 8, [](u64 w) { return w == 0x0BAD'0BAD'0BAD'0F87; });
  }
  void poison(const Survivors& survivors) {
    const abi::MemoryMapEntry map[] = {{.base = 0, .length = kRam, .type = static_cast<u32>(abi::MemoryType::Ram)}};
    survivors.poison_others(map, boot);
  }

  test::TestMachine machine{kRam};
  Facts facts;
  abi::BootInfo boot;
  // A kernel that was left: what it had in memory is gone, and nothing of it is ever taken down.
  FrameAllocator& frames = *new FrameAllocator(machine);
  Heap& heap = *new Heap(frames);
  Kho& kho = *new Kho(heap);
};

TEST_F(SurvivorsTest, OnlyWhatIsHandedOverIsLeft) {
  const Phys kept = *kho.alloc_preserved(3 * kPageSize);
  const Phys lost = *frames.alloc(0);
  std::memset(machine.virt(kept), 0x11, 4 * kPageSize);
  std::memset(machine.virt(lost), 0x22, kPageSize);
  Survivors survivors(machine, facts);
  survivors.keep_handover(kho.outgoing_fdt());
  survivors.keep(Phys(u64{40} << 20), 1);
  poison(survivors);
  for (u64 page = 0; page < 4; ++page) EXPECT_FALSE(touched(kept + page * kPageSize)) << page;
  EXPECT_TRUE(poisoned(lost));
  EXPECT_TRUE(poisoned(Phys(u64{5} << 20))) << "unused scratch memory, too";
  EXPECT_FALSE(touched(Phys(u64{40} << 20)));
  EXPECT_TRUE(poisoned(Phys((u64{40} << 20) + kPageSize)));
  // The pages that say so are not in the tree, and are there.
  Survivors again(machine, facts);
  again.keep_handover(kho.outgoing_fdt());
  EXPECT_TRUE(again.any(kept, kPageSize));
  EXPECT_FALSE(again.any(lost, kPageSize));
}

TEST_F(SurvivorsTest, WhatNobodyWroteToIsNotFilledButWhatWasInheritedIs) {
  const Phys inherited = *kho.alloc_preserved(kPageSize);
  std::memset(machine.virt(inherited), 0x11, kPageSize);
  // The next kernel, which freed it and never wrote there.
  boot.kho_fdt = kho.outgoing_fdt().value;
  written_blocks.clear();
  const Phys elsewhere(u64{48} << 20);
  std::memset(machine.virt(elsewhere), 0x33, kPageSize);
  Survivors survivors(machine, facts);
  poison(survivors);
  EXPECT_TRUE(poisoned(inherited));
  EXPECT_FALSE(touched(elsewhere));
}

TEST_F(SurvivorsTest, LongStretchesAreKeptToTheirEnds) {
  for (const u64 first : {u64{0}, u64{1}, u64{63}, u64{64}, u64{100}}) {
    for (const u64 pages : {u64{1}, u64{63}, u64{64}, u64{65}, u64{200}}) {
      Survivors survivors(machine, facts);
      survivors.keep(Phys(first * kPageSize), pages * kPageSize);
      for (u64 page = 0; page < 400; ++page) {
        EXPECT_EQ(survivors.any(Phys(page * kPageSize), kPageSize), page >= first && page < first + pages)
            << first << " " << pages << " " << page;
      }
    }
  }
}

}  // namespace
}  // namespace perdure::metal
