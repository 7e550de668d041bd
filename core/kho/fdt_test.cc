#include "core/kho/fdt.h"

#include <libfdt.h>

#include <random>

#include "core/kho/format.h"

namespace perdure::kho {
namespace {

using Page = std::array<std::byte, kPageSize>;

struct Tree {
  alignas(8) Page page{};
  std::span<std::byte, kPageSize> span() { return std::span<std::byte, kPageSize>(page); }
  FdtPage writer() { return FdtPage(span()); }
  FdtReader read() {
    FdtProblem problem;
    auto r = FdtReader::open(page, problem);
    if (!r) throw std::runtime_error(std::string(problem.what) + " at " + std::to_string(problem.offset));
    return *r;
  }
};

u64 libfdt_word(const void* fdt, int node, const char* name) {
  int length = 0;
  const void* value = fdt_getprop(fdt, node, name, &length);
  u64 v = 0;
  if (value == nullptr || length != 8) throw std::runtime_error("property");
  memcpy(&v, value, 8);
  return v;
}

TEST(Fdt, LibfdtReadsWhatWeWrite) {
  Tree t;
  FdtPage::create(t.span(), Phys(0x4de000));
  ASSERT_TRUE(t.writer().add_blob("LUO", Phys(0x7ba000), 32));
  ASSERT_TRUE(t.writer().add_blob("kexec-metadata", Phys(0x7bc000), 73));
  const void* fdt = t.page.data();
  ASSERT_EQ(fdt_check_full(fdt, kPageSize), 0);
  EXPECT_EQ(fdt_totalsize(fdt), 285u);  // as measured on Linux with the same blobs
  EXPECT_EQ(fdt_version(fdt), 17);
  EXPECT_EQ(fdt_last_comp_version(fdt), 16);
  EXPECT_EQ(fdt_node_check_compatible(fdt, 0, "kho-v4"), 0);
  EXPECT_EQ(libfdt_word(fdt, 0, "preserved-memory-map"), 0x4de000u);
  const int luo = fdt_subnode_offset(fdt, 0, "LUO");
  ASSERT_GE(luo, 0);
  EXPECT_EQ(libfdt_word(fdt, luo, "preserved-data"), 0x7ba000u);
  EXPECT_EQ(libfdt_word(fdt, luo, "blob-size"), 32u);
  EXPECT_EQ(fdt_num_mem_rsv(fdt), 0);
}

TEST(Fdt, WeReadWhatLibfdtWrites) {
  Tree t;
  void* fdt = t.page.data();
  ASSERT_EQ(fdt_create(fdt, kPageSize), 0);
  fdt_finish_reservemap(fdt);
  fdt_begin_node(fdt, "");
  fdt_property_string(fdt, "compatible", "kho-v4");
  const u64 root = 0x6e2000, data = 0x8b6000, size = 32;
  fdt_property(fdt, "preserved-memory-map", &root, 8);
  fdt_end_node(fdt);
  fdt_finish(fdt);
  ASSERT_EQ(fdt_open_into(fdt, fdt, kPageSize), 0);
  // As Linux adds them: the newest child first.
  for (const char* name : {"a", "LUO"}) {
    const int node = fdt_add_subnode(fdt, 0, name);
    fdt_setprop(fdt, node, "preserved-data", &data, 8);
    fdt_setprop(fdt, node, "blob-size", &size, 8);
  }
  fdt_add_subnode(fdt, fdt_subnode_offset(fdt, 0, "a"), "LUO-below");
  ASSERT_EQ(fdt_nop_property(fdt, fdt_subnode_offset(fdt, 0, "a"), "blob-size"), 0);
  fdt_pack(fdt);

  const FdtReader r = t.read();
  EXPECT_EQ(*r.word(r.root(), kMapProperty), root);
  const auto luo = r.child("LUO");
  ASSERT_TRUE(luo);
  EXPECT_EQ(*r.word(*luo, kDataProperty), data);
  EXPECT_EQ(*r.word(*luo, kSizeProperty), size);
  EXPECT_EQ(r.word(*luo, "compatible").error(), Errno::Enoent);
  EXPECT_EQ(r.word(r.root(), "compatible").error(), Errno::Einval);  // 7 bytes
  EXPECT_EQ(r.child("LUO-below").error(), Errno::Enoent);            // no direct child
  EXPECT_EQ(r.child("LU").error(), Errno::Enoent);
  const auto a = r.child("a");
  ASSERT_TRUE(a);
  EXPECT_EQ(*r.word(*a, kDataProperty), data);
  EXPECT_EQ(r.word(*a, kSizeProperty).error(), Errno::Enoent);
}

TEST(Fdt, AddAndRemoveInAnyOrderLeaveTheTreePacked) {
  std::mt19937 rng(7);
  Tree t;
  FdtPage::create(t.span(), Phys(0x1000));
  const Page empty = t.page;
  std::map<std::string, u64> expected;
  for (int step = 0; step < 3000; ++step) {
    const std::string name = "blob-" + std::string(rng() % 9, 'x') + std::to_string(rng() % 40);
    if (rng() % 2 == 0) {
      const u64 at = rng() * kPageSize;
      const auto r = t.writer().add_blob(name, Phys(at), at + 1);
      if (expected.contains(name)) {
        ASSERT_EQ(r.error(), Errno::Eexist);
      } else if (r) {
        expected[name] = at;
      } else {
        ASSERT_EQ(r.error(), Errno::Enomem);
      }
    } else {
      ASSERT_EQ(t.writer().remove_blob(name), expected.erase(name) == 1);
    }
    ASSERT_EQ(fdt_check_full(t.page.data(), kPageSize), 0);
    const FdtReader r = t.read();
    usize children = 0;
    r.each_child([&](std::string_view child, FdtReader::Node node) {
      ++children;
      ASSERT_EQ(*r.word(node, kDataProperty), expected.at(std::string(child)));
      ASSERT_EQ(*r.word(node, kSizeProperty), expected.at(std::string(child)) + 1);
    });
    ASSERT_EQ(children, expected.size());
  }
  while (!expected.empty()) {
    ASSERT_TRUE(t.writer().remove_blob(expected.begin()->first));
    expected.erase(expected.begin());
  }
  EXPECT_EQ(t.page, empty);
}

TEST(Fdt, CapacityIsLinuxs) {
  Tree t;
  FdtPage::create(t.span(), Phys(0x1000));
  int added = 0;
  while (t.writer().add_blob(std::to_string(added), Phys(0x1000), 1)) ++added;
  EXPECT_EQ(added, 75);
  EXPECT_EQ(t.writer().add_blob("zz", Phys(0x1000), 1).error(), Errno::Enomem);
  EXPECT_EQ(fdt_check_full(t.page.data(), kPageSize), 0);
}

TEST(Fdt, NamesThatLookupWouldNotFindAreRefused) {
  Tree t;
  FdtPage::create(t.span(), Phys(0x1000));
  for (std::string_view name :
       {std::string_view(""), std::string_view("a@1"), std::string_view("a/b"), std::string_view("a\0b", 3)}) {
    EXPECT_EQ(t.writer().add_blob(name, Phys(0x1000), 1).error(), Errno::Einval);
  }
}

// What a hostile tree can do at most: be refused. Every byte of a good tree is flipped in every bit.
TEST(Fdt, FlippedBitsNeverLeadOutside) {
  Tree good;
  FdtPage::create(good.span(), Phys(0x1000));
  ASSERT_TRUE(good.writer().add_blob("LUO", Phys(0x7ba000), 32));
  const u32 total = fdt_totalsize(good.page.data());
  int refused = 0, taken = 0;
  for (u32 at = 0; at < total; ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      // On the heap and cut to size, so that a sanitizer sees every byte too many.
      std::vector<std::byte> bytes(good.page.begin(), good.page.begin() + total);
      bytes[at] ^= std::byte(1 << bit);
      FdtProblem problem;
      const auto r = FdtReader::open(bytes, problem);
      if (!r) {
        ++refused;
        EXPECT_FALSE(problem.what.empty());
        continue;
      }
      ++taken;
      r->each_child([&](std::string_view, FdtReader::Node node) {
        (void)r->word(node, kDataProperty);
        (void)r->word(node, kSizeProperty);
      });
      (void)r->word(r->root(), kMapProperty);
      (void)r->child("LUO");
    }
  }
  EXPECT_GT(refused, 500);
  EXPECT_GT(taken, 200);  // payloads
}

TEST(Fdt, NoiseIsRefusedOrHarmless) {
  std::mt19937 rng(11);
  Tree good;
  FdtPage::create(good.span(), Phys(0x1000));
  for (int i = 0; i < 12; ++i) ASSERT_TRUE(good.writer().add_blob("b" + std::to_string(i), Phys(0x7ba000), 32));
  const u32 total = fdt_totalsize(good.page.data());
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::byte> bytes(good.page.begin(), good.page.begin() + total);
    for (int n = 1 + static_cast<int>(rng() % 6); n > 0; --n) {
      // Words are where the tokens are.
      const u32 at = rng() % (total / 4) * 4 + 3;
      bytes[at] = std::byte(rng() % 4 == 0 ? rng() : rng() % 10);
    }
    FdtProblem problem;
    const auto r = FdtReader::open(bytes, problem);
    if (!r) continue;
    r->each_child([&](std::string_view, FdtReader::Node node) { (void)r->word(node, kDataProperty); });
  }
}

TEST(Fdt, LengthsThatWrapAreRefused) {
  Tree good;
  FdtPage::create(good.span(), Phys(0x1000));
  // The length of the first property: its end would lie before its start.
  for (u32 length : {0xffff'fff0u, 0xffff'ffffu, 0x8000'0000u, 0x1000u}) {
    Tree t = good;
    for (int i = 0; i < 4; ++i) t.page[0x44 + static_cast<usize>(i)] = std::byte(length >> (24 - 8 * i));
    FdtProblem problem;
    EXPECT_FALSE(FdtReader::open(t.page, problem));
    EXPECT_EQ(problem.what, "property value leaves the structure block");
    EXPECT_EQ(problem.offset, 0x40u);
  }
  // Sizes and offsets of the blocks likewise.
  for (usize word : {4u, 8u, 12u, 16u, 32u, 36u}) {
    for (u32 value : {0xffff'ffffu, 0xffff'fff8u, 0x1001u}) {
      Tree t = good;
      for (usize i = 0; i < 4; ++i) t.page[word + i] = std::byte(value >> (24 - 8 * i));
      FdtProblem problem;
      EXPECT_FALSE(FdtReader::open(t.page, problem)) << word << " " << value;
    }
  }
}

TEST(Fdt, DeepNestingIsRefused) {
  Tree t;
  void* fdt = t.page.data();
  ASSERT_EQ(fdt_create(fdt, kPageSize), 0);
  fdt_finish_reservemap(fdt);
  fdt_begin_node(fdt, "");
  for (int i = 0; i < 40; ++i) fdt_begin_node(fdt, "n");
  for (int i = 0; i < 41; ++i) fdt_end_node(fdt);
  fdt_finish(fdt);
  FdtProblem problem;
  EXPECT_FALSE(FdtReader::open(t.page, problem));
  EXPECT_EQ(problem.what, "nodes nest too deep");
}

}  // namespace
}  // namespace perdure::kho
