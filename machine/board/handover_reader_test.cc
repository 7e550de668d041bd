#include "machine/board/handover_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "machine/board/handover_fixture.h"

namespace perdure::board {
namespace {

constexpr u64 kFdt = 0x50'0000;
constexpr u64 kRoot = 0x4D'E000;

class HandoverReaderTest : public ::testing::Test {
 protected:
  HandoverReaderTest() {
    fixture.put_fdt(kFdt, kRoot);
    memory.fill({kRoot, 4096}, 0);
  }
  HandoverImage read() { return read_handover(memory, kFdt); }
  void patch(u64 phys, u64 word) { memory.fill({phys, 8}, word); }
  void expect_broken(const char* why) {
    const HandoverImage image = read();
    EXPECT_FALSE(image.valid);
    EXPECT_THAT(image.problem, ::testing::HasSubstr(why));
  }

  PhysicalMemory memory{38, u64{64} << 20};
  testing::HandoverFixture fixture{memory};
};

TEST_F(HandoverReaderTest, ReadsTheFdtThatLinuxWrites) {
  EXPECT_EQ(fixture.fdt_bytes, 285u);
  const HandoverImage image = read();
  EXPECT_TRUE(image.valid) << image.problem;
  EXPECT_EQ(image.nodes, std::vector<u64>{kRoot});
  EXPECT_TRUE(image.preserved.empty());
}

TEST_F(HandoverReaderTest, PublishedVectors) {
  // pa, order, key, indices of levels 5..1, leaf bit: from a running kernel.
  struct Vector {
    u64 phys;
    unsigned order;
    u64 key;
    std::array<unsigned, 5> index;
    unsigned bit;
  };
  const Vector vectors[] = {{0x12'3456'7000, 0, 0x0010'0000'0123'4567, {2, 0, 0, 1, 70}, 17767},
                            {0x4000'0000, 9, 0x0000'0800'0000'0200, {0, 2, 0, 0, 0}, 512},
                            {0x1'0000'0000, 18, 0x0000'0004'0000'0004, {0, 0, 2, 0, 0}, 4}};
  for (const Vector& v : vectors) {
    EXPECT_EQ(testing::HandoverFixture::key_of(v.phys, v.order), v.key);
    // The tree by the indices of the table alone.
    memory.fill({kRoot, 4096}, 0);
    u64 table = kRoot;
    u64 node = 0x70'0000;
    for (unsigned i : v.index) {
      memory.fill({node, 4096}, 0);
      patch(table + 8 * i, node);
      table = node;
      node += 4096;
    }
    patch(table + v.bit / 64 * 8, u64{1} << (v.bit % 64));
    const HandoverImage image = read();
    ASSERT_TRUE(image.valid) << image.problem;
    EXPECT_EQ(image.preserved, (std::vector<PhysRange>{{v.phys, u64{4096} << v.order}}));
    EXPECT_EQ(image.nodes.size(), 6u);
  }
}

TEST_F(HandoverReaderTest, OrdersMixAndNeighboursMerge) {
  fixture.preserve(kRoot, 0x100'0000, 0);
  fixture.preserve(kRoot, 0x100'1000, 0);
  fixture.preserve(kRoot, 0x100'2000, 1);
  fixture.preserve(kRoot, 0x120'0000, 9);
  fixture.preserve(kRoot, 0x120'1000, 0);  // inside the one before
  fixture.preserve(kRoot, 0x1'4000'0000, 18);
  const HandoverImage image = read();
  ASSERT_TRUE(image.valid) << image.problem;
  EXPECT_EQ(image.keys, 6u);
  EXPECT_EQ(image.preserved,
            (std::vector<PhysRange>{{0x100'0000, 0x4000}, {0x120'0000, 0x20'0000}, {0x1'4000'0000, 0x4000'0000}}));
  EXPECT_EQ(image.bytes, 0x4000u + 0x20'0000 + 0x4000'0000);
}

TEST_F(HandoverReaderTest, NoHandoverIsValidAndEmpty) {
  const HandoverImage image = read_handover(memory, 0);
  EXPECT_TRUE(image.valid);
  EXPECT_TRUE(image.nodes.empty());
}

TEST_F(HandoverReaderTest, FdtMustBeWhatItSays) {
  EXPECT_FALSE(read_handover(memory, kFdt + 8).valid);
  EXPECT_FALSE(read_handover(memory, memory.window() - 4096).valid);
  fixture.put_fdt(kFdt, kRoot, std::string_view("kho-v3", 7));
  expect_broken("kho-v4");
  fixture.put_fdt(kFdt, kRoot, std::string_view("kho-v4", 6));  // no terminator
  expect_broken("kho-v4");
  fixture.put_fdt(kFdt, kRoot, std::string_view("other\0kho-v4", 13));
  EXPECT_TRUE(read().valid) << "further strings are tolerated";
  patch(kFdt, 0);
  expect_broken("header");
  // Every flipped byte ends without a crash, and what is still valid is the same tree.
  for (u64 at = 0; at < 285; ++at) {
    if (at >= 0x60 && at < 0x68) continue;  // the root's address itself: any frame would do
    fixture.put_fdt(kFdt, kRoot);
    auto* byte = reinterpret_cast<u8*>(memory.base() + kFdt + at);
    *byte = static_cast<u8>(~*byte);
    const HandoverImage image = read();
    if (image.valid) {
      EXPECT_EQ(image.nodes, std::vector<u64>{kRoot});
    }
  }
}

TEST_F(HandoverReaderTest, NodesMustBeFramesOfRamUsedOnce) {
  patch(kRoot, 0x61'0008);
  expect_broken("node outside RAM");
  patch(kRoot, u64{1} << 37);
  expect_broken("node outside RAM");
  patch(kRoot, kRoot);
  expect_broken("linked twice");
  memory.fill({0x61'0000, 4096}, 0);
  patch(kRoot, 0x61'0000);
  patch(kRoot + 8, 0x61'0000);
  expect_broken("linked twice");
}

TEST_F(HandoverReaderTest, KeysMustDecode) {
  patch(kRoot + 8 * 4, 0x61'0000);
  expect_broken("wider than 53 bits");
  memory.fill({kRoot, 4096}, 0);
  fixture.put_key(kRoot, 0);
  expect_broken("key 0");
  memory.fill({kRoot, 4096}, 0);
  fixture.put_key(kRoot, 1);  // order 52
  expect_broken("whole address space");
  memory.fill({kRoot, 4096}, 0);
  fixture.preserve(kRoot, u64{1} << 38, 0);
  expect_broken("outside the physical address space");
  memory.fill({kRoot, 4096}, 0);
  fixture.preserve(kRoot, 0, 27);
  expect_broken("outside the physical address space");
}

TEST(MergeRanges, SortsDropsAndJoins) {
  EXPECT_EQ(merge_ranges({{30, 10}, {10, 5}, {15, 5}, {12, 1}, {50, 0}, {35, 20}}),
            (std::vector<PhysRange>{{10, 10}, {30, 25}}));
}

}  // namespace
}  // namespace perdure::board
