#include "core/vtd/did_space.h"

#include <set>

#include "tests/support/test_machine.h"

namespace perdure::vtd {
namespace {

struct DidSpaceTest : testing::Test {
  DidSpaceTest() {
    const Extent ram{Phys(0), machine.window};
    EXPECT_TRUE(frames.init({&ram, 1}, {}, {}));
    frames.open();
  }
  test::TestMachine machine;
  FrameAllocator frames{machine};
  Heap heap{frames};
};

TEST_F(DidSpaceTest, GivesEveryDynamicIdOnceAndNoOther) {
  for (const u32 limit : {16u, 64u, 256u, 65536u}) {
    DidSpace dids(heap);
    ASSERT_TRUE(dids.init(limit));
    std::set<u32> seen;
    for (;;) {
      auto did = dids.alloc();
      if (!did) {
        EXPECT_EQ(did.error(), Errno::Enospc);
        break;
      }
      EXPECT_GE(*did, kFirstDynamicDid);
      EXPECT_LT(*did, limit);
      EXPECT_TRUE(seen.insert(*did).second) << *did;
    }
    EXPECT_EQ(seen.size(), limit - kFirstDynamicDid);
    dids.free(limit - 1);
    EXPECT_EQ(*dids.alloc(), limit - 1);
  }
}

// R01: the values that a record may claim.
TEST_F(DidSpaceTest, RefusesRecordedIdsOutOfRange) {
  DidSpace dids(heap);
  ASSERT_TRUE(dids.init(256));
  for (const u64 did : {u64{0}, u64{1}, u64{256}, u64{1} << 16, (u64{1} << 32) + 5, u64{1} << 63}) {
    auto reserved = dids.reserve(did);
    ASSERT_FALSE(reserved) << did;
    EXPECT_EQ(reserved.error(), Errno::Erange);
    EXPECT_FALSE(dids.taken(did));
  }
  EXPECT_TRUE(dids.reserve(2));
  EXPECT_TRUE(dids.reserve(255));
  EXPECT_EQ(dids.reserve(255).error(), Errno::Eexist);
  std::set<u32> rest;
  while (auto did = dids.alloc()) rest.insert(*did);
  EXPECT_EQ(rest.size(), 252u);
  EXPECT_FALSE(rest.contains(2) || rest.contains(255));
}

TEST_F(DidSpaceTest, AFreedIdIsNotTheNextOne) {
  DidSpace dids(heap);
  ASSERT_TRUE(dids.init(64));
  const u32 first = *dids.alloc();
  dids.free(first);
  EXPECT_NE(*dids.alloc(), first);
}

}  // namespace
}  // namespace perdure::vtd
