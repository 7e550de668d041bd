// Comparisons that other layers make, too: here alone, so that each is known to work.
#include "core/iommufd/ioas.h"

#include "core/iommufd/testing/iommufd_world.h"

namespace perdure::testing {
namespace {

using iommufd::HwptAudit;
using iommufd::Ioas;
using iommufd::RecordedArea;
using iommufd::Source;

constexpr u64 kMiB = u64{1} << 20;

class IoasTest : public ::testing::Test {
 protected:
  void map(u64 iova, const IommufdWorld::Memfd& memfd, u64 offset, u64 length, Access access = Access::ReadWrite) {
    Source source(w.heap());
    source.start = offset;
    source.writable = true;
    ASSERT_TRUE(source.pieces.push_back({memfd.memory, offset, length}));
    const Iova at(iova);
    ASSERT_TRUE(ioas->map(std::move(source), length, &at, access));
  }
  // Of several stretches, as a program's address space may have them.
  void map_pieces(u64 iova, std::initializer_list<iommufd::Piece> pieces) {
    Source source(w.heap());
    source.kind = Source::Kind::User;
    source.writable = true;
    u64 length = 0;
    for (const iommufd::Piece& piece : pieces) {
      ASSERT_TRUE(source.pieces.push_back(piece));
      length += piece.length;
    }
    const Iova at(iova);
    ASSERT_TRUE(ioas->map(std::move(source), length, &at, Access::ReadWrite));
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

TEST_F(IoasTest, EqualAreasLookIntoPieces) {
  map_pieces(0x10000, {{m.memory, 0, 0x2000}, {n.memory, 0x2000, 0x2000}, {m.memory, 0x4000, 0x2000}});
  EXPECT_TRUE(equal({Iova(0x10000), 0x2000, Access::ReadWrite, m.memory, 0}));
  EXPECT_TRUE(equal({Iova(0x13000), 0x1000, Access::ReadWrite, n.memory, 0x3000}));
  EXPECT_TRUE(equal({Iova(0x14000), 0x2000, Access::ReadWrite, m.memory, 0x4000}));
  EXPECT_FALSE(equal({Iova(0x10000), 0x6000, Access::ReadWrite, m.memory, 0})) << "another file in between";
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
    Source source(w.heap());
    EXPECT_TRUE(source.pieces.push_back({n.memory, 0, kPageSize}));
    const Iova at(8 * kMiB);
    return error_of(ioas->map(std::move(source), kPageSize, &at, Access::Read));
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
