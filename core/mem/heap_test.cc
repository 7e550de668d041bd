#include "core/mem/heap.h"

#include <rapidcheck.h>

#include <random>
#include <thread>

#include "core/base/asan.h"
#include "tests/support/test_machine.h"

namespace perdure {
namespace {

struct HeapTest : testing::Test {
  HeapTest() {
    std::memset(machine.direct_map, 0xff, machine.window);
    const Extent ram{Phys(0), machine.window};
    EXPECT_TRUE(frames.init({&ram, 1}, {}, {}));
    frames.open();
    before = frames.totals();
  }
  ~HeapTest() override {
    EXPECT_EQ(heap.bytes_in_use(), 0u);
    heap.trim();
    EXPECT_EQ(frames.totals(), before);
  }
  test::TestMachine machine{u64{32} << 20};
  FrameAllocator frames{machine};
  FrameAllocator::Totals before;
  Heap heap{frames};
};

TEST_F(HeapTest, AllocatesEverySizeAligned) {
  std::vector<std::pair<unsigned char*, usize>> held;
  for (usize bytes = 1; bytes <= 20000; bytes += bytes < 140 ? 1 : 97) {
    auto at = heap.allocate(bytes);
    ASSERT_TRUE(at);
    const u64 align = std::min<u64>(std::bit_ceil(bytes), kPageSize);
    EXPECT_EQ(machine.phys(*at).value % align, 0u) << bytes;
    std::memset(*at, static_cast<int>(bytes), bytes);
    held.emplace_back(static_cast<unsigned char*>(*at), bytes);
  }
  for (auto [at, bytes] : held) {
    for (usize i = 0; i < bytes; ++i) ASSERT_EQ(at[i], bytes & 0xff);
    heap.release(at, bytes);
  }
}

TEST_F(HeapTest, Limits) {
  EXPECT_EQ(heap.allocate(0).error(), Errno::Einval);
  EXPECT_EQ(heap.allocate(Heap::kMaxBytes + 1).error(), Errno::Enomem);
  EXPECT_EQ(heap.allocate(~usize{0}).error(), Errno::Enomem);
  void* largest = *heap.allocate(Heap::kMaxBytes);
  std::memset(largest, 1, Heap::kMaxBytes);
  heap.release(largest, Heap::kMaxBytes);
}

TEST_F(HeapTest, WrongReleasesPanic) {
  void* at = *heap.allocate(100);
  void* large = *heap.allocate(5000);
  EXPECT_DEATH(heap.release(nullptr, 100), "panic");
  EXPECT_DEATH(heap.release(at, 0), "panic");
  EXPECT_DEATH(heap.release(at, 20), "panic") << "another class";
  EXPECT_DEATH(heap.release(static_cast<std::byte*>(at) + 16, 100), "panic") << "inside an object";
  EXPECT_DEATH(heap.release(large, 20000), "panic");
  heap.release(large, 5000);
  EXPECT_DEATH(heap.release(large, 5000), "panic");
  heap.release(at, 100);
  EXPECT_DEATH(heap.release(at, 100), "panic") << "twice";
}

TEST_F(HeapTest, LeaksAreFoundAtTheEnd) {
  EXPECT_DEATH(
      {
        Heap leaky(frames);
        std::ignore = leaky.allocate(10);
      },
      "in_use_ == 0");
}

// One empty slab of each size stays, so that the first object of a size does not cost frames again and again.
TEST_F(HeapTest, KeepsOneEmptySlabUntilTrim) {
  const u64 free = frames.totals().free;
  void* at = *heap.allocate(64);
  EXPECT_EQ(frames.totals().free, free - 1);
  heap.release(at, 64);
  EXPECT_EQ(frames.totals().free, free - 1);
  std::vector<void*> many;
  for (int i = 0; i < 1000; ++i) many.push_back(*heap.allocate(64));
  EXPECT_GT(free - frames.totals().free, 15u);
  for (void* p : many) heap.release(p, 64);
  EXPECT_EQ(frames.totals().free, free - 1);
  heap.trim();
  EXPECT_EQ(frames.totals().free, free);
}

// Room in a slab that was full is used before a new slab.
TEST_F(HeapTest, FullSlabsAreUsedAgain) {
  std::vector<void*> held;
  for (int i = 0; i < 1000; ++i) held.push_back(*heap.allocate(200));
  const u64 free = frames.totals().free;
  for (usize i = 0; i < held.size(); i += 7) heap.release(std::exchange(held[i], nullptr), 200);
  for (void*& at : held) {
    if (at == nullptr) at = *heap.allocate(200);
  }
  EXPECT_EQ(frames.totals().free, free);
  for (void* at : held) heap.release(at, 200);
}

TEST_F(HeapTest, AsksOncePerAllocationAndFailsWhole) {
  machine.counting.allocations = 0;
  void* small = *heap.allocate(10);
  void* large = *heap.allocate(10000);
  EXPECT_EQ(machine.counting.allocations, 2u) << "not again for the frames behind";
  heap.release(small, 10);
  heap.release(large, 10000);
  for (const usize bytes : {usize{10}, usize{10000}}) {
    machine.counting.fail_at = machine.counting.allocations + 1;
    EXPECT_EQ(heap.allocate(bytes).error(), Errno::Enomem);
  }
  machine.steps = nullptr;
  heap.release(*heap.allocate(10), 10);
  machine.steps = &machine.counting;
}

TEST_F(HeapTest, OutOfFrames) {
  std::vector<std::pair<void*, usize>> held;
  for (usize bytes = Heap::kMaxBytes; bytes >= 16; bytes /= 2) {
    while (auto at = heap.allocate(bytes)) held.emplace_back(*at, bytes);
  }
  EXPECT_EQ(frames.totals().free, 0u);
  for (auto [at, bytes] : held) heap.release(at, bytes);
}

// Objects never overlap, keep what was written, and the totals are those of the model.
TEST_F(HeapTest, Model) {
  EXPECT_TRUE(rc::check("heap against a map", [this] {
    std::mt19937_64 random(*rc::gen::arbitrary<u64>());
    struct Object {
      usize bytes;
      unsigned char tag;
    };
    std::map<unsigned char*, Object> held;
    u64 in_use = 0;
    const auto drop = [&](auto it) {
      auto [at, o] = *it;
      RC_ASSERT(at[0] == o.tag);
      RC_ASSERT(at[o.bytes - 1] == o.tag);
      RC_ASSERT(at[o.bytes / 2] == o.tag);
      in_use -= o.bytes;
      heap.release(at, o.bytes);
      held.erase(it);
    };
    for (int step = 0; step < 1500; ++step) {
      if (random() % 100 < (step < 900 ? 65u : 30u) || held.empty()) {
        const usize bytes = 1 + random() % (random() % 10 == 0 ? 70000 : random() % 3 == 0 ? 2048 : 200);
        auto made = heap.allocate(bytes);
        if (!made) continue;
        auto* at = static_cast<unsigned char*>(*made);
        auto next = held.lower_bound(at);
        RC_ASSERT(next == held.end() || at + bytes <= next->first);
        if (next != held.begin()) {
          --next;
          RC_ASSERT(next->first + next->second.bytes <= at);
        }
        const auto tag = static_cast<unsigned char>(random());
        std::memset(at, tag, bytes);
        held.emplace(at, Object{bytes, tag});
        in_use += bytes;
      } else {
        auto it = held.lower_bound(reinterpret_cast<unsigned char*>(machine.direct_map) + random() % machine.window);
        drop(it == held.end() ? held.begin() : it);
      }
      if (random() % 64 == 0) heap.trim();
      RC_ASSERT(heap.bytes_in_use() == in_use);
    }
    while (!held.empty()) drop(held.begin());
    heap.trim();
    RC_ASSERT(frames.totals() == before);
  }));
}

TEST_F(HeapTest, ManyThreads) {
  machine.steps = nullptr;  // the counters are for one thread
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      std::mt19937 random(t);
      std::vector<std::pair<unsigned char*, usize>> held;
      for (int step = 0; step < 3000; ++step) {
        if (held.size() < 40 && random() % 2 == 0) {
          const usize bytes = 1 + random() % (random() % 8 == 0 ? 9000 : 300);
          auto at = heap.allocate(bytes);
          if (!at) continue;
          std::memset(*at, static_cast<int>(t + 1), bytes);
          held.emplace_back(static_cast<unsigned char*>(*at), bytes);
        } else if (!held.empty()) {
          auto [at, bytes] = held.back();
          held.pop_back();
          EXPECT_TRUE(std::all_of(at, at + bytes, [t](unsigned char c) { return c == t + 1; }));
          heap.release(at, bytes);
        }
      }
      for (auto [at, bytes] : held) heap.release(at, bytes);
    });
  }
  for (auto& t : threads) t.join();
}

#if defined(PERDURE_ASAN)
TEST_F(HeapTest, AsanSeesUseAfterReleaseAndOverflow) {
  auto* at = static_cast<volatile unsigned char*>(*heap.allocate(40));
  at[39] = 1;
  EXPECT_DEATH(at[40] = 1, "AddressSanitizer");
  heap.release(const_cast<unsigned char*>(at), 40);
  EXPECT_DEATH(at[0] = 1, "AddressSanitizer");
  auto* large = static_cast<volatile unsigned char*>(*heap.allocate(5000));
  large[4999] = 1;
  EXPECT_DEATH(large[5000] = 1, "AddressSanitizer");
  heap.release(const_cast<unsigned char*>(large), 5000);
  // Memory that went back to the frames is anybody's again.
  heap.trim();
  at[0] = 1;
  large[5000] = 1;
}
#endif

// --- owned objects ------------------------------------------------------------------------------------------

struct Counted {
  explicit Counted(int& live) : live_(live) { ++live_; }
  ~Counted() { --live_; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  int& live_;
  char weight[100] = {};
};

struct First : HeapObject {
  u64 first[9] = {};
};
struct Second : HeapObject {
  virtual int answer() const { return 0; }
  u64 second = 2;
};
struct Both final : First, Second {
  explicit Both(int& live) : counted(live) {}
  int answer() const override { return 42; }
  Counted counted;
};

TEST_F(HeapTest, OwnedDestroysOnce) {
  int live = 0;
  {
    Owned<Counted> none;
    EXPECT_FALSE(none);
    auto a = *heap.make<Counted>(live);
    EXPECT_EQ(live, 1);
    Owned<Counted> b = std::move(a);
    EXPECT_FALSE(a);  // NOLINT(bugprone-use-after-move): what a move leaves is part of the contract
    EXPECT_EQ(live, 1);
    Counted* raw = b.release();
    EXPECT_FALSE(b);
    EXPECT_EQ(live, 1);
    Owned<Counted> c(heap, raw);
    c = *heap.make<Counted>(live);
    EXPECT_EQ(live, 1) << "assignment ends the former object";
    auto& same = c;
    c = std::move(same);
    EXPECT_TRUE(c);
    c = nullptr;
    EXPECT_EQ(live, 0);
    c = *heap.make<Counted>(live);
  }
  EXPECT_EQ(live, 0);
}

TEST_F(HeapTest, OwnedByABaseAnywhereInTheObject) {
  int live = 0;
  {
    Owned<Second> s = *heap.make<Both>(live);
    EXPECT_EQ(s->answer(), 42);
    EXPECT_EQ(heap.bytes_in_use(), sizeof(Both));
    Owned<Second> t = std::move(s);
    Owned<First> f = *heap.make<Both>(live);
    EXPECT_EQ(live, 2);
    EXPECT_DEATH(t.release(), "panic") << "the type is not that of the object";
  }
  EXPECT_EQ(live, 0);
}

struct Shared : RefCounted {
  explicit Shared(std::string& events) : events_(events) {}
  ~Shared() override { events_ += "destroyed."; }
  void on_last_ref() override { events_ += "last."; }
  std::string& events_;
};
struct SharedBoth final : First, Shared {
  using Shared::Shared;
};

TEST_F(HeapTest, RefsFreeWithTheLast) {
  std::string events;
  {
    Ref<Shared> a = *heap.make_ref<Shared>(events);
    EXPECT_EQ(a->ref_count(), 1u);
    Ref<Shared> b = a;
    Ref<RefCounted> c = b;
    EXPECT_EQ(a->ref_count(), 3u);
    a = nullptr;
    b = Ref<Shared>();
    EXPECT_EQ(c->ref_count(), 1u);
    EXPECT_EQ(events, "");
    auto& same = c;
    c = same;
    EXPECT_EQ(c->ref_count(), 1u);
  }
  EXPECT_EQ(events, "last.destroyed.");
  events.clear();
  {
    Ref<Shared> d = *heap.make_ref<SharedBoth>(events);
  }
  EXPECT_EQ(events, "last.destroyed.") << "RefCounted not first in the object";
}

TEST_F(HeapTest, MakeFailsWithoutConstructing) {
  int live = 0;
  std::string events;
  machine.counting.fail_at = machine.counting.allocations + 1;
  EXPECT_EQ(heap.make<Counted>(live).error(), Errno::Enomem);
  machine.counting.fail_at = machine.counting.allocations + 1;
  EXPECT_EQ(heap.make_ref<Shared>(events).error(), Errno::Enomem);
  EXPECT_EQ(live, 0);
  EXPECT_EQ(events, "");
}

}  // namespace
}  // namespace perdure
