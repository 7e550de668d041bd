// Comparisons that other layers make, too: here alone, so that each is known to work.
#include "core/iommufd/ioas.h"

#include "core/iommufd/testing/iommufd_world.h"

namespace perdure::testing {
namespace {

using iommufd::HwptAudit;
using iommufd::Ioas;
using iommufd::Pages;
using iommufd::RecordedArea;

constexpr u64 kMiB = u64{1} << 20;

class IoasTest : public ::testing::Test {
 protected:
  void map(u64 iova, const IommufdWorld::Memfd& memfd, u64 offset, u64 length, Access access = Access::ReadWrite) {
    const Iova at(iova);
    const Ioas::Slice slice = file_slice(memfd, offset, length);
    ASSERT_TRUE(ioas->map(w.task, {&slice, 1}, &at, access));
  }
  Ioas::Slice file_slice(const IommufdWorld::Memfd& memfd, u64 offset, u64 length) {
    return {*w.heap().make_ref<Pages>(w.heap(), memfd.memory, memfd.memory->seals(), offset, length, true,
                                      *w.module->accounts.payer(w.task, iommufd::Accounting::User)),
            0, length};
  }
  bool equal(const RecordedArea& area) {
    bool called = false;
    const Result<void> result = ioas->with_equal_areas(std::span(&area, 1), [&]() -> Result<void> {
      called = true;
      return {};
    });
    EXPECT_EQ(called, result.has_value());
    return called;
  }
  IommufdWorld w;
  Ref<Ioas> ioas = *w.heap().make_ref<Ioas>(w.heap());
  IommufdWorld::Memfd m = w.memfd(4 * kMiB), n = w.memfd(4 * kMiB);
};

TEST_F(IoasTest, EqualAreasHaveTheSameMemoryOffsetAndAccessThroughout) {
  map(0x10000, m, 0x4000, 0x4000);
  map(0x14000, m, 0x8000, 0x1000);
  map(0x16000, m, 0xa000, 0x1000);
  map(0x17000, m, 0xb000, 0x1000, Access::Read);
  const auto recorded = [&](u64 iova, u64 length, u64 offset, Access access = Access::ReadWrite) {
    return RecordedArea{Iova(iova), length, access, m.memory, offset};
  };
  EXPECT_TRUE(equal(recorded(0x10000, 0x4000, 0x4000)));
  EXPECT_TRUE(equal(recorded(0x11000, 0x1000, 0x5000))) << "part of one";
  EXPECT_TRUE(equal(recorded(0x12000, 0x3000, 0x6000))) << "parts of two that meet";
  EXPECT_TRUE(equal(recorded(0x17000, 0x1000, 0xb000, Access::Read)));
  EXPECT_FALSE(equal(recorded(0x17000, 0x1000, 0xb000))) << "less access";
  EXPECT_FALSE(equal(recorded(0x16000, 0x2000, 0xa000))) << "less access in the second half";
  EXPECT_FALSE(equal(recorded(0x10000, 0x1000, 0x4000, Access::Read))) << "more access";
  EXPECT_FALSE(equal(recorded(0x10000, 0x1000, 0x5000))) << "another offset";
  EXPECT_FALSE(equal(recorded(0x13000, 0x2000, 0x6000))) << "another offset";
  EXPECT_FALSE(equal(recorded(0x14000, 0x3000, 0x8000))) << "a hole in the middle";
  EXPECT_FALSE(equal(recorded(0xf000, 0x2000, 0x3000))) << "a hole at the start";
  EXPECT_FALSE(equal(recorded(0x17000, 0x2000, 0xb000, Access::Read))) << "a hole at the end";
  EXPECT_FALSE(equal(recorded(0x90000, 0x1000, 0x4000))) << "nothing";
  RecordedArea other = recorded(0x10000, 0x1000, 0x4000);
  other.memory = n.memory;
  EXPECT_FALSE(equal(other)) << "another file";
}

TEST_F(IoasTest, EqualAreasLookIntoWhatIsPinned) {
  w.task.map_shared(UserAddr(0x100000), 0x2000, m.memory, 0);
  w.task.map_shared(UserAddr(0x102000), 0x2000, n.memory, 0x2000);
  w.task.map_shared(UserAddr(0x104000), 0x2000, m.memory, 0x4000);
  const Ioas::Slice slice{*w.heap().make_ref<Pages>(w.heap(), 0x100000, 0x6000, true,
                                                    *w.module->accounts.payer(w.task, iommufd::Accounting::User)),
                          0, 0x6000};
  const Iova at(0x10000);
  ASSERT_TRUE(ioas->map(w.task, {&slice, 1}, &at, Access::ReadWrite));
  EXPECT_FALSE(equal({Iova(0x10000), 0x2000, Access::ReadWrite, m.memory, 0})) << "nobody looked yet";
  ASSERT_TRUE(slice.pages->pin(w.task, 0, 0x6000));
  EXPECT_TRUE(equal({Iova(0x10000), 0x2000, Access::ReadWrite, m.memory, 0}));
  EXPECT_TRUE(equal({Iova(0x13000), 0x1000, Access::ReadWrite, n.memory, 0x3000}));
  EXPECT_TRUE(equal({Iova(0x14000), 0x2000, Access::ReadWrite, m.memory, 0x4000}));
  EXPECT_FALSE(equal({Iova(0x10000), 0x6000, Access::ReadWrite, m.memory, 0})) << "another file in between";
  slice.pages->unpin(0, 0x6000);
}

TEST_F(IoasTest, AuditComparesEachLeafAndCountsThem) {
  std::vector<FileExtent> extents;
  ASSERT_TRUE(m.memory->extents(0, 4 * kMiB, [&](const FileExtent& e) -> Result<void> {
    extents.push_back(e);
    return {};
  }));
  const Phys base = extents.at(0).base;
  const RecordedArea areas[] = {{Iova(kMiB), 0x2000, Access::ReadWrite, m.memory, 0x1000},
                                {Iova(2 * kMiB), 0x200000, Access::Read, m.memory, 0x200000}};
  HwptAudit audit(w.heap());
  ASSERT_TRUE(audit.expect(areas));
  Ref<PagingDomain> domain = w.iommu.domain();
  const auto leaf = [&](u64 iova, Phys phys, u64 length = kPageSize, Access access = Access::ReadWrite) {
    return audit.expected(*domain, {Iova(iova), phys, length, access});
  };
  EXPECT_FALSE(audit.complete()) << "none was made";
  EXPECT_TRUE(leaf(kMiB, base + 0x1000));
  EXPECT_TRUE(leaf(kMiB + 0x1000, base + 0x2000));
  EXPECT_FALSE(audit.complete()) << "the second area is missing";
  EXPECT_TRUE(leaf(2 * kMiB, base + 0x200000, 0x200000, Access::Read));
  EXPECT_TRUE(audit.complete());
  // Again from the start.
  EXPECT_TRUE(leaf(kMiB, base + 0x1000));
  EXPECT_FALSE(audit.complete());
  EXPECT_FALSE(leaf(kMiB + 0x1000, base + 0x3000)) << "elsewhere in the same memory";
  EXPECT_FALSE(leaf(kMiB + 0x2000, base + 0x3000)) << "beyond the area";
  EXPECT_FALSE(leaf(2 * kMiB, base + 0x200000, 0x200000)) << "more access";
  EXPECT_FALSE(leaf(2 * kMiB, base + 0x200000, 0x400000, Access::Read)) << "reaches further";
  EXPECT_FALSE(leaf(8 * kMiB, base)) << "where nothing is";
  EXPECT_FALSE(leaf(0, base)) << "before the first area";
}

// R43: counted, and given back exactly.
TEST_F(IoasTest, ImmutableWhileAnyRecordHoldsIt) {
  map(kMiB, m, 0, kMiB);
  const auto try_map = [&] {
    const Ioas::Slice slice = file_slice(n, 0, kPageSize);
    const Iova at(8 * kMiB);
    return error_of(ioas->map(w.task, {&slice, 1}, &at, Access::Read));
  };
  const auto try_unmap = [&](u64 iova) {
    Ioas::AreaList removed;
    const Errno error = error_of(ioas->unmap(Iova(iova), Iova(iova + kMiB - 1), removed));
    Ioas::release_areas(w.heap(), removed);
    return error;
  };
  ioas->hold_immutable();
  ioas->hold_immutable();
  for (int holds = 2; holds > 0; --holds) {
    EXPECT_EQ(try_map(), Errno::Ebusy);
    EXPECT_EQ(try_unmap(kMiB), Errno::Ebusy);
    ioas->release_immutable();
  }
  EXPECT_EQ(try_map(), Errno{});
  EXPECT_EQ(try_unmap(8 * kMiB), Errno{});
  EXPECT_EQ(try_unmap(kMiB), Errno{});
}

}  // namespace
}  // namespace perdure::testing
