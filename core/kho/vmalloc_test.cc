#include "core/kho/vmalloc.h"

#include <list>

#include "tests/support/handover.h"

namespace perdure::kho {
namespace {

using test::Handover;

class Arrays : public ::testing::Test {
 protected:
  VmallocDescriptor write(u64 bytes) {
    auto made = PreservedArray::create(world.kho(), bytes);
    if (!made) throw std::runtime_error("create");
    PreservedArray& array = kept.emplace_back().make(std::move(*made));
    for (u64 at = 0; at < bytes; at += kPageSize) *array.at(at) = std::byte(at / kPageSize % 251 + 1);
    return array.descriptor();
  }
  Result<ArrayReader> open(const VmallocDescriptor& d, u64 bytes) {
    return ArrayReader::open(world.kho(), d, bytes, problem);
  }
  void jump() {
    for (auto& k : kept) k.forget();
    kept.clear();
    ASSERT_TRUE(world.jump());
  }
  VmallocChunk& chunk(u64 at) { return *world.machine.virt<VmallocChunk>(Phys(at)); }

  Handover world;
  std::list<test::Forgettable<PreservedArray>> kept;
  std::string_view problem;
};

TEST_F(Arrays, BytesComeThroughAndEverythingIsFreed) {
  for (u64 pages : {u64{1}, kRunsPerChunk - 1, kRunsPerChunk, kRunsPerChunk + 1, 2 * kRunsPerChunk}) {
    SCOPED_TRACE(pages);
    const u64 bytes = pages * kPageSize - 100;
    const VmallocDescriptor d = write(bytes);
    EXPECT_EQ(d.total_pages, pages);
    EXPECT_EQ(d.flags, 1);
    // As Linux: a chunk more than needed when the last is exactly full.
    u64 chunks = 0;
    for (u64 at = d.first_chunk; at != 0; at = chunk(at).next) ++chunks;
    EXPECT_EQ(chunks, pages / kRunsPerChunk + 1);
    jump();
    auto reader = open(d, bytes);
    ASSERT_TRUE(reader) << problem;
    for (u64 i = 0; i < pages; ++i) ASSERT_EQ(*reader->at(i * kPageSize), std::byte(i % 251 + 1));
    const auto before = world.frames().totals();
    ASSERT_TRUE(reader->restore());
    reader->free();
    EXPECT_EQ(before.kept - world.frames().totals().kept, pages + chunks);
    EXPECT_FALSE(open(d, bytes));  // once
  }
}

TEST_F(Arrays, CreationFailsWithNothingLeft) {
  {
    auto warm = PreservedArray::create(world.kho(), 12 * kPageSize);
  }
  world.heap().trim();
  const u64 before = world.frames().totals().free;
  for (u64 nth = 1;; ++nth) {
    auto r = world.machine.counting.failing(nth, [&] { return PreservedArray::create(world.kho(), 12 * kPageSize); });
    if (r) break;
    EXPECT_EQ(r.error(), Errno::Enomem);
    world.heap().trim();
    EXPECT_EQ(world.frames().totals().free, before);
    ASSERT_LT(nth, 30u);
  }
  world.heap().trim();
  EXPECT_EQ(world.frames().totals().free, before);
}

TEST_F(Arrays, HigherOrdersAreRead) {
  // Two runs of four pages, as a kernel with huge vmalloc would leave them.
  const Phys list = *world.kho().alloc_preserved(kPageSize);
  const Phys a = *world.kho().alloc_preserved(4 * kPageSize), b = *world.kho().alloc_preserved(4 * kPageSize);
  chunk(list.value).runs[0] = b.value;
  chunk(list.value).runs[1] = a.value;
  *world.machine.virt<u8>(a + 5) = 7;
  *world.machine.virt<u8>(b + 3 * kPageSize) = 9;
  jump();
  auto reader = open({list.value, 8, kVmallocPlain | kVmallocHuge, 2}, 7 * kPageSize);
  ASSERT_TRUE(reader) << problem;
  EXPECT_EQ(*reader->at(4 * kPageSize + 5), std::byte{7});
  EXPECT_EQ(*reader->at(3 * kPageSize), std::byte{9});
  ASSERT_TRUE(reader->restore());
  reader->free();
}

TEST_F(Arrays, BadDescriptorsAndChainsAreRefused) {
  const u64 pages = kRunsPerChunk + 5, bytes = pages * kPageSize;
  const VmallocDescriptor good = write(bytes);
  const u64 loose = world.frames().alloc_zeroed(0)->value;
  jump();
  const u64 first = good.first_chunk, second = chunk(first).next;
  const auto refused = [&](VmallocDescriptor d, std::string_view why) {
    const auto r = open(d, bytes);
    EXPECT_FALSE(r);
    if (!r) {
      EXPECT_EQ(r.error(), Errno::Einval);
    }
    EXPECT_NE(problem.find(why), std::string_view::npos) << problem;
  };
  auto d = good;
  d.flags = 0;
  refused(d, "unknown flags");
  d.flags = 5;
  refused(d, "unknown flags");
  d = good;
  d.order = 11;
  refused(d, "impossible order");
  d.order = 3;
  refused(d, "no whole number");
  d = good;
  d.total_pages -= 1;
  refused(d, "shorter than its contents");
  d.total_pages += 2;
  refused(d, "longer than its contents");
  d = good;
  d.first_chunk = 0;
  refused(d, "fewer pages");
  d.first_chunk = loose;
  refused(d, "chunk is no preserved page");
  d.first_chunk = second;
  refused(d, "fewer pages");

  const u64 run = chunk(second).runs[4];
  chunk(second).runs[4] = 0;
  refused(good, "fewer pages");
  chunk(second).runs[4] = loose;
  refused(good, "page is no preserved page");
  chunk(second).runs[4] = u64{1} << 63;
  refused(good, "page is no preserved page");
  chunk(second).runs[4] = run;
  chunk(second).runs[5] = run;
  refused(good, "more pages than");
  chunk(second).runs[5] = 0;
  chunk(second).next = first;
  refused(good, "too many chunks");
  chunk(second).next = 0;

  // A page listed twice is found when it is to be taken over the second time.
  chunk(second).runs[4] = chunk(second).runs[3];
  auto twice = open(good, bytes);
  ASSERT_TRUE(twice);
  EXPECT_EQ(twice->restore().error(), Errno::Einval);
}

}  // namespace
}  // namespace perdure::kho
