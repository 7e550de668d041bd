// Every intermediate state, as hardware could see it: after each single store an address translates as before the
// operation or as after it, and nothing but complete tables can be reached.
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "core/pt/testing/rationed.h"
#include "core/pt/testing/table_world.h"

namespace perdure::pt {
namespace {

using namespace testing;

constexpr u64 k4 = kPageSize;
constexpr u64 k2M = kHugePageSize;
constexpr u64 k1G = kGiantPageSize;

// A table under watch: `change` is one operation, with a walk after each of its stores.
template <class Format>
struct Watched {
  explicit Watched(const Geometry& g) : geometry(g), table(recorded_table<Format>(world, g, recorder)), model(g) {}

  template <class Change>
  void change(TableModel after, Change&& run) {
    const Translation old_state = model.translation();
    const Translation new_state = after.translation();
    auto check = [&] {
      HardwareWalker walker = world.walker(*table);
      const Translation now = walker.walk(table->top());
      EXPECT_EQ(walker.faults(), "");
      EXPECT_TRUE(Translation::between(now, old_state, new_state))
          << "store " << recorder.log.size() << "\nnow    " << now << "\nbefore " << old_state << "\nafter  "
          << new_state;
      ++checks;
    };
    recorder.log.clear();
    recorder.stored = [&](const Recorder::Store& s) {
      if (::testing::Test::HasFailure()) return;
      if (s.kind == Recorder::Kind::Live) check();
    };
    recorder.prepared = [&] {
      if (!::testing::Test::HasFailure()) check();
    };
    run();
    recorder.stored = nullptr;
    recorder.prepared = nullptr;
    model = std::move(after);
    expect_equals(world, *table, model);
  }
  void map(u64 iova, u64 phys, u64 length, Access access = Access::ReadWrite) {
    TableModel after = model;
    after.map(iova, phys, length, static_cast<unsigned>(access));
    change(after, [&] { EXPECT_TRUE(table->map(Iova(iova), Phys(phys), length, access)); });
  }
  void unmap(u64 iova, u64 length) {
    TableModel after = model;
    after.unmap(iova, length);
    change(after, [&] { unmap_now(*table, iova, length); });
  }

  TableWorld world;
  Recorder recorder;
  Geometry geometry;
  Owned<PageTable<Format, RecordingMemory>> table;
  TableModel model;
  u64 checks = 0;
};

template <class Format>
void ordinary_life(const Geometry& g) {
  Watched<Format> w(g);
  const u64 base = u64{1} << 40;
  w.map(k1G - 3 * k4, base + k4, 3 * k4);                  // new chain
  w.map(k1G - 9 * k4, base, 5 * k4, Access::Read);         // into the same table
  w.map(k1G + k2M, base + k1G + k2M, 2 * k2M);             // huge leaves, or tables
  w.map(k1G + 4 * k2M - 2 * k4, base + 5 * k1G, 2 * k2M);  // never aligned: tables and edges
  w.map(k1G, base + 6 * k1G, k2M);                         // beside them
  w.map(2 * k1G - k4, base + 2 * k1G - k4, k1G + 2 * k4);  // a giant leaf, or two chains and many tables
  EXPECT_FALSE(::testing::Test::HasFailure());
  w.unmap(k1G - 3 * k4, k4);
  w.unmap(k1G - 9 * k4, 20 * k4);       // empties a table from its middle
  w.unmap(k1G + 2 * k2M - k4, 3 * k4);  // across a table border, or a whole huge leaf
  w.unmap(k1G + k2M, 3 * k2M);          // whole slots and a part
  w.unmap(2 * k1G, k1G);                // most of what is left
  w.unmap(0, ~u64{0});
  EXPECT_GT(w.checks, 40u);
}

TEST(PageTableHistory, MapAndUnmapSecondStage) {
  for (unsigned levels : {3u, 4u, 5u}) {
    for (u64 sizes : {kAllLeafSizes, kPageSize | kHugePageSize, kPageSize | kGiantPageSize}) {
      SCOPED_TRACE(::testing::Message() << levels << " levels, sizes " << std::hex << sizes);
      ordinary_life<VtdSecondStage>(vtd(levels, sizes));
    }
  }
}

TEST(PageTableHistory, MapAndUnmapFirstStage) {
  for (unsigned levels : {4u, 5u}) ordinary_life<X86FirstStage>(x86(levels));
}

RC_GTEST_PROP(PageTableHistory, RandomOperations, ()) {
  const u64 sizes =
      kPageSize | *rc::gen::element<u64>(0, kHugePageSize, kGiantPageSize, kHugePageSize | kGiantPageSize);
  Watched<VtdSecondStage> w(vtd(*rc::gen::element(3u, 4u), sizes));
  const unsigned steps = *rc::gen::inRange(1u, 7u);
  for (unsigned i = 0; i < steps; ++i) {
    const u64 border = *rc::gen::element(k2M, k1G, k1G + k2M, 512 * k1G - k2M);
    const u64 iova = border - *rc::gen::inRange<u64>(0, 12) * k4;
    const u64 length = *rc::gen::inRange<u64>(1, 24) * k4 + *rc::gen::element<u64>(0, 0, k2M - 12 * k4, 2 * k2M);
    const u64 end = u64{1} << w.geometry.iova_bits;
    const u64 bytes = std::min(length, end - iova);
    if (!w.model.overlaps(iova, bytes) && *rc::gen::inRange(0, 8) != 0) {
      w.map(iova, (u64{1} << 40) + iova + *rc::gen::element<u64>(0, 0, k4), bytes);
    } else {
      w.unmap(iova, bytes);
    }
  }
  RC_ASSERT(!::testing::Test::HasFailure());
}

// One store each: what is not in the range cannot change, whatever a walker caches.
TEST(PageTableHistory, OneStoreEach) {
  Watched<VtdSecondStage> w(vtd(4, kPageSize));
  auto live = [&] {
    unsigned n = 0;
    for (const auto& s : w.recorder.log) n += s.kind == Recorder::Kind::Live;
    return n;
  };
  w.map(0, 0, k2M + k2M);  // one subtree, linked at the top
  EXPECT_EQ(live(), 1u);
  w.map(k1G, k1G, 3 * k4);
  EXPECT_EQ(live(), 1u);
  w.map(k1G + 3 * k4, k1G, k4);
  EXPECT_EQ(live(), 1u);
  Gather gather;
  w.recorder.log.clear();
  EXPECT_EQ(w.table->unmap(Iova(0), k1G, gather), 2 * k2M);
  EXPECT_EQ(live(), 1u);
  w.table->release(gather);
}

// What is cut out stays as it was until it is released: a walker may be in the middle of it.
TEST(PageTableHistory, NothingIsWrittenToTablesThatWereCutOut) {
  Watched<VtdSecondStage> w(vtd(4, kPageSize));
  w.map(0, k1G, 2 * k2M + 7 * k4);
  w.map(k1G, k1G, k4);
  std::map<u64, std::vector<u64>> contents;
  ASSERT_TRUE(w.table->each_table([&](Phys page, unsigned) -> Result<void> {
    for (u64 i = 0; i < 512; ++i) contents[page.value].push_back(w.world.word(page.value + 8 * i));
    return {};
  }));
  Gather gather;
  w.recorder.log.clear();
  EXPECT_EQ(w.table->unmap(Iova(0), 2 * k2M, gather), 2 * k2M);
  EXPECT_EQ(w.table->unmap(Iova(2 * k2M), k2M, gather), 7 * k4);
  EXPECT_EQ(w.table->unmap(Iova(k1G), k1G, gather), k4);
  std::set<u64> linked;
  ASSERT_TRUE(w.table->each_table([&](Phys page, unsigned) -> Result<void> {
    linked.insert(page.value);
    return {};
  }));
  EXPECT_EQ(linked.size(), 1u);
  // Each word differs from before only where a recorded store of unmap was, and each of those took something away.
  for (const Recorder::Store& s : w.recorder.log) {
    EXPECT_NE(s.old & 3, 0u);
    EXPECT_EQ(s.value & 3, 0u);
    contents[s.at & ~(k4 - 1)][s.at % k4 / 8] = s.value;
  }
  for (const auto& [page, words] : contents) {
    EXPECT_TRUE(page == w.table->top().value || w.table->arena().owns(Phys(page))) << "freed too early";
    for (u64 i = 0; i < 512; ++i) EXPECT_EQ(w.world.word(page + 8 * i), words[i]);
  }
  w.table->release(gather);
  EXPECT_EQ(w.table->arena().pages_in_use(), 0u);
}

// A map that runs out of memory parks and unparks what it builds; no translation may move meanwhile.
TEST(PageTableHistory, FailedMap) {
  Watched<VtdSecondStage> w(vtd(4, kPageSize));
  w.map(k1G - 4 * k4, k1G, 3 * k4);
  w.map(k1G + 4 * k2M, k1G, k4);
  // An edge in a table that is there, and four new tables.
  const u64 needed = 4;
  for (u64 room = 0; room < needed; ++room) {
    w.recorder.log.clear();
    w.recorder.stored = [&](const Recorder::Store&) {
      HardwareWalker walker = w.world.walker(*w.table);
      EXPECT_EQ(walker.walk(w.table->top()), w.model.translation());
      EXPECT_EQ(walker.faults(), "");
    };
    {
      Rationed ration(w.world, *w.table, room);
      const Result<void> mapped = w.table->map(Iova(k1G - k4), Phys(0), k4 + 4 * k2M, Access::Read);
      ASSERT_FALSE(mapped);
      EXPECT_EQ(mapped.error(), Errno::Enomem);
    }
    w.recorder.stored = nullptr;
    u64 live = 0;
    for (const auto& s : w.recorder.log) live += s.kind == Recorder::Kind::Live;
    EXPECT_EQ(live, 2 * room);
    expect_equals(w.world, *w.table, w.model);
  }
  Rationed ration(w.world, *w.table, needed);
  EXPECT_TRUE(w.table->map(Iova(k1G - k4), Phys(0), k4 + 4 * k2M, Access::Read));
}

TEST(PageTableHistory, Graft) {
  for (unsigned levels : {3u, 4u}) {
    const Geometry g = vtd(levels);
    Watched<VtdSecondStage> w(g);
    auto fresh = recorded_table<VtdSecondStage>(w.world, g, w.recorder);
    const u64 base = u64{1} << 40;
    const u64 slot = u64{1} << (12 + 9 * (levels - 1));  // of the top table
    // The former kernel's way: page by page, so small leaves.
    for (u64 i = 0; i < 600; ++i) w.model.map(slot - 20 * k4 + i * k4, base + i * k4, k4, 3);
    for (const auto& [iova, leaf] : w.model.leaves()) {
      ASSERT_TRUE(w.table->map(Iova(iova), Phys(leaf.phys), leaf.length, Access::ReadWrite));
    }
    ASSERT_TRUE(w.table->map(Iova(2 * slot), Phys(base), k2M, Access::Read));  // in both, as leaf and as table
    for (u64 i = 0; i < 512; ++i)
      ASSERT_TRUE(fresh->map(Iova(2 * slot + i * k4), Phys(base + i * k4), k4, Access::Read));
    ASSERT_TRUE(fresh->map(Iova(slot - 20 * k4), Phys(base), 600 * k4, Access::ReadWrite));
    // What only one of them has is taken away or added.
    ASSERT_TRUE(w.table->map(Iova(3 * slot), Phys(base), k4, Access::Read));
    ASSERT_TRUE(fresh->map(Iova(4 * slot), Phys(base), k4, Access::Read));

    const Phys top = w.table->top();
    const Phys other_top = fresh->top();
    auto walk = [&](Phys from) {
      HardwareWalker walker(
          g, [&](u64 at) { return w.world.word(at); },
          [&](u64 page) {
            return page == top.value || page == other_top.value || w.table->arena().owns(Phys(page)) ||
                   fresh->arena().owns(Phys(page));
          });
      const Translation t = walker.walk(from);
      EXPECT_EQ(walker.faults(), "");
      return t;
    };
    const Translation before = walk(top);
    const Translation after = walk(other_top);
    ASSERT_EQ(before.at(2 * slot + k4), after.at(2 * slot + k4));
    w.recorder.log.clear();
    unsigned at_top = 0;
    w.recorder.stored = [&](const Recorder::Store& s) {
      EXPECT_TRUE(Translation::between(walk(top), before, after));
      at_top += (s.at & ~(k4 - 1)) == top.value;
    };
    IoPageTable& live = *w.table;
    ASSERT_TRUE(fresh->graft_onto(live));
    w.recorder.stored = nullptr;
    EXPECT_EQ(at_top, 5u);  // slots 0 to 4, one store each
    EXPECT_EQ(walk(top), after);
    EXPECT_EQ(fresh->top(), top);
    EXPECT_EQ(live.top(), other_top);
    EXPECT_EQ(walk(live.top()), before);

    // Old tables go; the live top and what hangs on it stays, and works on.
    const u64 pages = fresh->arena().pages_in_use();
    w.table.reset();
    EXPECT_TRUE(w.world.frames.in_use(top, kPageSize));
    EXPECT_FALSE(w.world.frames.in_use(other_top, kPageSize));
    EXPECT_EQ(fresh->arena().pages_in_use(), pages);
    EXPECT_EQ(unmap_now(*fresh, 4 * slot, k4), k4);
    ASSERT_TRUE(fresh->map(Iova(4 * slot), Phys(base), k4, Access::Read));
    HardwareWalker walker = w.world.walker(*fresh);
    EXPECT_EQ(walker.walk(top), after);
    EXPECT_EQ(walker.faults(), "");
  }
}

// A walker that does not snoop: it sees a line only once it was written back, or evicted, which can happen to any
// line at any time. What was never written back is garbage: present entries with reserved bits.
class IncoherentMachine : public test::TestMachine {
 public:
  IncoherentMachine() : TestMachine(u64{32} << 20), shadow_(window / 8, 0xdead'beef'dead'bfff) {}
  void write_back(const void* at, usize bytes) override {
    const u64 from = phys(at).value & ~u64{63};
    const u64 to = align_up(phys(at).value + bytes, 64);
    for (u64 p = from; p < to; p += 8) shadow_[p / 8] = hw::load(virt<u64>(Phys(p)));
    ++write_backs;
    if (on_write_back) on_write_back();
  }
  void evict(u64 at) {
    for (u64 p = at & ~u64{63}; p < align_up(at + 1, 64); p += 8) shadow_[p / 8] = hw::load(virt<u64>(Phys(p)));
  }
  u64 shadow(u64 at) const { return shadow_[at / 8]; }
  std::function<void()> on_write_back;

 private:
  std::vector<u64> shadow_;
};

struct IncoherentWorld {
  IncoherentWorld() {
    const Extent all{Phys(u64{1} << 20), u64{31} << 20};
    EXPECT_TRUE(frames.init({&all, 1}, {}, {}));
    frames.open();
  }
  IncoherentMachine machine;
  FrameAllocator frames{machine};
  Heap heap{frames};
};

class StoredHook final : public StepHook {
 public:
  void stored(Phys) override {
    if (on_stored) on_stored();
  }
  bool may_allocate() override { return true; }
  std::function<void()> on_stored;
};

// `eager`: each line is evicted the moment it is written, so the walker sees everything as early as it can;
// otherwise it sees everything as late as it can.
void incoherent_life(bool eager) {
  IncoherentWorld w;
  StoredHook steps;
  w.machine.steps = &steps;
  Recorder recorder;
  const Geometry g = vtd(4, kAllLeafSizes, false);
  auto made =
      PageTable<VtdSecondStage, RecordingMemory>::create(w.heap, g, RecordingMemory(w.machine, false, recorder));
  ASSERT_TRUE(made);
  auto& t = **made;
  TableModel model(g);
  Translation before;
  Translation after;
  unsigned checks = 0;
  auto check = [&] {
    if (::testing::Test::HasFailure()) return;
    HardwareWalker walker(
        g, [&](u64 at) { return w.machine.shadow(at); },
        [&](u64 page) { return page == t.top().value || t.arena().owns(Phys(page)); });
    const Translation now = walker.walk(t.top());
    EXPECT_EQ(walker.faults(), "");
    EXPECT_TRUE(Translation::between(now, before, after)) << now << "\n" << before << "\n" << after;
    ++checks;
  };
  auto run = [&](auto&& operation) {
    before = after;
    after = model.translation();
    steps.on_stored = check;
    w.machine.on_write_back = check;
    recorder.stored = [&](const Recorder::Store& s) {
      if (eager) w.machine.evict(s.at);
      if (s.kind == Recorder::Kind::Live) check();
    };
    operation();
    steps.on_stored = nullptr;
    w.machine.on_write_back = nullptr;
    recorder.stored = nullptr;
    // On return it is all there.
    before = after;
    check();
  };
  auto map = [&](u64 iova, u64 phys, u64 length) {
    model.map(iova, phys, length, 3);
    run([&] { EXPECT_TRUE(t.map(Iova(iova), Phys(phys), length, Access::ReadWrite)); });
  };
  auto unmap = [&](u64 iova, u64 length) {
    model.unmap(iova, length);
    run([&] { unmap_now(t, iova, length); });
  };
  check();
  map(k1G - 5 * k4, 0, 3 * k4);
  map(k1G - 2 * k4, k1G, 3 * k2M);
  map(2 * k1G, 2 * k1G, k2M + 2 * k4);
  unmap(k1G - k4, 2 * k4);
  unmap(k1G, 2 * k2M);
  map(k1G + k4, 7 * k4, 9 * k4);  // pages that were tables before
  map(k1G + 3 * k2M, 0, k2M);
  unmap(0, ~u64{0});
  EXPECT_GT(checks, 50u);
}

TEST(PageTableHistory, IncoherentWalkerSeesLate) {
  incoherent_life(false);
}
TEST(PageTableHistory, IncoherentWalkerSeesEarly) {
  incoherent_life(true);
}

// The real policy: the same result without a recorder in between, in bulk and stepped.
TEST(PageTableHistory, DirectMemoryWritesBackWhatItStores) {
  for (bool stepped : {false, true}) {
    IncoherentWorld w;
    StoredHook steps;
    w.machine.steps = stepped ? &steps : nullptr;
    const Geometry g = vtd(3, kAllLeafSizes, false);
    Result<Owned<IoPageTable>> made = create(w.heap, g);
    ASSERT_TRUE(made);
    IoPageTable& t = **made;
    TableModel model(g);
    auto seen = [&] {
      HardwareWalker walker(
          g, [&](u64 at) { return w.machine.shadow(at); },
          [&](u64 page) { return page == t.top().value || t.arena().owns(Phys(page)); });
      const Translation now = walker.walk(t.top());
      EXPECT_EQ(walker.faults(), "");
      return now;
    };
    u64 stored = 0;
    steps.on_stored = [&] {
      seen();
      ++stored;
    };
    EXPECT_TRUE(seen().empty());
    auto map = [&](u64 iova, u64 phys, u64 length) {
      model.map(iova, phys, length, 1);
      ASSERT_TRUE(t.map(Iova(iova), Phys(phys), length, Access::Read));
      EXPECT_EQ(seen(), model.translation());
    };
    map(0, k4, 100 * k4);
    map(100 * k4, k1G, 27 * k4);
    map(k2M - k4, 2 * k1G - k4, 2 * k2M);
    map(k1G, 0, 3 * k1G);
    map(256 * k1G, 0, 1 * k2M);
    EXPECT_EQ(unmap_now(t, 99 * k4, 3 * k4), model.unmap(99 * k4, 3 * k4));
    EXPECT_EQ(seen(), model.translation());
    EXPECT_EQ(unmap_now(t, 2 * k2M - k4, k1G), model.unmap(2 * k2M - k4, k1G));
    EXPECT_EQ(seen(), model.translation());
    // A coherent machine's table must not pay for it.
    const u64 write_backs = w.machine.write_backs;
    auto coherent = create(w.heap, vtd(3));
    ASSERT_TRUE(coherent);
    ASSERT_TRUE((*coherent)->map(Iova(0), Phys(k4), 1000 * k4, Access::Read));
    EXPECT_EQ(w.machine.write_backs, write_backs);
    EXPECT_EQ(stored != 0, stepped);

    // Grafting onto what it walks.
    steps.on_stored = nullptr;
    Result<Owned<IoPageTable>> other = create(w.heap, g);
    ASSERT_TRUE(other);
    for (const auto& [iova, leaf] : model.leaves()) {
      ASSERT_TRUE((*other)->map(Iova(iova), Phys(leaf.phys), leaf.length, Access::Read));
    }
    const Phys top = t.top();
    ASSERT_TRUE((*other)->graft_onto(t));
    ASSERT_EQ((*other)->top(), top);
    HardwareWalker walker(
        g, [&](u64 at) { return w.machine.shadow(at); },
        [&](u64 page) { return page == top.value || (*other)->arena().owns(Phys(page)); });
    EXPECT_EQ(walker.walk(top), model.translation());
    EXPECT_EQ(walker.faults(), "");
  }
}

}  // namespace
}  // namespace perdure::pt
