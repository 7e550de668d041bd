#include "core/mem/heap.h"

#include <rapidcheck.h>

#include "core/mem/vec.h"
#include "tests/support/test_machine.h"

namespace perdure {
namespace {

struct HeapTest : testing::Test {
  HeapTest() {
    const Extent ram{Phys(0), machine.window};
    EXPECT_TRUE(frames.init({&ram, 1}, {}, {}));
    frames.open();
    before = frames.totals();
  }
  test::TestMachine machine{u64{32} << 20};
  FrameAllocator frames{machine};
  Heap heap{frames};
  FrameAllocator::Totals before;
};

TEST_F(HeapTest, AllocatesEverySizeAlignedAndGivesAllBack) {
  std::vector<std::pair<void*, usize>> held;
  for (usize bytes = 1; bytes <= 6000; bytes += bytes < 100 ? 1 : 97) {
    auto at = heap.allocate(bytes);
    ASSERT_TRUE(at);
    const u64 align = std::min<u64>(std::bit_ceil(bytes), kPageSize);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(*at) % align, 0u) << bytes;
    std::memset(*at, static_cast<int>(bytes), bytes);
    held.emplace_back(*at, bytes);
  }
  for (auto [at, bytes] : held) {
    for (usize i = 0; i < bytes; ++i) ASSERT_EQ(static_cast<unsigned char*>(at)[i], bytes & 0xff);
    heap.release(at, bytes);
  }
  EXPECT_EQ(heap.bytes_in_use(), 0u);
  heap.trim();
  EXPECT_EQ(frames.totals(), before);
}

}  // namespace
}  // namespace perdure
