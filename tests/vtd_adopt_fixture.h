// A unit that a former kernel left translating, ready for the jump, and what it looks like when its successor refuses
// it.
#pragma once
#include <cstring>

#include "tests/vtd_board_fixture.h"

namespace perdure::vtd {

class VtdAdoptTest : public VtdBoardTest {
 protected:
  u64* root_entry(u8 bus) { return world.machine.virt<u64>(Phys(record.root + bus * 16)); }

  // A unit with two requesters in one domain, ready for the jump.
  void prepare() {
    create();
    table = &domain();
    did = *unit->did_alloc();
    data = page();
    map(*table, did, 0x10'0000, data);
    ASSERT_TRUE(unit->set_entry(kStays, did, *table));
    ASSERT_TRUE(unit->set_entry(kSibling, did, *table));
    ASSERT_TRUE(unit->preserve(world.kho()));
    preserve(*table, {data});
    ASSERT_TRUE(unit->quiesce([](SourceId) { return true; }));
    unit->fill_record(record);
  }
  // The jump, and an adoption that must be refused with nothing touched.
  void expect_refused(std::string_view why) {
    jump();
    expect_refused_now(why);
  }
  void expect_refused_now(std::string_view why) {
    world.machine.lines.clear();
    const FrameAllocator::Totals before = world.frames().totals();
    const u64 heap_before = world.heap().bytes_in_use();
    const u64 writes = hw.register_writes;
    auto adopted = adopt(record);
    ASSERT_FALSE(adopted) << "expected to be refused: " << why;
    EXPECT_EQ(adopted.error(), Errno::Einval);
    EXPECT_EQ(hw.register_writes, writes) << "the unit was touched";
    EXPECT_EQ(world.frames().totals().kept, before.kept) << "a page was taken over";
    EXPECT_EQ(world.heap().bytes_in_use(), heap_before);
    EXPECT_NE(log().find(why), std::string::npos) << "not logged: " << why << "\n" << log();
    EXPECT_EQ(hw.te_off, 0u);
  }

  // Blocks that the next kernel would be handed.
  u64 keys() {
    u64 count = 0;
    for (u64 page = 0; page < world.machine.ram_bytes(); page += kPageSize) {
      for (unsigned order = 0; order < 4; ++order) count += world.kho().is_preserved(Phys(page), order) ? 1 : 0;
    }
    return count;
  }

  abi::IommuUnitRecord record;
  pt::IoPageTable* table = nullptr;
  u32 did = 0;
  Phys data;
};

// One of them per line of the table.
inline std::vector<Variant> variants_named(std::initializer_list<std::string_view> names) {
  std::vector<Variant> found;
  for (const Variant& v : all_variants()) {
    for (const std::string_view name : names) {
      if (v.name == name) found.push_back(v);
    }
  }
  EXPECT_EQ(found.size(), names.size());
  return found;
}

}  // namespace perdure::vtd
