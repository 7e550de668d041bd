// Page tables: the rows of the table in docs that compares with Linux's generic page table, same names, same units.
// Times are of the operations alone; what an iteration prepares and cleans up is not in them.
#include <benchmark/benchmark.h>
#include <immintrin.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "bench/measure.h"
#include "core/pt/io_page_table.h"
#include "tests/support/test_machine.h"

namespace perdure {
namespace {

using bench::seconds;

constexpr u64 k4 = kPageSize;
constexpr u64 k2M = kHugePageSize;
constexpr u64 k1G = kGiantPageSize;
constexpr u64 kOut = u64{1} << 40;

// What a machine with a walker that does not snoop has to do.
class FlushingMachine final : public test::TestMachine {
 public:
  using TestMachine::TestMachine;
  void write_back(const void* at, usize bytes) override {
    const auto* end = static_cast<const std::byte*>(at) + bytes;
    for (const auto* line = static_cast<const std::byte*>(at); line < end; line += 64) _mm_clflush(line);
    _mm_sfence();
  }
};

struct World {
  World() : machine(u64{1} << 30) {
    machine.steps = nullptr;  // as on hardware
    const Extent all{Phys(u64{1} << 20), machine.window - (u64{1} << 20)};
    if (!frames.init({&all, 1}, {}, {})) throw std::runtime_error("frames");
    frames.open();
  }
  FlushingMachine machine;
  FrameAllocator frames{machine};
  Heap heap{frames};
};

struct Table {
  // `format`: 0 VT-d second stage with 4 levels, 1 the same, not coherent, 2 x86 first stage.
  explicit Table(long format) {
    const auto id = format == 2 ? pt::FormatId::X86FirstStage : pt::FormatId::VtdSecondStage;
    auto made =
        pt::create(world.heap, {id, 4, static_cast<u8>(format == 2 ? 47 : 48), 46, k4 | k2M | k1G, format != 1});
    if (!made) throw std::runtime_error("create");
    table = std::move(*made);
  }
  void map(u64 iova, u64 length, u64 phys) {
    if (!table->map(Iova(iova), Phys(phys), length, Access::ReadWrite)) throw std::runtime_error("map");
  }
  void map(u64 iova, u64 length) { map(iova, length, kOut + iova); }
  void unmap(u64 iova, u64 length) {
    pt::Gather gather;
    if (table->unmap(Iova(iova), length, gather) != length) throw std::runtime_error("unmap");
    table->release(gather);
  }
  World world;
  Owned<pt::IoPageTable> table;
};

// Seconds for one `what`, of which an iteration does `count`.
void report(benchmark::State& state, double count, const char* what) {
  state.counters[what] =
      benchmark::Counter(count, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

// Calls of `size` with all tables there: `stride` apart, and one page of each table stays mapped.
template <bool kMap>
void calls(benchmark::State& state, u64 size, u64 stride, u64 count, u64 anchor, u64 anchor_stride) {
  Table t(state.range(0));
  for (u64 i = 0; i * anchor_stride < count * stride; ++i) t.map(i * anchor_stride + anchor, k4);
  u64 n = 0;
  for (u64 i = 0; i < count; ++i) n += (i * stride) % anchor_stride + size <= anchor;
  auto each = [&](auto&& call) {
    for (u64 i = 0; i < count; ++i) {
      if ((i * stride) % anchor_stride + size <= anchor) call(i * stride);
    }
  };
  for (auto _ : state) {
    const double map = seconds([&] { each([&](u64 iova) { t.map(iova, size); }); });
    const double unmap = seconds([&] { each([&](u64 iova) { t.unmap(iova, size); }); });
    state.SetIterationTime(kMap ? map : unmap);
  }
  report(state, static_cast<double>(n), "call");
}

void map_4k(benchmark::State& s) {
  calls<true>(s, k4, k4, 512 * 64, k2M - k4, k2M);
}
void unmap_4k(benchmark::State& s) {
  calls<false>(s, k4, k4, 512 * 64, k2M - k4, k2M);
}
void map_16x4k(benchmark::State& s) {
  calls<true>(s, 16 * k4, 16 * k4, 32 * 64, k2M - k4, k2M);
}
void unmap_16x4k(benchmark::State& s) {
  calls<false>(s, 16 * k4, 16 * k4, 32 * 64, k2M - k4, k2M);
}
void map_2m(benchmark::State& s) {
  calls<true>(s, k2M, k2M, 512 * 16, k1G - k4, k1G);
}
void unmap_2m(benchmark::State& s) {
  calls<false>(s, k2M, k2M, 512 * 16, k1G - k4, k1G);
}
void map_1g(benchmark::State& s) {
  calls<true>(s, k1G, k1G, 512 * 16, 512 * k1G - k4, 512 * k1G);
}
void unmap_1g(benchmark::State& s) {
  calls<false>(s, k1G, k1G, 512 * 16, 512 * k1G - k4, 512 * k1G);
}

void map_4k_new_table(benchmark::State& state) {
  Table t(state.range(0));
  t.map(k1G - k4, k4);
  for (auto _ : state) {
    state.SetIterationTime(seconds([&] {
      for (u64 i = 0; i < 511; ++i) t.map(i * k2M, k4);
    }));
    for (u64 i = 0; i < 511; ++i) t.unmap(i * k2M, k4);
  }
  report(state, 511, "call");
}

// 1 GiB in small leaves, in one call: its output is misaligned for anything larger.
template <bool kMap>
void bulk(benchmark::State& state) {
  Table t(state.range(0));
  for (auto _ : state) {
    const double map = seconds([&] { t.map(k1G, k1G, kOut + k4); });
    const double unmap = seconds([&] { t.unmap(k1G, k1G); });
    state.SetIterationTime(kMap ? map : unmap);
  }
  report(state, k1G / k4, "page");
}
void map_bulk(benchmark::State& s) {
  bulk<true>(s);
}
void unmap_bulk(benchmark::State& s) {
  bulk<false>(s);
}

template <bool kMap>
void singly(benchmark::State& state) {
  Table t(state.range(0));
  for (auto _ : state) {
    const double map = seconds([&] {
      for (u64 at = 0; at < k1G; at += k4) t.map(at, k4);
    });
    const double unmap = seconds([&] {
      for (u64 at = 0; at < k1G; at += k4) t.unmap(at, k4);
    });
    state.SetIterationTime(kMap ? map : unmap);
  }
  report(state, k1G / k4, "call");
}
void map_singly(benchmark::State& s) {
  singly<true>(s);
}
void unmap_singly(benchmark::State& s) {
  singly<false>(s);
}

void lookups(benchmark::State& state, u64 leaf, u64 count, bool random) {
  Table t(state.range(0));
  // One call a leaf size: the output agrees with the IOVA in just the leaf's alignment.
  t.map(0, leaf * count, kOut + (leaf == k1G ? 0 : leaf));
  std::vector<u64> at(count);
  std::iota(at.begin(), at.end(), u64{0});
  if (random) std::shuffle(at.begin(), at.end(), std::mt19937_64(1));
  for (u64& a : at) a = a * leaf + (leaf >> 1);
  u64 sum = 0;
  for (auto _ : state) {
    for (u64 a : at) sum += t.table->leaf_at(Iova(a))->phys.value;
  }
  benchmark::DoNotOptimize(sum);
  report(state, static_cast<double>(count), "call");
}
void lookup_4k(benchmark::State& s) {
  lookups(s, k4, k1G / k4, false);
}
void lookup_4k_random(benchmark::State& s) {
  lookups(s, k4, k1G / k4, true);
}
void lookup_2m_random(benchmark::State& s) {
  lookups(s, k2M, 512 * 64, true);
}
void lookup_1g_random(benchmark::State& s) {
  lookups(s, k1G, 512 * 16, true);
}

void visit_tables(benchmark::State& state) {
  Table t(state.range(0));
  t.map(0, k1G, kOut + k4);
  u64 tables = 0;
  for (auto _ : state) {
    tables = 0;
    (void)t.table->each_table([&](Phys page, unsigned) -> Result<void> {
      benchmark::DoNotOptimize(page);
      ++tables;
      return {};
    });
  }
  report(state, static_cast<double>(tables), "table");
}

void visit_leaves(benchmark::State& state) {
  Table t(state.range(0));
  t.map(0, k1G, kOut + k4);
  u64 leaves = 0;
  for (auto _ : state) {
    leaves = 0;
    (void)t.table->each_leaf(Iova(0), k1G, [&](const pt::Leaf& leaf) -> Result<void> {
      benchmark::DoNotOptimize(leaf.phys);
      ++leaves;
      return {};
    });
  }
  report(state, static_cast<double>(leaves), "leaf");
}

// All of one run, so each leaf is compared with the one before.
void visit_runs(benchmark::State& state) {
  Table t(state.range(0));
  t.map(0, k1G, kOut + k4);
  for (auto _ : state) {
    (void)t.table->each_run(Iova(0), k1G, [&](const pt::Leaf& run) -> Result<void> {
      if (run.length != k1G) throw std::runtime_error("runs");
      return {};
    });
  }
  report(state, k1G / k4, "leaf");
}

// What the next kernel does per domain, beside restoring blocks: independent of the number of pages.
void visit_blocks(benchmark::State& state) {
  Table t(state.range(0));
  t.map(0, 16 * k1G, kOut + k4);
  u64 blocks = 0;
  for (auto _ : state) {
    blocks = 0;
    (void)t.table->each_block([&](Phys, unsigned order) -> Result<void> {
      benchmark::DoNotOptimize(order);
      ++blocks;
      return {};
    });
  }
  state.counters["tables"] = static_cast<double>(t.table->arena().pages_in_use());
  state.counters["blocks"] = static_cast<double>(blocks);
  report(state, static_cast<double>(t.table->arena().pages_in_use()), "table");
}

void destroy(benchmark::State& state) {
  u64 tables = 0;
  for (auto _ : state) {
    Table t(state.range(0));
    t.map(0, k1G, kOut + k4);
    tables = t.table->arena().pages_in_use();
    state.SetIterationTime(seconds([&] { t.table.reset(); }));
  }
  report(state, static_cast<double>(tables), "table");
}

#define ROW(name) BENCHMARK(name)->ArgName("format")->Arg(0)->Arg(1)->Arg(2)
ROW(map_4k)->UseManualTime();
ROW(unmap_4k)->UseManualTime();
ROW(map_4k_new_table)->UseManualTime();
ROW(map_16x4k)->UseManualTime();
ROW(unmap_16x4k)->UseManualTime();
ROW(map_2m)->UseManualTime();
ROW(unmap_2m)->UseManualTime();
ROW(map_1g)->UseManualTime();
ROW(unmap_1g)->UseManualTime();
ROW(map_bulk)->UseManualTime();
ROW(unmap_bulk)->UseManualTime();
ROW(map_singly)->UseManualTime();
ROW(unmap_singly)->UseManualTime();
ROW(lookup_4k);
ROW(lookup_4k_random);
ROW(lookup_2m_random);
ROW(lookup_1g_random);
ROW(visit_tables);
ROW(visit_leaves);
ROW(visit_runs);
ROW(visit_blocks);
ROW(destroy)->UseManualTime();

}  // namespace
}  // namespace perdure

BENCHMARK_MAIN();
