// The VT-d driver's machine for tests: the board's register model, the memory of kernels that follow one another, and
// devices that try their DMA between every store and every register access of the driver. The model judges: it records
// what no correct driver does, and keeps stale translations (sticky) or none (evict always).
#pragma once
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>

#include "core/vtd/vtd_unit.h"
#include "machine/board/iommu/iommu_model.h"
#include "tests/support/handover.h"

namespace perdure::vtd {

using board::CachePolicy;
using board::IommuModel;
using board::IommuModelConfig;
using board::Verdict;

inline constexpr SourceId kStays{0, 0x0010};    // travels
inline constexpr SourceId kSibling{0, 0x0300};  // travels, in the same domain, on another bus
inline constexpr SourceId kLeaves{0, 0x0018};   // does not

// The machine around the model: memory as the unit sees it, interrupts, and devices that try their DMA all the time.
class Hardware final : public test::TestHardware,
                       public StepHook,
                       public board::PhysMemory,
                       public board::IommuEnvironment {
 public:
  Hardware(test::TestMachine& machine, const IommuModelConfig& config)
      : machine_(machine), shadow_(*this), model(config, *this, *this, &shadow_) {
    machine.hardware = this;
    machine.steps = this;
    machine.clock_step_ns = 1000;
  }
  ~Hardware() {
    machine_.hardware = nullptr;
    machine_.steps = &machine_.counting;
  }

  // --- what devices do ------------------------------------------------------------------------------------------
  // Transfers that must go through at every moment, and where they must end: (requester, IOVA) → physical address.
  std::map<std::pair<u16, u64>, u64> must;
  // Those that must not reach memory.
  std::map<std::pair<u16, u64>, u64> must_not;
  u64 transfers = 0;
  // The same of messages: (requester, entry) → vector.
  std::map<std::pair<u16, u32>, u32> irq_must;
  std::map<std::pair<u16, u32>, u32> irq_must_not;
  u64 interrupts = 0;
  board::InterruptMessage send(u16 source, u32 entry) {
    return model.interrupt(source, 0xfee0'0010 | (entry & 0x7fff) << 5 | entry >> 15 << 2, 0);
  }

  void devices() {
    if (busy_) return;
    busy_ = true;
    for (const auto& [at, phys] : must) {
      const auto t = model.translate(at.first, at.second, 8, board::Access::Read);
      ++transfers;
      EXPECT_EQ(t.verdict, Verdict::Translated) << std::hex << at.first << " " << at.second << " fault " << +t.fault;
      if (t.ok()) {
        EXPECT_EQ(t.phys, phys) << std::hex << at.second;
      }
    }
    for (const auto& [at, phys] : must_not) {
      const auto t = model.translate(at.first, at.second, 8, board::Access::Read);
      EXPECT_FALSE(t.ok()) << std::hex << at.first << " " << at.second << " reached " << t.phys;
    }
    for (const auto& [at, vector] : irq_must) {
      const board::InterruptMessage m = send(at.first, at.second);
      ++interrupts;
      EXPECT_TRUE(m.passes) << std::hex << at.first << " entry " << at.second << " fault " << +m.fault;
      EXPECT_EQ(m.data, vector) << "entry " << at.second;
    }
    for (const auto& [at, vector] : irq_must_not) {
      EXPECT_FALSE(send(at.first, at.second).passes) << std::hex << at.first << " entry " << at.second;
    }
    busy_ = false;
  }

  // --- TestHardware ------------------------------------------------------------------------------------------
  u64 mmio_read(Phys at, Width width) override {
    const u64 offset = at.value - model.config().base;
    return offset < IommuModel::kWindow ? model.read(offset, static_cast<unsigned>(width)) : ~u64{0};
  }
  void mmio_write(Phys at, Width width, u64 value) override {
    const u64 offset = at.value - model.config().base;
    ++register_writes;
    writes.emplace_back(offset, value);
    devices();
    if (offset < IommuModel::kWindow) model.write(offset, static_cast<unsigned>(width), value);
    devices();
  }
  void relax() override {
    model.step();
    devices();
  }
  void written_back(Phys at, u64 bytes) override { shadow_.write_back(at.value, bytes); }
  // Sinks of this kernel, by vector; a jump empties it.
  std::map<u32, IrqSink*> sinks;
  std::vector<u32> raised;  // by irq_raise()
  Result<MsiTarget> irq_alloc(IrqSink& sink) override {
    u32 vector = 0x30;
    while (sinks.contains(vector)) ++vector;
    sinks[vector] = &sink;
    return MsiTarget{0xfee0'0000, vector};
  }
  void irq_free(MsiTarget target) override { sinks.erase(target.data); }
  Result<void> irq_claim(MsiTarget target, IrqSink& sink) override {
    if (target.address != 0xfee0'0000 || target.data < 0x30 || target.data > 0xef) return fail(Errno::Einval);
    return sinks.try_emplace(target.data, &sink).second ? Result<void>() : fail(Errno::Eexist);
  }
  void irq_raise(MsiTarget target) override { raised.push_back(target.data); }

  // --- StepHook -----------------------------------------------------------------------------------------------
  void stored(Phys at) override {
    if (on_store) on_store(at);
    devices();
  }
  std::function<void(Phys)> on_store;
  bool may_allocate() override { return ++allocations != fail_allocation; }

  // --- PhysMemory ------------------------------------------------------------------------------------------------
  bool load64(u64 phys, u64& value) override {
    if (!is_ram(phys, 8)) return false;
    value = hw::load(machine_.virt<u64>(Phys(phys)));
    return true;
  }
  bool store32(u64 phys, u32 value) override {
    if (!is_ram(phys, 4)) return false;
    hw::store(machine_.virt<u32>(Phys(phys)), value);
    return true;
  }
  bool compare_exchange64(u64 phys, u64& expected, u64 desired) override {
    return is_ram(phys, 8) && hw::compare_exchange(machine_.virt<u64>(Phys(phys)), expected, desired);
  }
  bool is_ram(u64 phys, u64 bytes) const override { return machine_.in_window(Phys(phys), bytes); }
  // The unit may look only at frames that belong to somebody. Asked while the driver holds its own locks, which
  // hardware knows nothing of.
  bool may_use(u64 phys, board::TableUse) override {
    if (!frames) return true;
    ThreadContext& me = *perdure_thread_context();
    const ThreadContext held = std::exchange(me, {});
    const bool in_use = frames->in_use(Phys(align_down(phys, kPageSize)), kPageSize);
    me = held;
    return in_use;
  }

  // --- IommuEnvironment ---------------------------------------------------------------------------------------
  u64 now_ns() override { return ++clock_; }
  void msi(u64, u32 data) override {
    ++messages;
    if (const auto sink = sinks.find(data); sink != sinks.end()) sink->second->raise();
  }
  void translation_enabled(bool on, u64) override { te_off += on ? 0 : 1; }

  FrameAllocator* frames = nullptr;
  u64 register_writes = 0;
  std::vector<std::pair<u64, u64>> writes;  // offset, value
  u64 messages = 0;
  unsigned te_off = 0;
  u64 allocations = 0;
  u64 fail_allocation = 0;

 private:
  test::TestMachine& machine_;
  board::WriteBackShadow shadow_;
  u64 clock_ = 0;
  bool busy_ = false;

 public:
  IommuModel model;
};

// One unit, and what its kernels want of it.
struct Variant {
  std::string name;
  IommuModelConfig config;
  TableModePolicy mode = TableModePolicy::Auto;
  StagePolicy stage = StagePolicy::SecondStage;
  bool scalable() const { return config.scalable && mode != TableModePolicy::Legacy; }
};

template <class Change>
Variant variant(const std::string& name, Change change) {
  Variant v{name, {}, TableModePolicy::Auto, StagePolicy::SecondStage};
  v.config.haw = 40;
  change(v.config);
  return v;
}

inline std::vector<Variant> legacy_variants() {
  const auto make = [](const char* name, auto change) {
    Variant v = variant(name, change);
    v.mode = TableModePolicy::Legacy;
    return v;
  };
  return {
      make("sticky", [](auto&) {}),
      make("evict_always", [](auto& c) { c.policy = CachePolicy::EvictAlways; }),
      make("random", [](auto& c) { c.policy = CachePolicy::Random; }),
      make("not_coherent", [](auto& c) { c.coherent = false; }),
      make("not_coherent_evict",
           [](auto& c) {
             c.coherent = false;
             c.policy = CachePolicy::EvictAlways;
           }),
      make("caching_mode", [](auto& c) { c.caching_mode = true; }),
      make("write_buffer", [](auto& c) { c.rwbf = true; }),
      make("slow", [](auto& c) { c.delay = {1, 40}; }),
      make("slow_not_coherent",
           [](auto& c) {
             c.delay = {1, 40};
             c.coherent = false;
             c.caching_mode = true;
           }),
      make("wide_descriptors", [](auto& c) { c.scalable = true; }),
      make("three_levels",
           [](auto& c) {
             c.sagaw = 2;
             c.mgaw = 39;
           }),
      make("five_levels",
           [](auto& c) {
             c.sagaw = 0xe;
             c.mgaw = 57;
           }),
      make("few_ids_no_psi_no_drain",
           [](auto& c) {
             c.nd = 0;
             c.psi = c.drd = c.dwd = false;
           }),
      make("protected_memory_many_records",
           [](auto& c) {
             c.plmr = c.phmr = true;
             c.nfr = 8;
             c.esrtps = true;
           }),
      make("like_qemu",
           [](auto& c) {
             c.quirks = board::IommuQuirks::qemu_7_2();
             c.coherent = false;
           }),
      make("like_qemu_wide",
           [](auto& c) {
             c.quirks = board::IommuQuirks::qemu_7_2();
             c.scalable = true;
           }),
  };
}

// Every combination of stage, coherence, caching mode and ageing of the caches, and some odd units.
inline std::vector<Variant> scalable_variants() {
  std::vector<Variant> all;
  const auto add = [&](const std::string& name, StagePolicy stage, auto change) {
    Variant v = variant(name, [&](auto& c) {
      c.scalable = true;
      c.first_stage = stage == StagePolicy::FirstStage;
      change(c);
    });
    v.stage = stage;
    all.push_back(v);
  };
  for (const StagePolicy stage : {StagePolicy::SecondStage, StagePolicy::FirstStage}) {
    const std::string prefix = stage == StagePolicy::SecondStage ? "second_stage" : "first_stage";
    for (const bool coherent : {true, false}) {
      for (const bool caching_mode : {false, true}) {
        for (const CachePolicy policy : {CachePolicy::Sticky, CachePolicy::EvictAlways}) {
          add(prefix + (coherent ? "" : "_not_coherent") + (caching_mode ? "_caching_mode" : "") +
                  (policy == CachePolicy::Sticky ? "_sticky" : "_evict"),
              stage, [&](auto& c) {
                c.coherent = c.scalable_coherent = coherent;
                c.caching_mode = caching_mode;
                c.policy = policy;
              });
        }
      }
    }
    add(prefix + "_random_slow", stage, [](auto& c) {
      c.policy = CachePolicy::Random;
      c.delay = {1, 40};
    });
    // Entries above the page tables snoop, page tables do not, and the other way round.
    add(prefix + "_only_entries_coherent", stage, [](auto& c) { c.scalable_coherent = false; });
    add(prefix + "_only_pages_coherent", stage, [](auto& c) { c.coherent = false; });
    add(prefix + "_write_buffer", stage, [](auto& c) { c.rwbf = true; });
    add(prefix + "_no_psi_no_drain_few_ids", stage, [](auto& c) {
      c.nd = 0;
      c.psi = c.drd = c.dwd = false;
    });
    add(prefix + "_five_levels", stage, [](auto& c) {
      c.sagaw = 0xe;
      c.mgaw = 57;
      c.first_stage_5 = true;
    });
    if (stage == StagePolicy::SecondStage)
      add(prefix + "_like_qemu", stage, [](auto& c) {
        c.quirks = board::IommuQuirks::qemu_7_2();
        c.coherent = c.scalable_coherent = false;
      });
  }
  add("second_stage_three_levels", StagePolicy::SecondStage, [](auto& c) {
    c.sagaw = 2;
    c.mgaw = 39;
  });
  add("both_stages_sticky", StagePolicy::SecondStage, [](auto& c) { c.first_stage = true; });
  add("first_stage_alone", StagePolicy::FirstStage, [](auto& c) { c.second_stage = false; });
  return all;
}

inline std::vector<Variant> all_variants() {
  std::vector<Variant> all = legacy_variants();
  for (Variant& v : scalable_variants()) all.push_back(std::move(v));
  return all;
}

// A kernel's object that is left where it is: no destructor, nothing given back.
template <class T>
void abandon(Owned<T>& owned) {
  alignas(Owned<T>) std::byte storage[sizeof(Owned<T>)];
  new (storage) Owned<T>(std::move(owned));
}

class VtdBoardTest : public testing::TestWithParam<Variant> {
 protected:
  VtdBoardTest() { hw.frames = &world.frames(); }
  ~VtdBoardTest() override {
    hw.must.clear();
    hw.must_not.clear();
    hw.irq_must.clear();
    hw.irq_must_not.clear();
    if (unit) {
      unit->resume();
      if (unit->preserved()) unit->unpreserve(world.kho());
      unit->disable();
    }
    unit.reset();
    domains.clear();
  }

  test::Handover world;
  Hardware hw{world.machine, GetParam().config};
  Owned<VtdUnit> unit;
  std::vector<Owned<pt::IoPageTable>> domains;

  UnitConfig config() const {
    UnitConfig c;
    c.host_address_bits = GetParam().config.haw;
    c.timeout_ns = 1'000'000'000;
    c.mode = GetParam().mode;
    c.stage = GetParam().stage;
    return c;
  }
  Phys base() const { return Phys(GetParam().config.base); }

  void create() {
    auto made = VtdUnit::create(world.heap(), base(), 0, config());
    ASSERT_TRUE(made) << log();
    unit = std::move(*made);
  }
  pt::IoPageTable& domain() {
    auto made = pt::create(world.heap(), unit->info().geometry);
    EXPECT_TRUE(made);
    domains.push_back(std::move(*made));
    return *domains.back();
  }
  Phys page() { return *world.frames().alloc_zeroed(0); }
  void map(pt::IoPageTable& table, u32 did, u64 iova, Phys phys) {
    ASSERT_TRUE(table.map(Iova(iova), phys, kPageSize, perdure::Access::ReadWrite));
    ASSERT_TRUE(unit->mapped_pages(did, Iova(iova), kPageSize));
  }
  void unmap(pt::IoPageTable& table, u32 did, u64 iova) {
    pt::Gather gather;
    EXPECT_EQ(table.unmap(Iova(iova), kPageSize, gather), kPageSize);
    ASSERT_TRUE(gather.tables_removed ? unit->flush_pages(did, gather.first, gather.last - gather.first + 1, false)
                                      : unit->flush_pages(did, Iova(iova), kPageSize, true));
    table.release(gather);
  }
  void must(SourceId s, u64 iova, Phys phys) { hw.must[{s.bdf, iova}] = phys.value; }
  void must_not(SourceId s, u64 iova) {
    hw.must.erase({s.bdf, iova});
    hw.must_not[{s.bdf, iova}] = 0;
  }

  // Everything of one domain into the handover, as the IOMMU core will do it.
  void preserve(pt::IoPageTable& table, std::initializer_list<Phys> data) {
    ASSERT_TRUE(table.each_block([&](Phys at, unsigned order) { return world.kho().preserve(at, order); }));
    table.arena().seal();
    for (const Phys p : data) ASSERT_TRUE(world.kho().preserve(p, 0));
  }
  void jump() {
    hw.frames = nullptr;
    hw.sinks.clear();
    abandon(unit);
    for (auto& d : domains) abandon(d);
    domains.clear();
    hw.devices();
    ASSERT_TRUE(world.jump());
    hw.frames = &world.frames();
    hw.devices();
  }
  Result<void> adopt(const abi::IommuUnitRecord& record, bool renew_root_table = false) {
    UnitConfig with = config();
    with.renew_root_table = renew_root_table;
    auto made = VtdUnit::adopt(world.heap(), world.kho(), record, with);
    if (!made) return fail(made.error());
    unit = std::move(*made);
    return {};
  }
  void adopt_domain(Phys top, Phys first_descriptor) {
    auto made = pt::adopt(
        world.heap(), unit->info().geometry, top, first_descriptor,
        [&](Phys at, u64 bytes) { return world.kho().incoming_covers(at, bytes); },
        [&](Phys at, unsigned order) { return world.kho().restore(at, order); });
    ASSERT_TRUE(made) << log();
    domains.push_back(std::move(*made));
  }

  std::string log() const {
    std::string all;
    for (const auto& l : world.machine.lines) all += l + "\n";
    return all;
  }
  void expect_clean() {
    for (const auto& v : hw.model.violations()) ADD_FAILURE() << v.to_string();
    EXPECT_TRUE(hw.model.gaps().empty());
    EXPECT_EQ(hw.te_off, 0u);
  }
};

}  // namespace perdure::vtd
