#include "core/mem/frame_allocator.h"

#include <rapidcheck.h>

#include <random>

#include "tests/support/test_machine.h"

namespace perdure {
namespace {

constexpr u64 kMiB = u64{1} << 20;

// RAM full of `garbage`, which bookkeeping must not be fooled by.
struct FrameTest : testing::Test {
  explicit FrameTest(u64 window = 64 * kMiB) : machine(window) { fill(0xff); }
  void fill(int garbage) { std::memset(machine.direct_map, garbage, machine.window); }
  Result<void> boot(FrameAllocator& f, std::vector<Extent> ram, std::vector<Extent> reserved = {},
                    std::vector<Extent> scratch = {}) {
    return f.init(ram, reserved, scratch);
  }
  std::vector<Extent> all() const { return {{Phys(0), machine.window}}; }
  test::TestMachine machine;
};

// Every frame that can be had, by single frames.
std::set<u64> drain(FrameAllocator& f) {
  std::set<u64> frames;
  while (auto at = f.alloc(0)) EXPECT_TRUE(frames.insert(at->value).second) << "given out twice";
  return frames;
}

bool overlaps(const Extent& e, u64 at) {
  return at >= e.base.value && at < e.end().value;
}

TEST_F(FrameTest, GivesOutAllRamButWhatIsReserved) {
  for (const int garbage : {0x00, 0xff, 0xa5, 0x01}) {
    fill(garbage);
    FrameAllocator f(machine);
    const std::vector<Extent> ram = {{Phys(0), 0x9f000}, {Phys(0x100000), 31 * kMiB}, {Phys(32 * kMiB), kPageSize}};
    const std::vector<Extent> reserved = {{Phys(5 * kMiB + 100), 5000},
                                          {Phys(1000), 10},
                                          {Phys(5 * kMiB), 1},
                                          {Phys(63 * kMiB), kMiB},
                                          {Phys(9 * kMiB), 0}};
    ASSERT_TRUE(boot(f, ram, reserved));
    EXPECT_FALSE(f.alloc(0)) << "not open yet";
    f.open();
    const auto totals = f.totals();
    const u64 book = f.bookkeeping().length / kPageSize;
    EXPECT_EQ(totals.frames, 0x9f + 31 * 256 + 1 - 1 - 2 - book);
    EXPECT_EQ(totals.free, totals.frames);
    const auto frames = drain(f);
    EXPECT_EQ(frames.size(), totals.frames);
    EXPECT_EQ(f.totals().free, 0u);
    EXPECT_FALSE(frames.contains(0)) << "a null address";
    for (const u64 at : frames) {
      EXPECT_TRUE(std::any_of(ram.begin(), ram.end(), [&](auto& e) { return overlaps(e, at); }));
      EXPECT_FALSE(overlaps(f.bookkeeping(), at));
      EXPECT_TRUE(at != 5 * kMiB && at != 5 * kMiB + kPageSize);
      ASSERT_TRUE(f.in_use(Phys(at), kPageSize));
    }
    for (const u64 at : frames) f.free(Phys(at), 0);
    EXPECT_EQ(f.totals(), totals);
    EXPECT_FALSE(f.in_use(Phys(8 * kMiB), kPageSize));
  }
}

TEST_F(FrameTest, BlocksAreAlignedAndMergeAgain) {
  FrameAllocator f(machine);
  ASSERT_TRUE(boot(f, all()));
  f.open();
  const auto count = [&f](unsigned order) {
    std::vector<Phys> blocks;
    while (auto at = f.alloc(order)) {
      EXPECT_TRUE(at->aligned(kPageSize << order));
      blocks.push_back(*at);
    }
    for (const Phys at : blocks) f.free(at, order);
    return blocks.size();
  };
  const usize largest = count(FrameAllocator::kMaxOrder);
  EXPECT_GE(largest, 15u);  // of 16, the first holds frame 0 and the bookkeeping
  for (unsigned order = 0; order <= FrameAllocator::kMaxOrder; ++order) {
    EXPECT_GE(count(order), largest << (FrameAllocator::kMaxOrder - order));
    EXPECT_EQ(count(FrameAllocator::kMaxOrder), largest) << "after order " << order;
  }
  EXPECT_EQ(f.alloc(FrameAllocator::kMaxOrder + 1).error(), Errno::Einval);
}

TEST_F(FrameTest, ZeroedIsZero) {
  FrameAllocator f(machine);
  ASSERT_TRUE(boot(f, all()));
  f.open();
  const Phys at = *f.alloc_zeroed(3);
  const std::byte* p = machine.virt(at);
  EXPECT_TRUE(std::all_of(p, p + 8 * kPageSize, [](std::byte b) { return b == std::byte{0}; }));
}

TEST_F(FrameTest, WrongFreesPanic) {
  FrameAllocator f(machine);
  ASSERT_TRUE(boot(f, all(), {{Phys(32 * kMiB), kPageSize}}));
  ASSERT_TRUE(f.keep(Phys(40 * kMiB), 0));
  f.open();
  const Phys two = *f.alloc(1);
  const Phys one = *f.alloc(0);
  EXPECT_DEATH(f.free(two, 0), "panic") << "half a block";
  EXPECT_DEATH(f.free(two + kPageSize, 0), "panic") << "the other half";
  EXPECT_DEATH(f.free(one, 1), "panic");
  EXPECT_DEATH(f.free(one + 1, 0), "panic");
  EXPECT_DEATH(f.free(Phys(machine.window), 0), "panic");
  EXPECT_DEATH(f.free(Phys(0), 0), "panic");
  EXPECT_DEATH(f.free(Phys(32 * kMiB), 0), "panic") << "reserved";
  EXPECT_DEATH(f.free(Phys(40 * kMiB), 0), "panic") << "kept";
  EXPECT_DEATH(f.free(f.bookkeeping().base, 0), "panic");
  EXPECT_DEATH(f.free(Phys(48 * kMiB), 0), "panic") << "never touched";
  f.free(one, 0);
  EXPECT_DEATH(f.free(one, 0), "panic") << "twice";
  f.free(two, 1);
}

TEST_F(FrameTest, MalformedExtents) {
  const auto init = [this](std::vector<Extent> ram, std::vector<Extent> reserved = {},
                           std::vector<Extent> scratch = {}) {
    FrameAllocator f(machine);
    const auto r = f.init(ram, reserved, scratch);
    return r ? 0 : static_cast<int>(r.error());
  };
  constexpr int kEinval = static_cast<int>(Errno::Einval), kEnomem = static_cast<int>(Errno::Enomem);
  EXPECT_EQ(init({}), kEinval);
  EXPECT_EQ(init({{Phys(0), 0}}), kEinval);
  EXPECT_EQ(init({{Phys(1), kMiB}}), kEinval);
  EXPECT_EQ(init({{Phys(0), kMiB + 1}}), kEinval);
  EXPECT_EQ(init({{Phys(0), 65 * kMiB}}), kEinval);
  EXPECT_EQ(init({{Phys(kPageSize), ~u64{0} & ~u64{0xfff}}}), kEinval);
  EXPECT_EQ(init({{Phys(kMiB), kMiB}, {Phys(0), kMiB}}), kEinval);
  EXPECT_EQ(init({{Phys(0), 2 * kMiB}, {Phys(kMiB), 2 * kMiB}}), kEinval);
  EXPECT_EQ(init(all(), {{Phys(~u64{0} - 5), 10}}), kEinval);
  EXPECT_EQ(init(all(), {{Phys(~u64{0} - 5), 6}}), 0) << "to the last byte of the address space";
  EXPECT_EQ(init(all(), {}, {{Phys(1), kMiB}}), kEinval);
  EXPECT_EQ(init(all(), {}, {{Phys(kMiB), 2 * kMiB}, {Phys(2 * kMiB), kMiB}}), kEinval);
  EXPECT_EQ(init(all(), {}, {{Phys(63 * kMiB), 2 * kMiB}}), kEinval);
  EXPECT_EQ(init(all(), {{Phys(0), 64 * kMiB}}), kEnomem);
  EXPECT_EQ(init(all(), {}, {{Phys(kMiB), kPageSize}}), kEnomem);
  EXPECT_EQ(init(all(), {{Phys(0), ~u64{0}}}), kEnomem);
  EXPECT_EQ(init({{Phys(0), kPageSize}}), kEnomem) << "the frame at 0 is not used";
  EXPECT_FALSE(machine.lines.empty());
}

TEST_F(FrameTest, BookkeepingAvoidsReservedMemoryInAnyOrder) {
  std::vector<Extent> reserved;
  for (u64 at = 62 * kMiB; at > 0; at -= kMiB / 2) reserved.push_back({Phys(at), kMiB / 2 - 2 * kPageSize});
  reserved.push_back({Phys(0), kMiB / 2 - 2 * kPageSize});
  FrameAllocator f(machine);
  ASSERT_TRUE(boot(f, all(), reserved));
  for (const Extent& r : reserved) {
    EXPECT_FALSE(ranges_overlap(r.base.value, r.length, f.bookkeeping().base.value, f.bookkeeping().length));
  }
  EXPECT_EQ(f.bookkeeping().base.value, 62 * kMiB + kMiB / 2 - 2 * kPageSize) << "the gaps are too small";
}

// --- scratch ------------------------------------------------------------------------------------------------

TEST_F(FrameTest, EarlyBootUsesScratchOnlyAndLaterNeverAgain) {
  FrameAllocator f(machine);
  const Extent scratch{Phys(10 * kMiB + 0x3000), 3 * kMiB};
  const Extent boot_data{Phys(11 * kMiB), 0x5000};
  ASSERT_TRUE(boot(f, all(), {boot_data}, {{Phys(0), 0}, scratch}));
  EXPECT_EQ(f.scratch().size(), 1u);
  EXPECT_TRUE(f.in_scratch(scratch.base - 1, 2));
  EXPECT_FALSE(f.in_scratch(scratch.base - kPageSize, kPageSize));
  EXPECT_FALSE(f.in_scratch(scratch.end(), kPageSize));
  EXPECT_TRUE(f.in_ram(scratch.base, scratch.length));
  EXPECT_TRUE(f.in_ram(scratch.end() - kPageSize, kPageSize));
  EXPECT_FALSE(f.in_ram(scratch.end() - kPageSize, 2 * kPageSize)) << "into other memory";
  EXPECT_FALSE(f.in_ram(Phys(machine.window), kPageSize));
  EXPECT_TRUE(overlaps(scratch, f.bookkeeping().base.value));

  const auto totals = f.totals();
  EXPECT_EQ(totals.scratch_free, (scratch.length - boot_data.length - f.bookkeeping().length) / kPageSize);
  const auto early = drain(f);
  EXPECT_EQ(early.size(), totals.scratch_free);
  for (const u64 at : early) ASSERT_TRUE(overlaps(scratch, at) && !overlaps(boot_data, at));
  EXPECT_EQ(f.alloc_scratch(0).error(), Errno::Enomem);

  f.open();
  const auto late = drain(f);
  EXPECT_EQ(late.size(), totals.free - totals.scratch_free);
  for (const u64 at : late) ASSERT_FALSE(overlaps(scratch, at));
  for (const u64 at : early) f.free(Phys(at), 0);
  EXPECT_EQ(f.alloc(0).error(), Errno::Enomem) << "scratch is not for ordinary use";
  const Phys table = *f.alloc_scratch(2);
  EXPECT_TRUE(overlaps(scratch, table.value));
  f.free(table, 2);
  for (const u64 at : late) f.free(Phys(at), 0);
  EXPECT_EQ(f.totals(), totals);
}

TEST_F(FrameTest, ScratchMayBeOutsideRamAndSpanExtents) {
  FrameAllocator f(machine);
  const Extent scratch{Phys(7 * kMiB), 6 * kMiB};
  ASSERT_TRUE(boot(f, {{Phys(4 * kMiB), 4 * kMiB}, {Phys(9 * kMiB), 2 * kMiB}, {Phys(12 * kMiB), 20 * kMiB}}, {},
                   {scratch, {Phys(50 * kMiB), kMiB}}));
  EXPECT_EQ(f.totals().frames, 26 * 256 - f.bookkeeping().length / kPageSize);
  EXPECT_EQ(f.totals().scratch_free, 4 * 256 - f.bookkeeping().length / kPageSize);
  EXPECT_EQ(f.keep(Phys(8 * kMiB), 0).error(), Errno::Einval) << "scratch, though not RAM";
  EXPECT_TRUE(f.in_scratch(Phys(50 * kMiB), 1));
  f.open();
  EXPECT_EQ(drain(f).size(), 22u * 256);
}

TEST_F(FrameTest, ColdBootCarvesItsScratch) {
  FrameAllocator f(machine);
  ASSERT_TRUE(boot(f, {{Phys(kMiB), 63 * kMiB}}, {{Phys(6 * kMiB), kPageSize}}));
  EXPECT_EQ(f.carve_scratch(0).error(), Errno::Einval);
  EXPECT_EQ(f.carve_scratch(~u64{0}).error(), Errno::Einval);
  EXPECT_EQ(f.carve_scratch(60 * kMiB).error(), Errno::Enomem);
  const Extent large = *f.carve_scratch(9 * kMiB);
  EXPECT_EQ(large.base.value, 8 * kMiB);
  EXPECT_EQ(large.length, 12 * kMiB);
  std::vector<Extent> areas = {large};
  for (int i = 1; i < 4; ++i) areas.push_back(*f.carve_scratch(1));
  EXPECT_EQ(f.carve_scratch(1).error(), Errno::Enospc);
  ASSERT_EQ(f.scratch().size(), 4u);
  for (usize i = 1; i < 4; ++i) EXPECT_LE(f.scratch()[i - 1].end(), f.scratch()[i].base);
  u64 scratch_frames = 0;
  for (const Extent& e : areas) {
    EXPECT_FALSE(ranges_overlap(e.base.value, e.length, f.bookkeeping().base.value, f.bookkeeping().length));
    scratch_frames += e.length / kPageSize;
  }
  const auto totals = f.totals();
  EXPECT_EQ(totals.scratch_free, scratch_frames);
  f.open();
  const auto frames = drain(f);
  EXPECT_EQ(frames.size(), totals.free - scratch_frames);
  for (const u64 at : frames) ASSERT_FALSE(f.in_scratch(Phys(at), kPageSize));
  u64 from_scratch = 0;
  while (auto at = f.alloc_scratch(0)) {
    ++from_scratch;
    ASSERT_TRUE(f.in_scratch(*at, kPageSize));
    ASSERT_FALSE(frames.contains(at->value));
  }
  EXPECT_EQ(from_scratch, scratch_frames);
}

TEST_F(FrameTest, CarvingIsForAColdBootOnly) {
  FrameAllocator handover(machine);
  ASSERT_TRUE(boot(handover, all(), {}, {{Phys(8 * kMiB), 4 * kMiB}}));
  EXPECT_EQ(handover.carve_scratch(1).error(), Errno::Ebusy);
  FrameAllocator opened(machine);
  ASSERT_TRUE(boot(opened, all()));
  opened.open();
  EXPECT_EQ(opened.carve_scratch(1).error(), Errno::Ebusy);
  FrameAllocator used(machine);
  ASSERT_TRUE(boot(used, all()));
  ASSERT_TRUE(used.carve_scratch(1));
  ASSERT_TRUE(used.alloc(0));
  EXPECT_EQ(used.carve_scratch(1).error(), Errno::Ebusy);
}

// --- kept blocks --------------------------------------------------------------------------------------------

struct KeptTest : FrameTest {
  KeptTest() { EXPECT_TRUE(boot(f, {{Phys(kMiB), 47 * kMiB}}, {{Phys(20 * kMiB), kPageSize}}, {scratch})); }
  const Extent scratch{Phys(4 * kMiB), 4 * kMiB};
  FrameAllocator f{machine};
};

TEST_F(KeptTest, RestoresExactlyWhatWasKeptOnce) {
  const Phys at(16 * kMiB);
  // Neighbours that together look like larger blocks.
  ASSERT_TRUE(f.keep(at, 0));
  ASSERT_TRUE(f.keep(at + kPageSize, 0));
  ASSERT_TRUE(f.keep(at + 2 * kPageSize, 1));
  ASSERT_TRUE(f.keep(at + 4 * kPageSize, 2));
  ASSERT_TRUE(f.keep(Phys(20 * kMiB + kPageSize), 0));
  ASSERT_TRUE(f.keep(Phys(24 * kMiB), 10));
  ASSERT_TRUE(f.keep(Phys(28 * kMiB), 10));
  ASSERT_TRUE(f.keep(Phys(32 * kMiB), 12));
  f.open();
  const auto totals = f.totals();
  EXPECT_EQ(totals.kept, 9u + 1024 + 1024 + 4096);
  const auto missing = [&](Phys base, unsigned order) {
    EXPECT_FALSE(f.is_kept(base, order));
    const auto r = f.restore(base, order);
    return !r && r.error() == Errno::Enoent;
  };
  EXPECT_TRUE(missing(at, 1));
  EXPECT_TRUE(missing(at, 2));
  EXPECT_TRUE(missing(at, 3));
  EXPECT_TRUE(missing(at + 2 * kPageSize, 0));
  EXPECT_TRUE(missing(at + 3 * kPageSize, 0));
  EXPECT_TRUE(missing(at + 4 * kPageSize, 1));
  EXPECT_TRUE(missing(at + 100, 0));
  EXPECT_TRUE(missing(Phys(24 * kMiB), 9));
  EXPECT_TRUE(missing(Phys(24 * kMiB), 11));
  EXPECT_TRUE(missing(Phys(32 * kMiB), 10));
  EXPECT_TRUE(missing(Phys(32 * kMiB), 11));
  EXPECT_TRUE(missing(Phys(36 * kMiB), 10));
  EXPECT_TRUE(f.in_use(Phys(20 * kMiB + kPageSize), kPageSize)) << "its neighbour";
  EXPECT_TRUE(missing(Phys(20 * kMiB), 0)) << "reserved";
  EXPECT_TRUE(missing(Phys(0), 0));
  EXPECT_TRUE(missing(Phys(0), 52));
  EXPECT_TRUE(missing(Phys(0), 64));
  EXPECT_TRUE(missing(Phys(48 * kMiB), 10)) << "beyond RAM";
  EXPECT_TRUE(missing(f.bookkeeping().base, 0));
  EXPECT_TRUE(missing(Phys(18 * kMiB), 0)) << "never kept";

  const std::pair<Phys, unsigned> blocks[] = {{at, 0},
                                              {at + kPageSize, 0},
                                              {at + 2 * kPageSize, 1},
                                              {at + 4 * kPageSize, 2},
                                              {Phys(20 * kMiB + kPageSize), 0},
                                              {Phys(24 * kMiB), 10},
                                              {Phys(28 * kMiB), 10},
                                              {Phys(32 * kMiB), 12}};
  u64 kept = totals.kept;
  for (auto [base, order] : blocks) {
    EXPECT_TRUE(f.in_use(base, kPageSize << order));
    EXPECT_TRUE(f.is_kept(base, order));
    EXPECT_TRUE(f.restore(base, order));
    EXPECT_TRUE(missing(base, order)) << "second time";
    EXPECT_TRUE(f.in_use(base, kPageSize << order));
    kept -= u64{1} << order;
    EXPECT_EQ(f.totals().kept, kept);
  }
  for (auto [base, order] : blocks) {
    f.free(base, order);
    EXPECT_FALSE(f.in_use(base, kPageSize));
  }
  EXPECT_EQ(f.totals().free, totals.frames);
  EXPECT_EQ(drain(f).size(), totals.free - totals.scratch_free + totals.kept);
}

TEST_F(KeptTest, KeptFramesAreNeverGivenOut) {
  for (u64 at = 12 * kMiB; at < 16 * kMiB; at += 3 * kPageSize) ASSERT_TRUE(f.keep(Phys(at), 0));
  f.open();
  const auto totals = f.totals();
  const auto frames = drain(f);
  EXPECT_EQ(frames.size(), totals.free - totals.scratch_free);
  for (u64 at = 12 * kMiB; at < 16 * kMiB; at += 3 * kPageSize) ASSERT_FALSE(frames.contains(at));
}

TEST_F(KeptTest, RefusesWhatCannotBe) {
  const auto refused = [this](u64 base, unsigned order) {
    const auto before = f.totals();
    const auto r = f.keep(Phys(base), order);
    EXPECT_EQ(f.totals(), before);
    return !r && r.error() == Errno::Einval;
  };
  EXPECT_TRUE(refused(16 * kMiB + 1, 0));
  EXPECT_TRUE(refused(16 * kMiB + kPageSize, 1));
  EXPECT_TRUE(refused(4 * kMiB, 0)) << "scratch";
  EXPECT_TRUE(refused(0, 11)) << "contains scratch, and starts before RAM";
  EXPECT_TRUE(refused(20 * kMiB, 0)) << "reserved";
  EXPECT_TRUE(refused(20 * kMiB, 8));
  EXPECT_TRUE(refused(32 * kMiB, 13)) << "partly in RAM";
  EXPECT_TRUE(refused(0, 8)) << "before RAM, and reserved: the frame at 0";
  EXPECT_TRUE(refused(0, 52));
  EXPECT_TRUE(refused(0, 53));
  EXPECT_TRUE(refused(0, ~0u));
  ASSERT_TRUE(f.keep(Phys(40 * kMiB), 3));
  EXPECT_TRUE(refused(40 * kMiB, 3)) << "twice";
  EXPECT_TRUE(refused(40 * kMiB + kPageSize, 0)) << "in a larger one";
  EXPECT_TRUE(refused(40 * kMiB, 10)) << "contains another";
  ASSERT_TRUE(f.keep(Phys(32 * kMiB), 11));
  EXPECT_TRUE(refused(36 * kMiB, 0));
  EXPECT_TRUE(refused(32 * kMiB, 12));
  // Guest banks.
  const auto before = f.totals();
  EXPECT_TRUE(f.keep(Phys(48 * kMiB), 0));
  EXPECT_TRUE(f.keep(Phys(u64{1} << 40), 28));
  EXPECT_TRUE(f.keep(Phys(u64{1} << 63), 51));
  EXPECT_EQ(f.totals(), before);
  f.open();
  EXPECT_TRUE(refused(44 * kMiB, 0)) << "too late";
}

TEST_F(KeptTest, InUseTakesAnyRange) {
  ASSERT_TRUE(f.keep(Phys(24 * kMiB), 11));
  f.open();
  EXPECT_TRUE(f.in_use(Phys(24 * kMiB), 8 * kMiB));
  EXPECT_TRUE(f.in_use(Phys(24 * kMiB + 5), 8 * kMiB - 5));
  EXPECT_TRUE(f.in_use(Phys(28 * kMiB - 1), 2));
  EXPECT_FALSE(f.in_use(Phys(24 * kMiB - 1), 2));
  EXPECT_FALSE(f.in_use(Phys(24 * kMiB), 8 * kMiB + 1));
  EXPECT_FALSE(f.in_use(Phys(24 * kMiB), 0));
  EXPECT_FALSE(f.in_use(Phys(24 * kMiB), ~u64{0}));
  EXPECT_FALSE(f.in_use(Phys(~u64{0}), 2)) << "wraps";
  EXPECT_FALSE(f.in_use(Phys(u64{1} << 40), kPageSize));
  EXPECT_FALSE(f.in_use(Phys(20 * kMiB), 8)) << "reserved";
  EXPECT_FALSE(f.in_use(f.bookkeeping().base, 8));
}

TEST_F(KeptTest, AnyFreeFindsOneFreePageInAnyRange) {
  ASSERT_TRUE(f.keep(Phys(24 * kMiB), 11));
  f.open();
  EXPECT_FALSE(f.any_free(Phys(24 * kMiB), 8 * kMiB)) << "kept";
  EXPECT_TRUE(f.any_free(Phys(24 * kMiB), 8 * kMiB + 1)) << "and what nobody ever had, behind it";
  EXPECT_TRUE(f.any_free(Phys(24 * kMiB - 1), 2)) << "and before it";
  EXPECT_FALSE(f.any_free(Phys(u64{1} << 40), kPageSize)) << "no RAM: a bank";
  EXPECT_FALSE(f.any_free(Phys(24 * kMiB), 0));
  EXPECT_FALSE(f.any_free(Phys(~u64{0}), 2)) << "wraps";
  EXPECT_FALSE(f.any_free(Phys(20 * kMiB), 8)) << "reserved";
  // One page in the middle of an allocated block.
  const Phys block = *f.alloc(0);
  EXPECT_FALSE(f.any_free(block, kPageSize));
  EXPECT_FALSE(f.any_free(block + 5, 1));
  f.free(block, 0);
  EXPECT_TRUE(f.any_free(block, kPageSize));
}

// --- models -------------------------------------------------------------------------------------------------

// Any RAM map, any kept blocks, any sequence of calls, against one byte a frame.
TEST_F(FrameTest, Model) {
  EXPECT_TRUE(rc::check("frames against a map of bytes", [this] {
    std::mt19937_64 random(*rc::gen::arbitrary<u64>());
    const auto below = [&random](u64 n) { return random() % n; };
    fill(static_cast<int>(below(256)));
    const u64 frames = machine.window / kPageSize;
    enum State : u8 { kAbsent, kFree, kUsed };
    std::vector<u8> state(frames, kAbsent);
    std::vector<u8> is_scratch(frames, 0);

    std::vector<Extent> ram, reserved, scratch;
    for (u64 at = below(300); at < frames;) {
      const u64 length = std::min(frames - at, 1 + below(6000));
      ram.push_back({Phys(at * kPageSize), length * kPageSize});
      std::fill_n(state.begin() + static_cast<s64>(at), length, kFree);
      at += length + below(2) * below(1500);
    }
    for (u64 n = below(6); n > 0; --n) {
      const u64 at = below(machine.window), length = std::min(machine.window - at, below(2 * kMiB));
      reserved.push_back({Phys(at), length});
      if (length == 0) continue;
      for (u64 i = at / kPageSize; i <= (at + length - 1) / kPageSize; ++i) state[i] = kAbsent;
    }
    const bool handover = below(4) != 0;
    if (handover) {
      for (u64 at = below(2000); at < frames && scratch.size() < 3;) {
        const u64 length = std::min(frames - at, 500 + below(2000));
        scratch.push_back({Phys(at * kPageSize), length * kPageSize});
        std::fill_n(is_scratch.begin() + static_cast<s64>(at), length, 1);
        at += length + below(3000);
      }
      std::shuffle(scratch.begin(), scratch.end(), random);
    }
    FrameAllocator f(machine);
    const auto init = f.init(ram, reserved, scratch);
    if (!init) {
      RC_ASSERT(init.error() == Errno::Enomem);
      RC_DISCARD("no room for the bookkeeping");
    }
    state[0] = kAbsent;
    for (u64 i = 0; i < f.bookkeeping().length / kPageSize; ++i) {
      const u64 at = f.bookkeeping().base.page() + i;
      RC_ASSERT(state[at] == kFree);
      RC_ASSERT(!handover || is_scratch[at] == 1);
      state[at] = kAbsent;
    }
    if (!handover && below(2) == 0) {
      if (const auto carved = f.carve_scratch(1 + below(8 * kMiB))) {
        for (u64 i = 0; i < carved->length / kPageSize; ++i) {
          RC_ASSERT(state[carved->base.page() + i] == kFree);
          is_scratch[carved->base.page() + i] = 1;
        }
      }
    }

    std::map<u64, unsigned> kept, held;
    const auto range_is = [&](u64 first, unsigned order, u8 want, int in_scratch) {
      for (u64 i = first; i < first + (u64{1} << order); ++i) {
        if (i >= frames || state[i] != want || (in_scratch >= 0 && is_scratch[i] != in_scratch)) return false;
      }
      return true;
    };
    const auto set = [&](u64 first, unsigned order, u8 to) {
      std::fill_n(state.begin() + static_cast<s64>(first), u64{1} << order, to);
    };
    for (u64 n = below(300); n > 0; --n) {
      const unsigned order = static_cast<unsigned>(below(13));
      const u64 first = align_down(below(frames), u64{1} << order);
      const bool fits = range_is(first, order, kFree, 0);
      const bool outside = range_is(first, order, kAbsent, 0);
      const bool ok = static_cast<bool>(f.keep(Phys(first * kPageSize), order));
      RC_ASSERT(!fits || ok);
      RC_ASSERT(!ok || fits || outside);
      if (!ok || !fits) continue;
      kept.emplace(first, order);
      set(first, order, kUsed);
    }
    const auto any_free = [&](unsigned order, int in_scratch) {
      for (u64 first = 0; first + (u64{1} << order) <= frames; first += u64{1} << order) {
        if (range_is(first, order, kFree, in_scratch)) return true;
      }
      return false;
    };
    bool open = false;
    for (unsigned step = 0; step < 1200; ++step) {
      const u64 what = below(100);
      if (step == 200) {
        f.open();
        open = true;
      }
      if (what < 55) {
        const unsigned order = static_cast<unsigned>(below(below(4) == 0 ? 11 : 3));
        const bool from_scratch = what < 5 || !open;
        const auto at = what < 5 ? f.alloc_scratch(order) : f.alloc(order);
        if (!at) {
          RC_ASSERT(!any_free(order, from_scratch ? 1 : 0));
          continue;
        }
        RC_ASSERT(at->aligned(kPageSize << order));
        RC_ASSERT(range_is(at->page(), order, kFree, from_scratch ? 1 : 0));
        set(at->page(), order, kUsed);
        held.emplace(at->page(), order);
      } else if (what < 90 && !held.empty()) {
        auto it = held.lower_bound(below(frames));
        if (it == held.end()) it = held.begin();
        f.free(Phys(it->first * kPageSize), it->second);
        set(it->first, it->second, kFree);
        held.erase(it);
      } else if (what < 97 && !kept.empty()) {
        auto it = kept.lower_bound(below(frames));
        if (it == kept.end()) it = kept.begin();
        const unsigned wrong = static_cast<unsigned>(below(13));
        if (wrong != it->second) RC_ASSERT(!f.restore(Phys(it->first * kPageSize), wrong));
        RC_ASSERT(static_cast<bool>(f.restore(Phys(it->first * kPageSize), it->second)));
        held.insert(*it);
        kept.erase(it);
      } else {
        const u64 first = below(frames), length = 1 + below(64);
        bool used = true;
        for (u64 i = first; i < first + length; ++i) used = used && i < frames && state[i] == kUsed;
        RC_ASSERT(f.in_use(Phys(first * kPageSize), length * kPageSize) == used);
      }
    }
    u64 free = 0, scratch_free = 0, managed = 0, kept_frames = 0;
    for (u64 i = 0; i < frames; ++i) {
      managed += state[i] != kAbsent;
      free += state[i] == kFree;
      scratch_free += state[i] == kFree && is_scratch[i] == 1;
    }
    for (auto [first, order] : kept) kept_frames += u64{1} << order;
    const FrameAllocator::Totals want{managed, free, kept_frames, scratch_free};
    RC_ASSERT(f.totals() == want);
  }));
}

TEST_F(FrameTest, EveryAllocationAsksOnceAndMayFail) {
  FrameAllocator f(machine);
  ASSERT_TRUE(boot(f, all()));
  ASSERT_TRUE(f.carve_scratch(1));
  f.open();
  const auto totals = f.totals();
  machine.counting.allocations = 0;
  const Phys one = *f.alloc(0), two = *f.alloc_zeroed(4), three = *f.alloc_scratch(1);
  EXPECT_EQ(machine.counting.allocations, 3u);
  f.free(one, 0);
  f.free(two, 4);
  f.free(three, 1);
  machine.counting.fail_at = 4;
  EXPECT_EQ(f.alloc(0).error(), Errno::Enomem);
  machine.counting.fail_at = 5;
  EXPECT_EQ(f.alloc_zeroed(0).error(), Errno::Enomem);
  machine.counting.fail_at = 6;
  EXPECT_EQ(f.alloc_scratch(0).error(), Errno::Enomem);
  EXPECT_EQ(f.totals(), totals);
  machine.steps = nullptr;
  EXPECT_TRUE(f.alloc(0)) << "hardware that runs by itself";
}

// Boot touches nothing that grows with the memory: a machine of 4 TiB boots without its bookkeeping being written.
TEST(FrameScale, BootCostsExtentsNotFrames) {
  test::TestMachine machine(u64{4} << 40);
  FrameAllocator f(machine);
  const Extent ram{Phys(0), machine.window};
  const Extent scratch{Phys(u64{1} << 30), u64{1} << 30};
  ASSERT_TRUE(f.init({&ram, 1}, {}, {&scratch, 1}));
  for (u64 i = 1; i <= 1000; ++i) ASSERT_TRUE(f.keep(Phys(i << 32), 9));
  f.open();
  ASSERT_TRUE(f.alloc(10));
  // Pages of the bookkeeping that exist: a few for each kept block.
  std::vector<unsigned char> resident(f.bookkeeping().length / kPageSize);
  ASSERT_EQ(mincore(machine.virt(f.bookkeeping().base), f.bookkeeping().length, resident.data()), 0);
  EXPECT_GT(resident.size(), 50'000u);
  EXPECT_LT(std::count_if(resident.begin(), resident.end(), [](unsigned char c) { return (c & 1) != 0; }), 4'000);
}

}  // namespace
}  // namespace perdure
