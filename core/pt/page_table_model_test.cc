// Random operations against a map of leaves, over all formats, level counts and sets of leaf sizes.
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "core/pt/testing/table_world.h"

namespace perdure::pt {
namespace {

using namespace testing;

Geometry any_geometry() {
  const bool first_stage = *rc::gen::arbitrary<bool>();
  const u64 sizes =
      kPageSize | *rc::gen::element<u64>(0, kHugePageSize, kGiantPageSize, kHugePageSize | kGiantPageSize);
  Geometry g = first_stage ? x86(*rc::gen::element(4u, 5u), sizes) : vtd(*rc::gen::element(3u, 4u, 5u), sizes);
  g.coherent = *rc::gen::arbitrary<bool>();
  return g;
}

// Ranges meet often: few places, at borders of every level, in units of every leaf size.
struct Range {
  u64 iova;
  u64 length;
};
Range any_range(const Geometry& g) {
  const u64 end = u64{1} << g.iova_bits;
  const unsigned shift = *rc::gen::element(12u, 21u, 30u, 39u, 48u);
  const u64 border = *rc::gen::inRange<u64>(0, 4) << shift;
  const u64 unit = *rc::gen::element(kPageSize, kPageSize, kHugePageSize, kGiantPageSize);
  const u64 count = *rc::gen::inRange<u64>(1, unit == kPageSize ? 700 : unit == kHugePageSize ? 6 : 3);
  const u64 back = *rc::gen::inRange<u64>(0, 4) * *rc::gen::element(kPageSize, unit);
  const u64 tail = *rc::gen::weightedElement<u64>({{3, 0}, {1, 1}}) * kPageSize;
  const u64 iova = (border >= back ? border - back : border) % end;
  return {iova, std::min(count * unit + tail, end - iova)};
}

// The leaves that a range makes; a test must end.
bool affordable(const Geometry& g, const Range& r, u64 phys) {
  const u64 differ = r.iova ^ phys;
  u64 leaf = kPageSize;
  for (u64 s : {kHugePageSize, kGiantPageSize}) {
    if ((g.leaf_sizes & s) != 0 && (differ & (s - 1)) == 0) leaf = s;
  }
  return r.length / leaf <= 1500 && (leaf == kPageSize || r.length / leaf <= 64);
}

RC_GTEST_PROP(PageTableModel, BehavesAsAMapOfLeaves, ()) {
  TableWorld w;
  const Geometry g = any_geometry();
  auto t = w.table(g);
  TableModel model(g);
  const unsigned steps = *rc::gen::inRange(1u, 24u);
  for (unsigned i = 0; i < steps; ++i) {
    const Range r = any_range(g);
    switch (*rc::gen::weightedElement<int>({{5, 0}, {3, 1}, {2, 2}})) {
      case 0: {
        const u64 offset = *rc::gen::element<u64>(0, 0, kPageSize, kHugePageSize, kGiantPageSize);
        const u64 phys = (u64{1} << 40) + r.iova % (u64{1} << 40) + offset;
        const auto access = g.format == FormatId::VtdSecondStage
                                ? *rc::gen::element(Access::Read, Access::Write, Access::ReadWrite)
                                : *rc::gen::element(Access::Read, Access::ReadWrite);
        if (!affordable(g, r, phys)) break;
        const Result<void> mapped = t->map(Iova(r.iova), Phys(phys), r.length, access);
        if (model.overlaps(r.iova, r.length)) {
          RC_ASSERT(!mapped && mapped.error() == Errno::Eaddrinuse);
        } else {
          RC_ASSERT(mapped.has_value());
          model.map(r.iova, phys, r.length, static_cast<unsigned>(access));
        }
        break;
      }
      case 1: RC_ASSERT(unmap_now(*t, r.iova, r.length) == model.unmap(r.iova, r.length)); break;
      case 2: {
        // Two unmaps into one gather, then one flush.
        const Range s = any_range(g);
        Gather gather;
        const u64 bytes = model.unmap(r.iova, r.length) + model.unmap(s.iova, s.length);
        RC_ASSERT(t->unmap(Iova(r.iova), r.length, gather) + t->unmap(Iova(s.iova), s.length, gather) == bytes);
        t->release(gather);
        break;
      }
    }
    const u64 probe = r.iova + *rc::gen::inRange<u64>(0, r.length);
    const Result<Leaf> leaf = t->leaf_at(Iova(probe));
    auto at = model.leaves().upper_bound(probe);
    if (at == model.leaves().begin() || probe - (--at)->first >= at->second.length) {
      RC_ASSERT(!leaf && leaf.error() == Errno::Enoent);
    } else {
      RC_ASSERT(leaf.has_value());
      RC_ASSERT(leaf->iova.value == at->first);
      RC_ASSERT(leaf->phys.value == at->second.phys);
      RC_ASSERT(leaf->length == at->second.length);
    }
  }
  expect_equals(w, *t, model);
  RC_ASSERT(!::testing::Test::HasFailure());
}

}  // namespace
}  // namespace perdure::pt
