// The tree of areas against std::map, and its balance.
#include <rapidcheck.h>

#include <cmath>

#include "core/iommufd/area.h"
#include "core/iommufd/object.h"
#include "core/iommufd/reserved.h"
#include "tests/support/test_machine.h"

namespace perdure::iommufd {
namespace {

class AreaMapTest : public ::testing::Test {
 protected:
  AreaMapTest() {
    const Extent ram[] = {{Phys(0), machine.window}};
    EXPECT_TRUE(frames.init(ram, {}, {}));
    frames.open();
  }
  test::TestMachine machine;
  FrameAllocator frames{machine};
  Heap heap{frames};

  std::unique_ptr<Area> area(u64 iova, u64 length) {
    return std::make_unique<Area>(Iova(iova), length, Access::Read, Ref<Pages>(), 0);
  }
};

TEST_F(AreaMapTest, BehavesLikeAnOrderedMap) {
  const bool passed = rc::check([&] {
    AreaMap map;
    std::map<u64, std::unique_ptr<Area>> model;
    const auto steps = *rc::gen::container<std::vector<std::pair<u8, u16>>>(rc::gen::arbitrary<std::pair<u8, u16>>());
    for (const auto& [what, where] : steps) {
      const u64 first = u64{where} * 16;
      const u64 length = 1 + what % 40;
      // The model's answer: the first area that ends at or after `first`.
      auto at = model.upper_bound(first);
      if (at != model.begin() && std::prev(at)->second->last().value >= first) --at;
      RC_ASSERT(map.lower_bound(Iova(first)) == (at == model.end() ? nullptr : at->second.get()));
      const bool overlaps = at != model.end() && at->first <= first + (length - 1);
      RC_ASSERT((map.find(Iova(first), Iova(first + (length - 1))) != nullptr) == overlaps);
      if (overlaps) {
        map.remove(*at->second);
        model.erase(at);
      } else {
        map.insert(*(model[first] = area(first, length)));
      }
    }
    const Area* walked = map.first();
    for (const auto& [iova, expected] : model) {
      RC_ASSERT(walked == expected.get());
      walked = AreaMap::next(*walked);
    }
    RC_ASSERT(walked == nullptr);
    RC_ASSERT(map.empty() == model.empty());
  });
  EXPECT_TRUE(passed);
}

// In the order that would make a list of an unbalanced tree: a million steps of lookups show it.
TEST_F(AreaMapTest, StaysBalancedUnderAscendingInsertAndRemove) {
  constexpr u64 kAreas = 20000;
  AreaMap map;
  std::vector<std::unique_ptr<Area>> areas;
  for (u64 i = 0; i < kAreas; ++i) map.insert(*areas.emplace_back(area(i * 8, 8)));
  for (u64 i = 0; i < kAreas; i += 2) map.remove(*areas[i]);
  const u64 left = kAreas / 2;
  EXPECT_LE(map.depth(), 1.4405 * std::log2(static_cast<double>(left) + 2));
  const Area* at = map.first();
  for (u64 i = 1; i < kAreas; i += 2, at = AreaMap::next(*at)) ASSERT_EQ(at, areas[i].get());
  EXPECT_EQ(at, nullptr);
}

TEST_F(AreaMapTest, FindsAtTheEndsOfTheAddressSpace) {
  AreaMap map;
  auto low = area(0, 1);
  auto high = area(~u64{0}, 1);
  map.insert(*low);
  map.insert(*high);
  EXPECT_EQ(map.find(Iova(0), Iova(~u64{0})), low.get());
  EXPECT_EQ(map.find(Iova(1), Iova(~u64{0})), high.get());
  EXPECT_EQ(map.find(Iova(1), Iova(~u64{0} - 1)), nullptr);
}

// --- reserved ranges ---------------------------------------------------------------------------------------------

std::vector<std::pair<u64, u64>> gaps(const ReservedSet& set) {
  std::vector<std::pair<u64, u64>> out;
  EXPECT_TRUE(set.each_gap([&](IovaRange r) -> Result<void> {
    out.emplace_back(r.first, r.last);
    return {};
  }));
  return out;
}

TEST_F(AreaMapTest, ReservedRangesMayOverlapAndGoWithTheirOwner) {
  ReservedSet set(heap);
  const int a = 0, b = 0, c = 0;
  using Gaps = std::vector<std::pair<u64, u64>>;
  EXPECT_EQ(gaps(set), (Gaps{{0, ~u64{0}}}));
  ASSERT_TRUE(set.add(&a, {100, 200}));
  ASSERT_TRUE(set.add(&b, {150, 160}));
  ASSERT_TRUE(set.add(&c, {201, 300}));
  ASSERT_TRUE(set.add(&a, {1000, ~u64{0}}));
  EXPECT_EQ(gaps(set), (Gaps{{0, 99}, {301, 999}}));
  EXPECT_NE(set.find(155, 155), nullptr);
  EXPECT_EQ(set.find(301, 999), nullptr);
  EXPECT_NE(set.find(0, 100), nullptr);
  set.remove(&a);
  EXPECT_FALSE(set.owned_by(&a));
  EXPECT_EQ(gaps(set), (Gaps{{0, 149}, {161, 200}, {301, ~u64{0}}}));
  ASSERT_TRUE(set.add(&a, {0, ~u64{0}}));
  EXPECT_EQ(gaps(set), Gaps{});
}

// --- object ids --------------------------------------------------------------------------------------------------

TEST_F(AreaMapTest, IdsAreTheLowestFreeFromOne) {
  class Thing : public Object {
   public:
    Thing() : Object(ObjectType::Ioas) {}
  };
  ObjectTable table(heap);
  const auto make = [&] {
    const u32 id = *table.reserve();
    table.finalize(id, *heap.make_ref<Thing>());
    return id;
  };
  EXPECT_EQ(make(), 1u);
  EXPECT_EQ(make(), 2u);
  EXPECT_EQ(make(), 3u);
  EXPECT_EQ(table.find(0), nullptr);
  EXPECT_EQ(table.find(4), nullptr);
  EXPECT_EQ(table.find(~u32{0}), nullptr);
  table.remove(2);
  EXPECT_EQ(table.find(2), nullptr);
  // Reserved is neither found nor given out again.
  const u32 reserved = *table.reserve();
  EXPECT_EQ(reserved, 2u);
  EXPECT_EQ(table.find(2), nullptr);
  EXPECT_EQ(make(), 4u);
  table.release(reserved);
  table.remove(1);
  EXPECT_EQ(make(), 1u);
  EXPECT_EQ(make(), 2u);
  EXPECT_EQ(table.next(0)->id(), 1u);
  EXPECT_EQ(table.next(3)->id(), 4u);
  EXPECT_EQ(table.next(4), nullptr);
  for (u32 id = 1; id <= 4; ++id) table.remove(id);
}

}  // namespace
}  // namespace perdure::iommufd
