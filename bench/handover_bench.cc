// Live update at 1 GiB … 1 TiB of guest memory in 4 KiB leaves: what the IOMMU core's part costs, and what it grows
// with. Real memory, KHO, page tables and IOMMU core, in one process; only the unit's registers are a stand-in.
// Processor time, of the operation alone.
#include <benchmark/benchmark.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "bench/measure.h"
#include "core/iommu/live_update.h"
#include "core/iommu/testing/fake_unit.h"
#include "core/kho/fdt.h"
#include "tests/support/handover.h"

namespace perdure {
namespace {

using bench::median;
using bench::need;
using bench::seconds;

class Owner final : public DmaOwner {};

// One function behind one unit, its domain, and guest memory for it. Kernels follow one another.
class World {
 public:
  static constexpr u64 kRam = u64{6} << 30;  // tables of 2 GiB twice, and room to move; pages come when touched
  static constexpr SourceId kFunction{0, 0x0100};
  static constexpr u64 kSession = 77, kToken = 5;

  explicit World(u64 gib)
      : bytes_(gib << 30), handover_(kRam, kRam + bytes_ + kGiantPageSize), guest_(test::TestMemfd::create(bytes_)) {
    handover_.machine.steps = nullptr;  // as on hardware
    hardware_.base = Phys(0xfed90000);
    // All leaves are small, wherever the memory lies.
    hardware_.geometry.leaf_sizes = kPageSize;
    bus_.on.insert(kFunction);
    const Result<Bank> bank = handover_.machine.bank_attach(*guest_, 0, bytes_);
    need(bank.has_value(), "no bank");
    memory_ = bank->base;
    boot_iommu(0);
    owner_ = *heap().make_ref<Owner>();
    need(group().claim(owner_).has_value(), "claim");
    domain_ = *iommu_->domain_alloc(device());
    need(group().attach(*owner_, domain_).has_value(), "attach");
    // So that no page of RAM is touched for the first time while somebody measures.
    map(*domain_);
    unmap(*domain_);
  }
  ~World() {
    if (hops_ != 0) return;  // what is left belongs to kernels that are gone
    domain_ = nullptr;
    group().release(*owner_);
    owner_ = nullptr;
    live_.destroy();
    iommu_.destroy();
  }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  u64 pages() const { return bytes_ / kPageSize; }
  u64 tables() const { return tables_of(*domain_); }
  static u64 tables_of(const PagingDomain& domain) { return domain.table().arena().pages_in_use(); }
  PagingDomain& domain() { return *domain_; }
  IommuLiveUpdate& live() { return *live_; }
  u32 hops() const { return hops_; }
  Ref<PagingDomain> new_domain() { return *iommu_->domain_alloc(device()); }

  // A call for each GiB, which is what a program that maps a file in pieces makes of it.
  void map(PagingDomain& domain) {
    for (u64 at = 0; at < bytes_; at += kGiantPageSize) {
      need(domain.map(Iova(at), memory_ + at, kGiantPageSize, Access::ReadWrite).has_value(), "map");
    }
  }
  void unmap(PagingDomain& domain) {
    for (u64 at = 0; at < bytes_; at += kGiantPageSize) {
      const Result<u64> done = domain.unmap(Iova(at), kGiantPageSize);
      need(done && *done == kGiantPageSize, "unmap");
    }
  }
  void map_all() {
    if (domain_->mapped_bytes() == 0) map(*domain_);
  }

  // The shared state of an update's files; what LUO does before the first of them.
  void begin() {
    const Result<u64> data = live_->preserve();
    need(data.has_value(), "preserve");
    data_ = *data;
  }
  void cancel() { live_->unpreserve(data_); }
  void preserve_memory() { need(kho().preserve_range(memory_, bytes_).has_value(), "preserve memory"); }
  void unpreserve_memory() { kho().unpreserve_range(memory_, bytes_); }

  u64 keys() {
    u64 count = 0;
    const auto* fdt = handover_.machine.virt<const std::byte>(kho().outgoing_fdt());
    kho::FdtProblem problem;
    const auto reader = kho::FdtReader::open({fdt, kPageSize}, problem);
    need(reader.has_value(), "FDT");
    const auto root = reader->word(reader->root(), kho::kMapProperty);
    need(root.has_value(), "no tree");
    (void)kho::RadixView(handover_.machine, Phys(*root)).each([&](u64) -> Result<void> {
      ++count;
      return {};
    });
    return count;
  }

  struct Hop {
    double preserve = 0;  // the domain and its device
    double seal = 0;      // freeze and quiesce
    double boot = 0;      // frames set up, preserved memory set aside, KHO
    double load = 0;      // records read and validated
    double commit = 0;    // DIDs reserved, tables adopted, function held, compared with hardware
    double restore() const { return load + commit; }
  };
  // Everything into the records, jump, restore. The first hop preserves what its owner built; later ones hand on what
  // nobody came for.
  Hop hop() {
    Hop h;
    begin();
    const u64 generation = kSession + hops_;
    if (hops_ == 0) {
      preserve_memory();
      h.preserve = seconds([&] {
        index_ = *live_->preserve_domain(*domain_, generation);
        need(live_->preserve_device(device(), *owner_, generation, kToken).has_value(), "preserve device");
      });
      need(live_->audit().has_value(), "audit");
    } else {
      need(kho().restore_range(memory_, bytes_).has_value(), "restore memory");
      preserve_memory();
      h.preserve = seconds([&] {
        Ref<PagingDomain> held = *live_->held_domain(index_, generation - 1);
        index_ = *live_->preserve_domain(*held, generation);
        need(live_->preserve_held_device(device(), generation - 1, kToken, generation, kToken).has_value(), "hand on");
      });
    }
    h.seal = seconds([&] {
      need(live_->freeze(data_).has_value(), "freeze");
      need(live_->quiesce().has_value(), "quiesce");
    });
    // The old kernel's objects die with it.
    static_cast<void>(owner_.release());
    static_cast<void>(domain_.release());
    live_.forget();
    iommu_.forget();
    const Phys fdt = kho().outgoing_fdt();
    h.boot = seconds([&] { need(handover_.jump_to(fdt).has_value(), "boot"); });
    boot_iommu(data_, &h);
    need(live_->report().domains == 1 && live_->report().devices == 1, "the domain did not come back");
    ++hops_;
    return h;
  }
  // A program comes back for what the last hop restored.
  Ref<PagingDomain> come_back() {
    owner_ = *heap().make_ref<Owner>();
    need(group().claim_held(owner_, kSession + hops_ - 1, kToken).has_value(), "claim held");
    return *live_->reclaim_domain(index_, kSession + hops_ - 1);
  }
  void replace(Ref<PagingDomain> by) { need(group().replace(*owner_, std::move(by)).has_value(), "replace"); }
  void finish() { live_->finish(data_); }

 private:
  Heap& heap() { return handover_.heap(); }
  Kho& kho() { return handover_.kho(); }
  IommuDevice& device() { return *iommu_->find(kFunction); }
  Group& group() { return device().group(); }

  void boot_iommu(u64 incoming, Hop* h = nullptr) {
    iommu_.make(heap(), kho());
    iommu_->set_bus_master_switch(bus_);
    live_.make(*iommu_, kho(), abi::kIommuReadMax);
    if (h) h->load = seconds([&] { need(live_->load(incoming).has_value(), "load"); });
    Owned<testing::FakeUnit> unit = std::move(*heap().make<testing::FakeUnit>(hardware_, heap(), kho()));
    need(unit->start(live_->unit_record(hardware_.base)).has_value(), "unit");
    IommuUnit& added = *unit;
    need(iommu_->add_unit(std::move(unit)).has_value(), "add unit");
    need(iommu_->add_device(kFunction, added, {}).has_value(), "add device");
    const double commit = seconds([&] { live_->commit(); });
    if (h) h->commit = commit;
  }

  const u64 bytes_;
  test::Handover handover_;
  Ref<test::TestMemfd> guest_;
  testing::FakeHardware hardware_;
  testing::FakeBus bus_;
  test::Forgettable<Iommu> iommu_;
  test::Forgettable<IommuLiveUpdate> live_;
  Phys memory_;
  Ref<Owner> owner_;
  Ref<PagingDomain> domain_;
  u64 data_ = 0;
  u32 index_ = 0;
  u32 hops_ = 0;
};

// The world of the present size; a fresh one when the last benchmark left its first kernel.
World& world(benchmark::State& state) {
  static std::unique_ptr<World> current;
  static long size = 0;
  if (!current || size != state.range(0) || current->hops() != 0) {
    current.reset();
    size = state.range(0);
    current = std::make_unique<World>(static_cast<u64>(size));
  }
  return *current;
}

// `what` and how long one of it took, of `count` in an iteration.
void per(benchmark::State& state, const char* what, u64 count) {
  state.counters[what] = benchmark::Counter(
      static_cast<double>(count), benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

template <bool kMap>
void map_or_unmap(benchmark::State& state) {
  World& w = world(state);
  if (w.domain().mapped_bytes() != 0) w.unmap(w.domain());
  for (auto _ : state) {
    const double map = seconds([&] { w.map(w.domain()); });
    const double unmap = seconds([&] { w.unmap(w.domain()); });
    state.SetIterationTime(kMap ? map : unmap);
  }
  per(state, "page", w.pages());
}
void map(benchmark::State& s) {
  map_or_unmap<true>(s);
}
void unmap(benchmark::State& s) {
  map_or_unmap<false>(s);
}

template <bool kPreserve>
void preserve_or_not(benchmark::State& state) {
  World& w = world(state);
  w.map_all();
  w.begin();
  const u64 before = w.keys();
  u64 keys = 0;
  for (auto _ : state) {
    const double preserve =
        seconds([&] { need(w.live().preserve_domain(w.domain(), World::kSession).has_value(), "preserve"); });
    if (keys == 0) keys = w.keys() - before;
    state.SetIterationTime(kPreserve ? preserve : seconds([&] { w.live().unpreserve_domain(w.domain()); }));
    if (kPreserve) w.live().unpreserve_domain(w.domain());
  }
  w.cancel();
  const auto tables = static_cast<double>(w.tables());
  state.counters["tables"] = tables;
  state.counters["keys"] = static_cast<double>(keys);
  state.counters["keys/2MiB"] = static_cast<double>(keys) / (tables * kPageSize / kHugePageSize);
}
void preserve(benchmark::State& s) {
  preserve_or_not<true>(s);
}
void unpreserve(benchmark::State& s) {
  preserve_or_not<false>(s);
}

// Before anything waits: every leaf lies in preserved memory.
void audit(benchmark::State& state) {
  World& w = world(state);
  w.map_all();
  w.begin();
  w.preserve_memory();
  need(w.live().preserve_domain(w.domain(), World::kSession).has_value(), "preserve");
  for (auto _ : state) {
    state.SetIterationTime(seconds([&] { need(w.live().audit().has_value(), "audit"); }));
  }
  w.live().unpreserve_domain(w.domain());
  w.unpreserve_memory();
  w.cancel();
  per(state, "page", w.pages());
}

void free_domain(benchmark::State& state) {
  World& w = world(state);
  if (w.domain().mapped_bytes() != 0) w.unmap(w.domain());  // room for the other
  u64 tables = 0;
  for (auto _ : state) {
    Ref<PagingDomain> domain = w.new_domain();
    w.map(*domain);
    tables = World::tables_of(*domain);
    state.SetIterationTime(seconds([&] { domain = nullptr; }));
  }
  per(state, "table", tables);
}

// The next kernel, until the domain is there and the function held: load and commit of the records.
void restore(benchmark::State& state) {
  World& w = world(state);
  w.map_all();
  w.hop();  // the first one meets caches that nobody filled yet
  std::vector<double> preserve, seal, boot;
  for (auto _ : state) {
    const World::Hop h = w.hop();
    state.SetIterationTime(h.restore());
    preserve.push_back(h.preserve);
    seal.push_back(h.seal);
    boot.push_back(h.boot);
  }
  state.counters["hand_on_us"] = 1e6 * median(preserve);
  state.counters["seal_us"] = 1e6 * median(seal);
  state.counters["boot_us"] = 1e6 * median(boot);
}

// What the program does when it is back: its own table takes over from the restored one, after every leaf was
// compared. Nothing waits for it.
void replace(benchmark::State& state) {
  World& w = world(state);
  w.map_all();
  w.hop();
  for (auto _ : state) {
    Ref<PagingDomain> restored = w.come_back();
    Ref<PagingDomain> fresh = w.new_domain();
    w.map(*fresh);
    state.SetIterationTime(seconds([&] { w.replace(fresh); }));
    need(restored->attached_devices() == 0 && fresh->attached_devices() == 1, "replace");
    const u64 tables = World::tables_of(*restored);
    const double freed = seconds([&] {
      restored = nullptr;
      w.finish();
    });
    state.counters["free_ns/table"] = 1e9 * freed / static_cast<double>(tables);
    static_cast<void>(fresh.release());
  }
  per(state, "page", w.pages());
}

constexpr struct {
  long gib;
  int cycles;  // of what looks at every page
  int hops;
} kSizes[] = {{1, 20, 20}, {8, 5, 20}, {64, 3, 20}, {256, 2, 20}, {1024, 1, 20}};

// Size by size, so that each world is built at most three times.
void register_all() {
  for (const auto& size : kSizes) {
    const auto add = [&](const char* name, void (*run)(benchmark::State&), int iterations) {
      benchmark::RegisterBenchmark(name, run)
          ->ArgName("GiB")
          ->Arg(size.gib)
          ->UseManualTime()
          ->Unit(benchmark::kMicrosecond)
          ->Iterations(iterations);
    };
    add("map", map, size.cycles);
    add("unmap", unmap, size.cycles);
    add("free", free_domain, size.cycles);
    add("preserve", preserve, size.hops);
    add("unpreserve", unpreserve, size.hops);
    add("audit", audit, size.cycles);
    add("restore", restore, size.hops);
    add("replace", replace, 1);
  }
}

}  // namespace
}  // namespace perdure

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  perdure::register_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  // What the stand-in for the unit found wrong with its driver's calls.
  return testing::UnitTest::GetInstance()->ad_hoc_test_result().Failed() ? 1 : 0;
}
