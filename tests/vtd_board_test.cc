// The VT-d driver against the board's register model: bring-up, attachment, flushes and a live update, with DMA
// between every store and every register access of the driver. The model judges: it records what no correct driver
// does, keeps stale translations (sticky) or none (evict always), and both must come out the same.
#include <functional>
#include <map>
#include <memory>

#include "core/vtd/vtd_unit.h"
#include "machine/board/iommu/iommu_model.h"
#include "tests/support/handover.h"

namespace perdure::vtd {
namespace {

using board::CachePolicy;
using board::IommuModel;
using board::IommuModelConfig;
using board::Verdict;

constexpr SourceId kStays{0, 0x0010};    // travels
constexpr SourceId kSibling{0, 0x0300};  // travels, in the same domain, on another bus
constexpr SourceId kLeaves{0, 0x0018};   // does not

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
  Result<MsiTarget> irq_alloc(IrqSink& sink) override {
    sink_ = &sink;
    return MsiTarget{0xfee0'0000, ++message_};
  }
  void irq_free(MsiTarget) override { sink_ = nullptr; }

  // --- StepHook -----------------------------------------------------------------------------------------------
  void stored(Phys) override { devices(); }
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
    if (sink_ && data == message_) sink_->raise();
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
  IrqSink* sink_ = nullptr;
  u32 message_ = 0x4000;
  u64 clock_ = 0;
  bool busy_ = false;

 public:
  IommuModel model;
};

struct Variant {
  const char* name;
  IommuModelConfig config;
};

std::vector<Variant> variants() {
  const auto make = [](const char* name, auto change) {
    IommuModelConfig c;
    c.haw = 40;
    change(c);
    return Variant{name, c};
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
      make("like_qemu_scalable",
           [](auto& c) {
             c.quirks = board::IommuQuirks::qemu_7_2();
             c.scalable = true;
           }),
  };
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
    abandon(unit);
    for (auto& d : domains) abandon(d);
    domains.clear();
    hw.devices();
    ASSERT_TRUE(world.jump());
    hw.frames = &world.frames();
    hw.devices();
  }
  Result<void> adopt(const abi::IommuUnitRecord& record) {
    auto made = VtdUnit::adopt(world.heap(), world.kho(), record, config());
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

TEST_P(VtdBoardTest, BringUpBlocksAndAttachTranslates) {
  create();
  must_not(kStays, 0x10'0000);
  hw.devices();
  EXPECT_GT(unit->faults().reported() + unit->faults().overflows(), 0u) << "blocked DMA is reported";

  pt::IoPageTable& table = domain();
  const u32 did = *unit->did_alloc();
  const Phys a = page(), b = page();
  ASSERT_TRUE(unit->set_entry(kStays, did, table));
  hw.devices();
  hw.must_not.clear();
  map(table, did, 0x10'0000, a);
  must(kStays, 0x10'0000, a);
  hw.devices();
  must_not(kStays, 0x10'1000);
  hw.devices();
  hw.must_not.clear();
  map(table, did, 0x10'1000, b);
  must(kStays, 0x10'1000, b);
  hw.devices();

  // Unmapped: gone when the flush returns, and the neighbour does not notice.
  hw.must.erase({kStays.bdf, 0x10'1000});
  unmap(table, did, 0x10'1000);
  must_not(kStays, 0x10'1000);
  hw.devices();
  hw.must_not.clear();
  // Another page at the same place: the old one is not seen any more.
  map(table, did, 0x10'1000, a);
  must(kStays, 0x10'1000, a);
  hw.devices();

  // A second requester on another bus joins and leaves; the first one does not notice.
  ASSERT_TRUE(unit->set_entry(kSibling, did, table));
  must(kSibling, 0x10'0000, a);
  hw.devices();
  hw.must.erase({kSibling.bdf, 0x10'0000});
  ASSERT_TRUE(unit->clear_entry(kSibling));
  must_not(kSibling, 0x10'0000);
  hw.devices();

  // The id is used again for another table after the last entry is gone.
  hw.must.clear();
  ASSERT_TRUE(unit->clear_entry(kStays));
  must_not(kStays, 0x10'0000);
  hw.devices();
  hw.must_not.clear();
  pt::IoPageTable& second = domain();
  map(second, did, 0x10'0000, b);
  ASSERT_TRUE(unit->set_entry(kStays, did, second));
  must(kStays, 0x10'0000, b);
  hw.devices();
  ASSERT_TRUE(unit->flush_all());
  ASSERT_TRUE(unit->clear_entry(kSibling));
  EXPECT_GT(hw.transfers, 20u);
  expect_clean();

  hw.must.clear();
  hw.must_not.clear();
  unit->disable();
  unit.reset();
  domains.clear();
  EXPECT_EQ(hw.model.violation_count(), 0u);
}

// Two hops; at every store of either kernel the devices that travel get what they always got.
TEST_P(VtdBoardTest, LiveUpdateGoesOnUnderDma) {
  create();
  pt::IoPageTable* table = &domain();
  const u32 did = *unit->did_alloc();
  const u32 other_did = *unit->did_alloc();
  const Phys a = page(), b = page(), c = page();
  const u64 far = u64{1} << (unit->info().geometry.iova_bits - 1);
  map(*table, did, 0x10'0000, a);
  map(*table, did, far, b);
  ASSERT_TRUE(unit->set_entry(kStays, did, *table));
  ASSERT_TRUE(unit->set_entry(kSibling, did, *table));
  pt::IoPageTable& other = domain();
  map(other, other_did, 0x20'0000, c);
  ASSERT_TRUE(unit->set_entry(kLeaves, other_did, other));
  for (const SourceId s : {kStays, kSibling}) {
    must(s, 0x10'0000, a);
    must(s, far, b);
  }
  hw.devices();

  for (int hop = 0; hop < 2; ++hop) {
    SCOPED_TRACE(hop);
    ASSERT_TRUE(unit->preserve(world.kho())) << log();
    preserve(*table, {a, b});
    const Phys top = table->top();
    const Phys first = table->arena().first_descriptor();
    // A jump that fails, first.
    ASSERT_TRUE(unit->quiesce([](SourceId s) { return s != kLeaves; })) << log();
    if (hop == 0) {
      must_not(kLeaves, 0x20'0000);
      hw.devices();
      hw.must_not.clear();
      unit->resume();
      must(kLeaves, 0x20'0000, c);
      hw.devices();
      hw.must.erase({kLeaves.bdf, 0x20'0000});
      ASSERT_TRUE(unit->quiesce([](SourceId s) { return s != kLeaves; }));
    }
    must_not(kLeaves, 0x20'0000);
    const u64 messages = hw.messages;
    hw.devices();
    EXPECT_EQ(hw.messages, messages) << "no interrupt may leave between two kernels";
    abi::IommuUnitRecord record;
    unit->fill_record(record);
    jump();
    hw.must_not.clear();
    hw.writes.clear();
    ASSERT_TRUE(adopt(record)) << log();
    for (const auto& [offset, value] : hw.writes) {
      EXPECT_NE(offset, 0x20u) << "the root pointer stays (R29)";
      if (offset == 0x18) {
        EXPECT_EQ(value >> 30, 2u) << "TE, and no SRTP";
      }
    }
    must_not(kLeaves, 0x20'0000);
    hw.devices();
    EXPECT_GE(unit->faults().reported() + unit->faults().overflows(), 1u) << "what came in between is inherited";
    hw.must_not.clear();

    std::map<u16, EntryState> entries;
    unit->each_present_entry([&](SourceId s, const EntryState& state) { entries[s.bdf] = state; });
    ASSERT_EQ(entries.size(), 2u);
    for (const SourceId s : {kStays, kSibling}) {
      EXPECT_EQ(entries.at(s.bdf).did, did);
      EXPECT_EQ(entries.at(s.bdf).top, top);
    }
    ASSERT_TRUE(unit->did_reserve(did));
    adopt_domain(top, first);
    table = domains.back().get();
    for (const Phys p : {a, b}) ASSERT_TRUE(world.kho().restore(p, 0));
    // The domain is this kernel's now: it may change.
    const Phys fresh = page();
    map(*table, did, 0x30'0000, fresh);
    must(kStays, 0x30'0000, fresh);
    hw.devices();
    hw.must.erase({kStays.bdf, 0x30'0000});
    unmap(*table, did, 0x30'0000);
    must_not(kStays, 0x30'0000);
    hw.devices();
    hw.must_not.clear();
    expect_clean();
  }

  hw.must.clear();
  for (const SourceId s : {kStays, kSibling}) ASSERT_TRUE(unit->clear_entry(s));
  must_not(kStays, 0x10'0000);
  hw.devices();
  hw.must_not.clear();
  EXPECT_GT(hw.transfers, 500u);
  expect_clean();
  unit->disable();
  unit.reset();
  domains.clear();
  EXPECT_EQ(hw.model.violation_count(), 0u);
}

TEST_P(VtdBoardTest, BlocksAUnitThatNobodyHandedOver) {
  create();
  pt::IoPageTable& table = domain();
  const u32 did = *unit->did_alloc();
  const Phys a = page();
  map(table, did, 0x10'0000, a);
  ASSERT_TRUE(unit->set_entry(kStays, did, table));
  ASSERT_TRUE(unit->preserve(world.kho()));
  ASSERT_TRUE(unit->quiesce([](SourceId) { return true; }));
  must(kStays, 0x10'0000, a);
  hw.devices();
  auto again = VtdUnit::create(world.heap(), base(), 0, config());
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error(), Errno::Ebusy);
  hw.must.clear();
  ASSERT_TRUE(VtdUnit::block_all(world.machine, base(), page(), config())) << log();
  must_not(kStays, 0x10'0000);
  hw.devices();
  expect_clean();
}

INSTANTIATE_TEST_SUITE_P(Units, VtdBoardTest, testing::ValuesIn(variants()),
                         [](const auto& p) { return std::string(p.param.name); });

// --- entry checks (hardware.md §9.3) --------------------------------------------------------------------------

class VtdAdoptTest : public VtdBoardTest {
 protected:
  u64* entry(SourceId s) {
    const u64 low = *world.machine.virt<u64>(Phys(record.root + s.bus() * 16));
    return world.machine.virt<u64>(Phys((low & ~u64{0xfff}) + s.devfn() * 16));
  }
  u64* root_entry(u8 bus) { return world.machine.virt<u64>(Phys(record.root + bus * 16)); }

  // A unit with two requesters in one domain, ready for the jump.
  void prepare() {
    create();
    table = &domain();
    did = *unit->did_alloc();
    data = page();
    map(*table, did, 0x10'0000, data);
    ASSERT_TRUE(unit->set_entry(kStays, did, *table));
    ASSERT_TRUE(unit->set_entry(kSibling, did, *table));
    ASSERT_TRUE(unit->preserve(world.kho()));
    preserve(*table, {data});
    ASSERT_TRUE(unit->quiesce([](SourceId) { return true; }));
    unit->fill_record(record);
  }
  // The jump, and an adoption that must be refused with nothing touched.
  void expect_refused(std::string_view why) {
    jump();
    const FrameAllocator::Totals before = world.frames().totals();
    const u64 heap_before = world.heap().bytes_in_use();
    const u64 writes = hw.register_writes;
    auto adopted = adopt(record);
    ASSERT_FALSE(adopted) << "expected to be refused: " << why;
    EXPECT_EQ(adopted.error(), Errno::Einval);
    EXPECT_EQ(hw.register_writes, writes) << "the unit was touched";
    EXPECT_EQ(world.frames().totals().kept, before.kept) << "a page was taken over";
    EXPECT_EQ(world.heap().bytes_in_use(), heap_before);
    EXPECT_NE(log().find(why), std::string::npos) << "not logged: " << why << "\n" << log();
    EXPECT_EQ(hw.te_off, 0u);
  }

  abi::IommuUnitRecord record;
  pt::IoPageTable* table = nullptr;
  u32 did = 0;
  Phys data;
};

struct RecordMutation {
  const char* name;
  const char* logged;
  void (*change)(abi::IommuUnitRecord&);
};

TEST_P(VtdAdoptTest, RecordsThatDisagreeWithTheHardware) {
  prepare();
  const abi::IommuUnitRecord good = record;
  const RecordMutation mutations[] = {
      {"cap", "CAP is", [](auto& r) { r.cap ^= u64{1} << 7; }},
      {"ecap", "ECAP is", [](auto& r) { r.ecap ^= 1; }},
      {"rtaddr", "RTADDR is", [](auto& r) { r.rtaddr ^= 0x1000; }},
      {"root", "the root table is", [](auto& r) { r.root += 0x1000; }},
      {"mode", "table mode", [](auto& r) { r.translation_mode = 2; }},
      {"gsts", "enables in GSTS", [](auto& r) { r.gsts ^= 1u << 25; }},
      {"te", "enables in GSTS", [](auto& r) { r.gsts &= ~(1u << 31); }},
      {"dids", "number of domain ids", [](auto& r) { r.did_limit /= 2; }},
      {"iqa", "the invalidation queue is", [](auto& r) { r.iqa += 0x10000; }},
      {"order", "queue's size", [](auto& r) { r.queue_order += 1; }},
      {"width", "the record's IQA", [](auto& r) { r.queue_descriptor_bytes ^= 48; }},
      {"width2", "descriptors of 24 bytes", [](auto& r) { r.queue_descriptor_bytes = 24; }},
      {"status", "status page", [](auto& r) { r.status_page += 0x1000 * 1000; }},
      {"status_in_queue", "status page", [](auto& r) { r.status_page = r.iqa & ~u64{0xfff}; }},
      {"status_beyond", "status page", [](auto& r) { r.status_page = u64{1} << 51; }},
      {"bitmap", "its record says otherwise", [](auto& r) { r.context_tables[7] |= 1; }},
      {"bitmap2", "its record says otherwise", [](auto& r) { r.context_tables[0] = 0; }},
  };
  jump();
  for (const RecordMutation& m : mutations) {
    SCOPED_TRACE(m.name);
    record = good;
    m.change(record);
    world.machine.lines.clear();
    const u64 writes = hw.register_writes;
    const auto kept = world.frames().totals().kept;
    auto adopted = adopt(record);
    ASSERT_FALSE(adopted);
    EXPECT_EQ(adopted.error(), Errno::Einval);
    EXPECT_EQ(hw.register_writes, writes);
    EXPECT_EQ(world.frames().totals().kept, kept);
    EXPECT_NE(log().find(m.logged), std::string::npos) << log();
  }
  // Nothing of that did any harm: the good one is taken.
  record = good;
  must(kStays, 0x10'0000, data);
  EXPECT_TRUE(adopt(record)) << log();
  expect_clean();
}

TEST_P(VtdAdoptTest, AnotherType) {
  prepare();
  jump();
  record.type = 2;
  EXPECT_EQ(adopt(record).error(), Errno::Einval);
}

TEST_P(VtdAdoptTest, ReservedBitsInRoot) {
  prepare();
  root_entry(3)[0] |= 0x20;
  expect_refused("root entry of bus 0x3: reserved bits");
}

TEST_P(VtdAdoptTest, ReservedUpperHalfOfRoot) {
  prepare();
  root_entry(3)[1] = u64{1} << 40;
  expect_refused("root entry of bus 0x3: reserved bits");
}

TEST_P(VtdAdoptTest, ReservedBitsInContext) {
  prepare();
  entry(kSibling)[0] |= 0x100;
  expect_refused("context entry of 0000:03:00.0: reserved bits");
}

TEST_P(VtdAdoptTest, ReservedBitsInTheUpperHalfOfContext) {
  prepare();
  entry(kSibling)[1] |= u64{1} << 30;
  expect_refused("context entry of 0000:03:00.0: reserved bits");
}

TEST_P(VtdAdoptTest, AWidthThatTheUnitCannotDo) {
  prepare();
  entry(kStays)[1] = (entry(kStays)[1] & ~u64{7}) | 6;
  expect_refused("width that the unit cannot do");
}

TEST_P(VtdAdoptTest, ADeviceTlb) {
  prepare();
  entry(kStays)[0] |= 4;
  expect_refused("device TLB");
}

TEST_P(VtdAdoptTest, AReservedType) {
  prepare();
  entry(kStays)[0] |= 12;
  expect_refused("reserved translation type");
}

TEST_P(VtdAdoptTest, AnIdForTwoTables) {
  prepare();
  const Phys second = page();
  ASSERT_TRUE(world.kho().preserve(second, 0));
  entry(kSibling)[0] = second.value | 1;
  expect_refused("stands for two page tables");
}

TEST_P(VtdAdoptTest, ATableThatIsNotPreserved) {
  prepare();
  const Phys second = page();
  for (const SourceId s : {kStays, kSibling}) entry(s)[0] = second.value | 1;
  expect_refused("page table that is not preserved");
}

TEST_P(VtdAdoptTest, ATableBeyondTheHostAddressWidth) {
  prepare();
  entry(kStays)[0] |= u64{1} << 45;
  expect_refused("beyond the host address width");
}

TEST_P(VtdAdoptTest, AContextTableBeyondTheHostAddressWidth) {
  prepare();
  root_entry(3)[0] |= u64{1} << 45;
  expect_refused("context table at");
}

TEST_P(VtdAdoptTest, ARootThatIsNotPreserved) {
  prepare();
  world.kho().unpreserve(Phys(record.root), 0);
  expect_refused("root table at");
}

TEST_P(VtdAdoptTest, AContextTableThatIsNotPreserved) {
  prepare();
  world.kho().unpreserve(Phys(root_entry(3)[0] & ~u64{0xfff}), 0);
  expect_refused("context table at");
}

TEST_P(VtdAdoptTest, AQueueThatIsNotPreserved) {
  prepare();
  world.kho().unpreserve(Phys(record.iqa & ~u64{0xfff}), record.queue_order);
  expect_refused("its invalidation queue at");
}

TEST_P(VtdAdoptTest, OneContextTableForTwoBuses) {
  prepare();
  root_entry(3)[0] = root_entry(0)[0];
  expect_refused("is used twice");
}

TEST_P(VtdAdoptTest, TheStatusPageAsContextTable) {
  prepare();
  root_entry(3)[0] = record.status_page | 1;
  expect_refused("is used twice");
}

TEST_P(VtdAdoptTest, TheRootAsContextTable) {
  prepare();
  root_entry(3)[0] = record.root | 1;
  expect_refused("is used twice");
}

TEST_P(VtdAdoptTest, TranslationThatIsOff) {
  prepare();
  // Somebody was there before this kernel.
  hw.model.write(0x18, 4, 1u << 26);
  hw.te_off = 0;
  for (int i = 0; i < 100; ++i) hw.model.step();
  expect_refused("translation is off");
}

TEST_P(VtdAdoptTest, AQueueInError) {
  prepare();
  hw.model.inject_queue_error(3);
  unit->resume();
  // The driver recovers from that; another error right before the jump is nobody's.
  hw.model.clear_violations();
  hw.model.inject_queue_error(3);
  const u64 tail = hw.model.read(0x88, 8);
  hw.model.write(0x88, 8, (tail + record.queue_descriptor_bytes) % (kPageSize << record.queue_order));
  for (int i = 0; i < 100; ++i) hw.model.step();
  expect_refused("queue is in error");
}

TEST_P(VtdAdoptTest, LostFaultRecordsAreNoReasonToRefuse) {
  prepare();
  must_not(kLeaves, 0x20'0000);
  must_not({0, 0x0020}, 0x20'0000);
  for (int i = 0; i < 20; ++i) hw.devices();
  jump();
  EXPECT_TRUE(adopt(record)) << log();
  expect_clean();
}

// A kernel of another make may leave its queue with something else than a wait at the end.
TEST_P(VtdAdoptTest, AQueueThatDoesNotEndInAWait) {
  prepare();
  const u64 tail = hw.model.read(0x88, 8);
  u64* slot = world.machine.virt<u64>(Phys((record.iqa & ~u64{0xfff}) + tail));
  std::memset(slot, 0, record.queue_descriptor_bytes);
  slot[0] = 0x11;  // context cache, global
  hw.written_back(world.machine.phys(slot), record.queue_descriptor_bytes);
  hw.model.write(0x88, 8, (tail + record.queue_descriptor_bytes) % (kPageSize << record.queue_order));
  for (int i = 0; i < 100; ++i) hw.model.step();
  jump();
  must(kStays, 0x10'0000, data);
  EXPECT_TRUE(adopt(record)) << log();
  expect_clean();
}

// ... or owe a flush.
TEST_P(VtdAdoptTest, AFlushThatTheFormerKernelOwed) {
  create();
  table = &domain();
  did = *unit->did_alloc();
  data = page();
  const Phys later = page();
  map(*table, did, 0x10'0000, data);
  map(*table, did, 0x10'1000, later);  // so that no table goes with the leaf
  ASSERT_TRUE(unit->set_entry(kStays, did, *table));
  must(kStays, 0x10'0000, data);
  hw.devices();  // cached
  hw.must.clear();
  ASSERT_TRUE(unit->preserve(world.kho()));
  ASSERT_TRUE(unit->quiesce([](SourceId) { return true; }));
  pt::Gather gather;
  EXPECT_EQ(table->unmap(Iova(0x10'0000), kPageSize, gather), kPageSize);
  ASSERT_TRUE(table->map(Iova(0x10'0000), later, kPageSize, perdure::Access::ReadWrite));
  preserve(*table, {data, later});
  unit->fill_record(record);
  jump();
  ASSERT_TRUE(adopt(record)) << log();
  must(kStays, 0x10'0000, later);
  hw.devices();
  expect_clean();
}

// Nothing is taken over and nothing touched while memory is short.
TEST_P(VtdAdoptTest, SurvivesEveryFailingAllocation) {
  prepare();
  jump();
  must(kStays, 0x10'0000, data);
  const auto kept = world.frames().totals().kept;
  for (u64 n = 1;; ++n) {
    ASSERT_LT(n, 100u);
    const u64 writes = hw.register_writes;
    const u64 heap_before = world.heap().bytes_in_use();
    hw.allocations = 0;
    hw.fail_allocation = n;
    auto adopted = adopt(record);
    hw.fail_allocation = 0;
    if (adopted) {
      EXPECT_GT(n, 5u);
      break;
    }
    EXPECT_EQ(adopted.error(), Errno::Enomem) << n;
    EXPECT_EQ(hw.register_writes, writes) << n;
    EXPECT_EQ(world.frames().totals().kept, kept) << n;
    EXPECT_EQ(world.heap().bytes_in_use(), heap_before) << n;
  }
  expect_clean();
}

std::vector<Variant> two_variants() {
  const auto all = variants();
  return {all[0], all[3], all[9]};
}
INSTANTIATE_TEST_SUITE_P(Units, VtdAdoptTest, testing::ValuesIn(two_variants()),
                         [](const auto& p) { return std::string(p.param.name); });

}  // namespace
}  // namespace perdure::vtd
