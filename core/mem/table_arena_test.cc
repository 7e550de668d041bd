#include "core/mem/table_arena.h"

#include <rapidcheck.h>

#include <random>

#include "core/base/asan.h"
#include "tests/support/test_machine.h"

namespace perdure {
namespace {

using abi::TableArenaChunk;
using abi::TableArenaPage;

// A kernel's memory side: cold boot with scratch, or after a handover of everything that `kept` names.
struct Kernel {
  explicit Kernel(test::TestMachine& machine) : frames(machine), heap(frames) {
    const Extent ram{Phys(0), machine.window};
    EXPECT_TRUE(frames.init({&ram, 1}, {}, {}));
    scratch = *frames.carve_scratch(u64{8} << 20);
    frames.open();
    before = frames.totals();
  }
  Kernel(test::TestMachine& machine, Extent scratch_area, const std::map<u64, unsigned>& kept)
      : frames(machine), heap(frames), scratch(scratch_area) {
    const Extent ram{Phys(0), machine.window};
    EXPECT_TRUE(frames.init({&ram, 1}, {}, {&scratch, 1}));
    for (auto [base, order] : kept) EXPECT_TRUE(frames.keep(Phys(base), order));
    frames.open();
    before = frames.totals();
  }
  auto readable() {
    return [this](Phys base, u64 length) { return frames.in_use(base, length) && !frames.in_scratch(base, length); };
  }
  auto restore() {
    return [this](Phys base, unsigned order) { return frames.restore(base, order); };
  }
  Result<void> adopt(TableArena& arena, Phys first) { return arena.adopt(first, readable(), restore()); }

  FrameAllocator frames;
  Heap heap;
  Extent scratch;
  FrameAllocator::Totals before;
};

// An object of a kernel that ends by a jump: never destroyed, since its memory belongs to the next kernel by then.
template <class T>
struct Abandoned {
  template <class... Args>
  explicit Abandoned(Args&&... args) : object(new(storage) T(std::forward<Args>(args)...)) {}
  T* operator->() { return object; }
  T& operator*() { return *object; }
  alignas(T) std::byte storage[sizeof(T)];
  T* object;
};

std::map<u64, unsigned> blocks_of(const TableArena& arena) {
  std::map<u64, unsigned> blocks;
  EXPECT_TRUE(arena.each_block([&](Phys base, unsigned order) -> Result<void> {
    EXPECT_TRUE(blocks.emplace(base.value, order).second);
    return {};
  }));
  return blocks;
}

bool is_zero(const std::byte* at, usize bytes) {
  return std::all_of(at, at + bytes, [](std::byte b) { return b == std::byte{0}; });
}

struct TableArenaTest : testing::Test {
  TableArenaTest() {
    asan::unpoison(machine.direct_map, machine.window);
    std::memset(machine.direct_map, 0xa5, machine.window);
  }
  // Heaps of abandoned kernels leave freed objects poisoned.
  ~TableArenaTest() override { asan::unpoison(machine.direct_map, machine.window); }
  TableArenaPage& descriptor(Phys at) { return *machine.virt<TableArenaPage>(at); }
  static void reseal(TableArenaPage& p) {
    abi::seal(abi::kTableArenaPageSchema, std::as_writable_bytes(std::span(&p, 1)));
  }
  test::TestMachine machine{u64{64} << 20};
};

TEST_F(TableArenaTest, PagesAreZeroedDistinctAndGivenBack) {
  Kernel k(machine);
  {
    TableArena arena(k.heap);
    EXPECT_FALSE(arena.first_descriptor());
    std::set<u64> pages;
    for (int i = 0; i < 3000; ++i) {
      const Phys at = *arena.alloc_page();
      EXPECT_TRUE(pages.insert(at.value).second);
      ASSERT_TRUE(at.aligned(kPageSize));
      ASSERT_TRUE(is_zero(machine.virt(at), kPageSize));
      std::memset(machine.virt(at), 0xff, kPageSize);
      EXPECT_TRUE(arena.owns(at));
      EXPECT_FALSE(arena.owns(at + 8));
    }
    EXPECT_EQ(arena.pages_in_use(), 3000u);
    // 16, 16, 32, 64 KiB … 1 MiB (512 pages together), then 2 MiB each.
    EXPECT_EQ(arena.chunk_count(), 8u + 5u);
    for (const u64 at : pages) arena.free_page(Phys(at));
    for (const u64 at : pages) EXPECT_FALSE(arena.owns(Phys(at)));
    EXPECT_EQ(arena.pages_in_use(), 0u);
    EXPECT_EQ(arena.chunk_count(), 1u) << "one empty chunk is kept";
    arena.trim();
    EXPECT_EQ(arena.chunk_count(), 0u);
    EXPECT_FALSE(arena.first_descriptor());
    EXPECT_TRUE(arena.alloc_page());
  }
  k.heap.trim();
  EXPECT_EQ(k.heap.bytes_in_use(), 0u);
  EXPECT_EQ(k.frames.totals(), k.before);
}

TEST_F(TableArenaTest, FreeOfAForeignOrFreePagePanics) {
  Kernel k(machine);
  TableArena arena(k.heap);
  const Phys page = *arena.alloc_page();
  const Phys other = *arena.alloc_page();
  arena.free_page(page);
  EXPECT_DEATH(arena.free_page(page), "panic");
  EXPECT_DEATH(arena.free_page(other + 8), "panic");
  EXPECT_DEATH(arena.free_page(Phys(0)), "panic");
  EXPECT_DEATH(arena.free_page(Phys(machine.window - kPageSize)), "panic");
}

// An object of each size whose slab is larger than a page, so that the heap needs no new such slab for a while.
struct HeapCushion {
  explicit HeapCushion(Heap& h) : heap(h) {
    for (usize i = 0; i < 3; ++i) at[i] = *heap.allocate(512u << i);
  }
  ~HeapCushion() {
    for (usize i = 0; i < 3; ++i) heap.release(at[i], 512u << i);
  }
  Heap& heap;
  void* at[3];
};

TEST_F(TableArenaTest, SmallerChunksWhenMemoryIsInPieces) {
  Kernel k(machine);
  const HeapCushion cushion(k.heap);
  // Everything taken, every other frame given back: no two free frames are neighbours.
  std::vector<Phys> taken;
  while (auto at = k.frames.alloc(0)) taken.push_back(*at);
  for (usize i = 0; i < taken.size(); i += 2) k.frames.free(taken[i], 0);
  {
    TableArena arena(k.heap);
    for (int i = 0; i < 120; ++i) ASSERT_TRUE(arena.alloc_page());
    EXPECT_EQ(arena.chunk_count(), 120u);
  }
  for (usize i = 1; i < taken.size(); i += 2) k.frames.free(taken[i], 0);
}

// The descriptor page is there, the chunk is not.
TEST_F(TableArenaTest, OneFrameIsNotEnough) {
  Kernel k(machine);
  {
    TableArena arena(k.heap);
    std::vector<Phys> taken;
    // What the arena's lists need of the heap comes first.
    arena.free_page(*arena.alloc_page());
    arena.trim();
    while (auto at = k.frames.alloc(0)) taken.push_back(*at);
    k.frames.free(taken.back(), 0);
    taken.pop_back();
    for (int i = 0; i < 3; ++i) EXPECT_EQ(arena.alloc_page().error(), Errno::Enomem);
    EXPECT_EQ(k.frames.totals().free - k.frames.totals().scratch_free, 1u);
    EXPECT_FALSE(arena.first_descriptor());
    k.frames.free(taken.back(), 0);
    taken.pop_back();
    EXPECT_TRUE(arena.alloc_page());
    for (const Phys at : taken) k.frames.free(at, 0);
  }
  k.heap.trim();
  EXPECT_EQ(k.frames.totals(), k.before);
}

// Any sequence of allocating and freeing, against a set; the sealed chain must be adopted with the same pages.
TEST_F(TableArenaTest, ModelWithHandover) {
  EXPECT_TRUE(rc::check("arena against a set of pages", [this] {
    Abandoned<Kernel> old(machine);
    Abandoned<TableArena> arena(old->heap);
    std::vector<u64> pages;
    const auto churn = [&pages](TableArena& a, u32 seed, unsigned steps) {
      std::mt19937 random(seed);
      for (unsigned i = 0; i < steps; ++i) {
        // Long phases of growing and shrinking.
        const bool grow = pages.empty() || random() % 8 < ((i / 300) % 2 == 0 ? 7u : 1u);
        if (grow) {
          auto at = a.alloc_page();
          RC_ASSERT(static_cast<bool>(at));
          pages.push_back(at->value);
        } else {
          std::swap(pages[random() % pages.size()], pages.back());
          a.free_page(Phys(pages.back()));
          pages.pop_back();
        }
      }
      RC_ASSERT(a.pages_in_use() == pages.size());
    };
    churn(*arena, *rc::gen::arbitrary<u32>(), *rc::gen::inRange(0u, 3000u));
    if (*rc::gen::arbitrary<bool>()) arena->trim();
    arena->seal();
    const Phys first = arena->first_descriptor();
    const auto kept = blocks_of(*arena);
    if (first) {
      Kernel next(machine, old->scratch, kept);
      {
        TableArena adopted(next.heap);
        RC_ASSERT(static_cast<bool>(next.adopt(adopted, first)));
        RC_ASSERT(next.frames.totals().kept == 0u);
        RC_ASSERT(adopted.pages_in_use() == pages.size());
        for (const u64 at : pages) RC_ASSERT(adopted.owns(Phys(at)));
        const std::set<u64> distinct(pages.begin(), pages.end());
        churn(adopted, *rc::gen::arbitrary<u32>(), *rc::gen::inRange(0u, 2000u));
        for (const u64 at : pages) adopted.free_page(Phys(at));
        adopted.trim();
        RC_ASSERT(adopted.chunk_count() == 0u);
      }
      next.heap.trim();
      FrameAllocator::Totals want = next.before;
      want.free += want.kept;
      want.kept = 0;
      RC_ASSERT(next.frames.totals() == want);
    }
  }));
}

TEST_F(TableArenaTest, EveryAllocationMayFail) {
  Kernel k(machine);
  u64 fails = 0;
  for (u64 nth = 1;; ++nth) {
    TableArena arena(k.heap);
    machine.counting.allocations = 0;
    machine.counting.fail_at = nth;
    std::set<u64> pages;
    for (int i = 0; i < 700; ++i) {
      auto at = arena.alloc_page();
      if (at) {
        ASSERT_TRUE(pages.insert(at->value).second);
      } else {
        ++fails;
        EXPECT_EQ(at.error(), Errno::Enomem);
      }
    }
    const bool past = machine.counting.allocations < nth;
    machine.counting.fail_at = 0;
    EXPECT_EQ(arena.pages_in_use(), pages.size());
    for (const u64 at : pages) arena.free_page(Phys(at));
    arena.trim();
    EXPECT_FALSE(arena.first_descriptor());
    if (past) break;
  }
  EXPECT_GE(fails, 4u);
  k.heap.trim();
  EXPECT_EQ(k.heap.bytes_in_use(), 0u);
  EXPECT_EQ(k.frames.totals(), k.before);
}

// --- adoption -----------------------------------------------------------------------------------------------

// Two descriptor pages: 50 chunks and a few, of one page each, since memory is in pieces.
struct HandedOver : TableArenaTest {
  HandedOver() : old(machine), arena(old->heap) {
    const HeapCushion cushion(old->heap);
    std::vector<Phys> taken;
    while (auto at = old->frames.alloc(0)) taken.push_back(*at);
    for (usize i = 0; i < taken.size(); i += 2) old->frames.free(taken[i], 0);
    for (int i = 0; i < 52; ++i) pages.push_back(*arena->alloc_page());
    // From here on memory is in one piece again: a few larger chunks, partly used.
    for (usize i = 1; i < taken.size(); i += 2) old->frames.free(taken[i], 0);
    for (int i = 0; i < 70; ++i) pages.push_back(*arena->alloc_page());
    arena->seal();
    first = arena->first_descriptor();
    second = Phys(descriptor(first).next);
    kept = blocks_of(*arena);
  }

  // Adopts with a fresh kernel whose handover keeps what it always kept, and checks that a failure leaves all of it.
  Result<void> try_adopt() {
    Kernel next(machine, old->scratch, kept);
    Result<void> result;
    {
      TableArena adopted(next.heap);
      result = next.adopt(adopted, first);
      if (result) {
        for (const Phys at : pages) EXPECT_TRUE(adopted.owns(at));
        EXPECT_EQ(adopted.pages_in_use(), pages.size());
      } else {
        EXPECT_EQ(adopted.chunk_count(), 0u);
        EXPECT_EQ(adopted.pages_in_use(), 0u);
        EXPECT_EQ(next.frames.totals().kept, next.before.kept) << "refused, but restored something";
      }
    }
    next.heap.trim();
    EXPECT_EQ(next.heap.bytes_in_use(), 0u);
    return result;
  }

  Abandoned<Kernel> old;
  Abandoned<TableArena> arena;
  std::vector<Phys> pages;
  Phys first, second;
  std::map<u64, unsigned> kept;
};

TEST_F(HandedOver, IsAdoptedOnce) {
  ASSERT_EQ(descriptor(first).count, 50u);
  ASSERT_TRUE(second);
  ASSERT_TRUE(try_adopt());
  Kernel next(machine, old->scratch, kept);
  TableArena one(next.heap), two(next.heap);
  ASSERT_TRUE(next.adopt(one, first));
  EXPECT_EQ(blocks_of(one), kept);
  const auto again = next.adopt(two, first);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error(), Errno::Enoent);
  EXPECT_EQ(two.chunk_count(), 0u);
  for (const Phys at : pages) EXPECT_TRUE(one.owns(at));
}

TEST_F(HandedOver, AnyFlippedBitIsRefused) {
  for (const Phys at : {first, second}) {
    for (u64 i = 0; i < kPageSize; ++i) {
      std::byte& b = *machine.virt(at + i);
      const std::byte flip{static_cast<unsigned char>(1u << (i % 8))};
      b ^= flip;
      TableArena adopted(old->heap);
      const auto result =
          adopted.adopt(first, [](Phys, u64) { return true; }, [](Phys, unsigned) { return Result<void>{}; });
      EXPECT_FALSE(result) << "byte " << i;
      adopted.abandon();
      b ^= flip;
    }
  }
}

// The same with the checksum made right afterwards: refused, or an arena that hands out only memory that was handed
// over.
TEST_F(HandedOver, ResealedFlipsAreRefusedOrHarmless) {
  unsigned accepted = 0;
  for (const Phys at : {first, second}) {
    TableArenaPage& p = descriptor(at);
    const TableArenaPage original = p;
    for (u64 i = 0; i < kPageSize; i += i < 96 ? 1 : 3) {
      reinterpret_cast<unsigned char*>(&p)[i] ^= static_cast<unsigned char>(1u << ((i + i / 8) % 8));
      reseal(p);
      TableArena adopted(old->heap);
      std::map<u64, unsigned> restored;
      const auto result = adopted.adopt(
          first,
          [&](Phys base, u64 length) {
            auto it = kept.upper_bound(base.value);
            return it != kept.begin() && (--it, base.value + length <= it->first + (kPageSize << it->second));
          },
          [&](Phys base, unsigned order) -> Result<void> {
            const auto it = kept.find(base.value);
            if (it == kept.end() || it->second != order) return fail(Errno::Enoent);
            EXPECT_TRUE(restored.emplace(base.value, order).second);
            return {};
          });
      if (result) {
        ++accepted;
        EXPECT_EQ(restored, kept);
      }
      adopted.abandon();
      p = original;
    }
  }
  // The number of pages in use guards the bitmap, so no single flip is a valid chain.
  EXPECT_EQ(accepted, 8u) << "only flips in the checksums themselves, which are made right again";
}

TEST_F(HandedOver, HostileChains) {
  struct Case {
    const char* name;
    std::function<void(TableArenaPage& one, TableArenaPage& two)> spoil;
  };
  const u64 one_at = first.value, two_at = second.value;
  const Case cases[] = {
      {"cycle to itself", [&](auto& one, auto&) { one.next = one_at; }},
      {"cycle to the first",
       [&](auto&, auto& two) {
         two.next = one_at;
         two.count = 50;
       }},
      {"unaligned next", [&](auto& one, auto&) { one.next = two_at + 64; }},
      {"next beyond memory", [&](auto& one, auto&) { one.next = machine.window; }},
      {"next at the top of the address space", [&](auto& one, auto&) { one.next = align_down(~u64{0}, kPageSize); }},
      {"next in free memory", [&](auto& one, auto&) { one.next = old->scratch.base.value; }},
      {"shortened first page", [&](auto& one, auto&) { one.count = 49; }},
      {"shortened first page, neatly",
       [&](auto& one, auto&) {
         one.count = 49;
         one.chunks[49] = {};
         --one.used_pages;
       }},
      {"empty page", [&](auto&, auto& two) { two.count = 0; }},
      {"too many", [&](auto& one, auto&) { one.count = 51; }},
      {"chunk twice", [&](auto& one, auto&) { one.chunks[1] = one.chunks[0]; }},
      {"chunk twice, in two pages", [&](auto& one, auto& two) { two.chunks[0].base = one.chunks[3].base; }},
      {"chunk that contains a descriptor page", [&](auto& one, auto&) { one.chunks[0].base = two_at; }},
      {"order too large",
       [&](auto& one, auto&) {
         one.chunks[0].order = 10;
         one.chunks[0].base = 0x400000;
       }},
      {"order larger than preserved",
       [&](auto& one, auto&) {
         one.chunks[7].order = 1;
         one.chunks[7].base = align_down(one.chunks[7].base, 2 * kPageSize);
       }},
      {"unaligned chunk", [&](auto&, auto& two) { two.chunks[two.count - 1].base += kPageSize; }},
      {"null chunk", [&](auto& one, auto&) { one.chunks[0].base = 0; }},
      {"chunk at the top of the address space",
       [&](auto& one, auto&) { one.chunks[0].base = align_down(~u64{0}, kPageSize); }},
      {"page beyond the chunk",
       [&](auto& one, auto&) {
         one.chunks[0].used[0] |= 2;
         ++one.used_pages;
       }},
      {"page far beyond the chunk",
       [&](auto& one, auto&) {
         one.chunks[0].used[7] = 1;
         ++one.used_pages;
       }},
      {"page more", [&](auto&, auto& two) { ++two.used_pages; }},
      {"version", [&](auto& one, auto&) { one.version = 2; }},
      {"second page as first", [&](auto&, auto&) { first = second; }},
      {"page of another chain", [&](auto&, auto& two) { two.first = two_at; }},
      {"page moved", [&](auto& one, auto&) { one.self = two_at; }},
  };
  const TableArenaPage one = descriptor(first), two = descriptor(second);
  const Phys real_first = first;
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    c.spoil(descriptor(real_first), descriptor(second));
    reseal(descriptor(real_first));
    reseal(descriptor(second));
    const auto result = try_adopt();
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error(), Errno::Einval);
    first = real_first;
    descriptor(first) = one;
    descriptor(second) = two;
  }
  EXPECT_TRUE(try_adopt());
}

TEST_F(HandedOver, NothingRestoredIsFreedWhenAdoptionFailsLate) {
  for (usize nth = 1; nth <= kept.size(); ++nth) {
    Kernel next(machine, old->scratch, kept);
    {
      TableArena adopted(next.heap);
      usize calls = 0;
      const auto result = adopted.adopt(first, next.readable(), [&](Phys base, unsigned order) -> Result<void> {
        if (++calls == nth) return fail(Errno::Eio);
        return next.frames.restore(base, order);
      });
      ASSERT_FALSE(result);
      EXPECT_EQ(result.error(), Errno::Eio);
      EXPECT_EQ(adopted.chunk_count(), 0u);
    }
    next.heap.trim();
    for (auto [base, order] : kept) ASSERT_TRUE(next.frames.in_use(Phys(base), kPageSize << order));
    EXPECT_EQ(next.frames.totals().free, next.before.free);
  }
}

TEST_F(HandedOver, EveryAllocationOfAdoptionMayFail) {
  u64 fails = 0;
  for (u64 nth = 1;; ++nth) {
    const auto result = machine.counting.failing(nth, [&] { return try_adopt(); });
    if (result) break;
    ++fails;
    EXPECT_EQ(result.error(), Errno::Enomem);
  }
  EXPECT_GE(fails, 3u);
}

TEST_F(HandedOver, AnUnsealedChangeIsRefused) {
  arena->free_page(pages.back());
  EXPECT_FALSE(try_adopt());
}

TEST_F(HandedOver, ChainThatBecameShorter) {
  while (descriptor(first).next != 0) {
    arena->free_page(pages.back());
    pages.pop_back();
    arena->trim();
  }
  ASSERT_GE(pages.size(), 40u);
  arena->seal();
  kept = blocks_of(*arena);
  EXPECT_TRUE(try_adopt());
}

TEST_F(HandedOver, SealsAgainAfterAChange) {
  arena->free_page(pages.back());
  pages.pop_back();
  arena->seal();
  EXPECT_TRUE(try_adopt());
}

}  // namespace
}  // namespace perdure
