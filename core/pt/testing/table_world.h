// A machine with nothing but RAM, and what tests of page tables do again and again.
#pragma once
#include <gtest/gtest.h>

#include "core/mem/heap.h"
#include "core/pt/direct_memory.h"
#include "core/pt/page_table.h"
#include "core/pt/testing/hardware_walker.h"
#include "core/pt/testing/recording_memory.h"
#include "core/pt/testing/table_model.h"
#include "core/pt/vtd_second_stage.h"
#include "core/pt/x86_first_stage.h"
#include "tests/support/test_machine.h"

namespace perdure::pt::testing {

inline constexpr u64 kAllLeafSizes = kPageSize | kHugePageSize | kGiantPageSize;

inline Geometry vtd(unsigned levels, u64 leaf_sizes = kAllLeafSizes, bool coherent = true) {
  return {
      FormatId::VtdSecondStage, static_cast<u8>(levels), static_cast<u8>(12 + 9 * levels), 46, leaf_sizes, coherent};
}
inline Geometry x86(unsigned levels, u64 leaf_sizes = kAllLeafSizes) {
  return {FormatId::X86FirstStage, static_cast<u8>(levels), static_cast<u8>(11 + 9 * levels), 46, leaf_sizes, true};
}

struct TableWorld {
  static constexpr u64 kRam = u64{256} << 20;
  explicit TableWorld(u64 ram = kRam) : machine(ram) {
    const Extent all{Phys(u64{1} << 20), ram - (u64{1} << 20)};
    if (!frames.init({&all, 1}, {}, {})) throw std::runtime_error("frames");
    frames.open();
  }

  Owned<IoPageTable> table(const Geometry& geometry) {
    Result<Owned<IoPageTable>> made = create(heap, geometry);
    if (!made) throw std::runtime_error("create");
    return std::move(*made);
  }
  // RAM as it is now.
  u64 word(u64 at) const { return hw::load(machine.virt<u64>(Phys(at))); }
  HardwareWalker walker(IoPageTable& t) {
    return HardwareWalker(
        t.geometry(), [this](u64 at) { return word(at); },
        [&t](u64 page) { return page == t.top().value || t.arena().owns(Phys(page)); });
  }

  test::TestMachine machine;
  FrameAllocator frames{machine};
  Heap heap{frames};
};

template <class Format>
Owned<PageTable<Format, RecordingMemory>> recorded_table(TableWorld& world, const Geometry& geometry,
                                                         Recorder& recorder) {
  auto made = PageTable<Format, RecordingMemory>::create(world.heap, geometry,
                                                         RecordingMemory(world.machine, geometry.coherent, recorder));
  if (!made) throw std::runtime_error("create");
  return std::move(*made);
}

inline std::map<u64, Stretch> leaves_of(const IoPageTable& t) {
  std::map<u64, Stretch> found;
  const Result<void> all = t.each_leaf(Iova(0), ~u64{0}, [&](const Leaf& leaf) -> Result<void> {
    found[leaf.iova.value] = {leaf.length, leaf.phys.value, static_cast<unsigned>(leaf.access)};
    return {};
  });
  EXPECT_TRUE(all);
  return found;
}

inline Translation runs_of(const IoPageTable& t, u64 iova = 0, u64 length = ~u64{0}) {
  Translation found;
  u64 runs = 0;
  EXPECT_TRUE(t.each_run(Iova(iova), length, [&](const Leaf& run) -> Result<void> {
    found.append(run.iova.value, {run.length, run.phys.value, static_cast<unsigned>(run.access)});
    ++runs;
    return {};
  }));
  EXPECT_EQ(found.stretches().size(), runs) << "runs that could have been joined";
  return found;
}

inline u64 tables_of(const IoPageTable& t) {
  u64 n = 0;
  EXPECT_TRUE(t.each_table([&](Phys, unsigned) -> Result<void> {
    ++n;
    return {};
  }));
  return n;
}

// Unmaps as a domain does, with the flush left out.
inline u64 unmap_now(IoPageTable& t, u64 iova, u64 length) {
  Gather gather;
  const u64 bytes = t.unmap(Iova(iova), length, gather);
  t.release(gather);
  EXPECT_EQ(gather.count, 0u);
  return bytes;
}

// The table at rest, in every view there is of it.
inline void expect_equals(TableWorld& world, IoPageTable& t, const TableModel& model) {
  HardwareWalker walker = world.walker(t);
  const Translation seen = walker.walk(t.top());
  EXPECT_EQ(walker.faults(), "");
  EXPECT_EQ(walker.empty_tables(), 0u);
  EXPECT_EQ(seen, model.translation());
  EXPECT_EQ(leaves_of(t), model.leaves());
  EXPECT_EQ(runs_of(t), model.translation());
  EXPECT_EQ(tables_of(t), model.tables() + 1);
  EXPECT_EQ(t.arena().pages_in_use(), model.tables());
}

}  // namespace perdure::pt::testing
