#include "core/iommu/graft.h"

#include <rapidcheck/gtest.h>

#include <optional>

#include "tests/support/test_machine.h"

namespace perdure::testing {
namespace {

struct Page {
  u64 phys;
  Access access;
};
using Pages = std::map<u64, Page>;  // by IOVA

struct Tables {
  Tables() {
    const Extent all{Phys(u64{1} << 20), (u64{64} << 20) - (u64{1} << 20)};
    if (!frames.init({&all, 1}, {}, {})) throw std::runtime_error("frames");
    frames.open();
  }
  Owned<pt::IoPageTable> table(const Pages& pages) {
    Owned<pt::IoPageTable> t = std::move(
        *pt::create(heap, {pt::FormatId::VtdSecondStage, 4, 48, 46, kPageSize | kHugePageSize | kGiantPageSize, true}));
    for (const auto& [iova, page] : pages) {
      if (!t->map(Iova(iova), Phys(page.phys), kPageSize, page.access)) throw std::runtime_error("map");
    }
    return t;
  }
  test::TestMachine machine{u64{64} << 20};
  FrameAllocator frames{machine};
  Heap heap{frames};
};

// The definition, page by page.
std::optional<u64> first_difference(const Pages& live, const Pages& fresh) {
  for (const auto& [iova, page] : live) {
    const auto at = fresh.find(iova);
    if (at == fresh.end() || at->second.phys != page.phys || !includes(at->second.access, page.access)) return iova;
  }
  return {};
}

RC_GTEST_PROP(Graft, AcceptsExactlyTablesWithTheSameResults, ()) {
  // Pages around table borders, over few physical pages, so that runs form and break everywhere.
  const auto any_pages = [](Pages& pages, unsigned most) {
    const auto count = *rc::gen::inRange(0u, most);
    for (unsigned i = 0; i < count; ++i) {
      const u64 start = *rc::gen::element(u64{0}, kHugePageSize - 3 * kPageSize, kGiantPageSize - 2 * kPageSize) +
                        *rc::gen::inRange<u64>(0, 6) * kPageSize;
      const u64 length = *rc::gen::inRange<u64>(1, 6);
      const u64 phys = *rc::gen::inRange<u64>(0, 3) * 0x100000 + start % 0x10000;
      const auto access = static_cast<Access>(*rc::gen::inRange(1, 4));
      for (u64 k = 0; k < length; ++k) pages[start + k * kPageSize] = {phys + k * kPageSize, access};
    }
  };
  Pages live;
  any_pages(live, 5);
  Pages fresh = live;
  const auto changes = *rc::gen::inRange(0, 3);
  for (int i = 0; i < changes; ++i) {
    if (fresh.empty() || *rc::gen::inRange(0, 3) == 0) {
      any_pages(fresh, 2);
      continue;
    }
    auto at = std::next(fresh.begin(), *rc::gen::inRange<long>(0, static_cast<long>(fresh.size())));
    switch (*rc::gen::inRange(0, 3)) {
      case 0: fresh.erase(at); break;
      case 1: at->second.phys += kPageSize; break;
      default: at->second.access = static_cast<Access>(*rc::gen::inRange(1, 4));
    }
  }
  Tables t;
  const auto a = t.table(live), b = t.table(fresh);
  Iova at;
  const Result<u64> same = check_same_results(*a, *b, at);
  const auto difference = first_difference(live, fresh);
  RC_ASSERT(same.has_value() == !difference.has_value());
  if (same) {
    RC_ASSERT(*same == live.size() * kPageSize);
  } else {
    RC_ASSERT(same.error() == Errno::Einval);
  }
}

TEST(Graft, NamesTheFirstDifference) {
  Tables t;
  const auto live = t.table({{0x1000, {0x5000, Access::Read}}, {0x2000, {0x6000, Access::Read}}});
  const auto hole = t.table({{0x1000, {0x5000, Access::Read}}});
  Iova at;
  EXPECT_EQ(check_same_results(*live, *hole, at).error(), Errno::Einval);
  EXPECT_EQ(at, Iova(0x2000));
  const auto more = t.table({{0, {0x4000, Access::Read}},
                             {0x1000, {0x5000, Access::ReadWrite}},
                             {0x2000, {0x6000, Access::ReadWrite}},
                             {0x3000, {0x7000, Access::Read}}});
  EXPECT_EQ(*check_same_results(*live, *more, at), 0x2000u);
  EXPECT_EQ(check_same_results(*more, *live, at).error(), Errno::Einval);
}

}  // namespace
}  // namespace perdure::testing
