// The failure policy row by row (design §8, hardware.md §9.3), on real images and with devices at work: two tenants,
// each with a context, a page table and a device of its own, and the one whose record is damaged is the second. Each
// time the scope must be the smallest, the healthy one loses nothing and comes back, the stopped one stays stopped, its
// session can be finished, its memory is given to nobody, and it leaves quarantine by a reset only.
#include "core/abi/iommu.h"
#include "core/abi/iommufd.h"
#include "core/abi/table_arena.h"
#include "core/abi/vfio_pci.h"
#include "tests/tenant.h"

namespace perdure::tool {
namespace {

using board::Phase;

class FailureRow : public TenantTest {
 protected:
  using TenantTest::TenantTest;

  // Everything preserved, the old kernel gone, the image in reach.
  void leave_all() {
    preserve_all();
    leave("b");
  }
  std::byte* at(u64 phys) { return rig.board().direct_map() + phys; }
  // Every page of RAM that starts with this number.
  std::vector<u64> pages_with(u64 magic) {
    std::vector<u64> found;
    rig.board().memory().each_materialised_ram([&](board::PhysRange r) {
      for (u64 page = r.base; page < r.end(); page += kPageSize) {
        if (std::memcmp(at(page), &magic, sizeof magic) == 0) found.push_back(page);
      }
    });
    return found;
  }
  abi::IommuHeader& header() {
    const std::vector<u64> pages = pages_with(abi::kIommuMagic);
    EXPECT_EQ(pages.size(), 1U);
    return *reinterpret_cast<abi::IommuHeader*>(at(pages.at(0)));
  }
  template <class Record>
  std::vector<Record*> records(u64 chain) {
    std::vector<Record*> all;
    for (u64 block = chain; block != 0;) {
      const auto* head = reinterpret_cast<const abi::IommuBlock*>(at(block));
      for (u32 i = 0; i < head->slots; ++i) {
        auto* record = reinterpret_cast<Record*>(at(block + sizeof *head + u64{i} * head->record_bytes));
        if (record->in_use == 1) all.push_back(record);
      }
      block = head->next;
    }
    return all;
  }
  abi::IommuDeviceRecord& device_record(usize tenant) {
    for (auto* r : records<abi::IommuDeviceRecord>(header().device_chain)) {
      if (r->bdf == tenants[tenant].bdf().value) return *r;
    }
    throw std::runtime_error("no device record");
  }
  abi::IommuDomainRecord& domain_record(usize tenant) {
    return *records<abi::IommuDomainRecord>(header().domain_chain).at(device_record(tenant).domain);
  }
  abi::IommuUnitRecord& unit_record(usize tenant) {
    return *records<abi::IommuUnitRecord>(header().unit_chain).at(device_record(tenant).unit);
  }
  void reseal(abi::IommuUnitRecord& record) {
    const abi::Schema& schema = abi::iommu_schema(abi::IommuRecordKind::Unit, header().version);
    abi::seal(schema, {reinterpret_cast<std::byte*>(&record), schema.size});
  }
  // The record of the tenant's context: the one with the generation that its device names as its owner.
  abi::IommufdHeader& context_record(usize tenant) {
    for (u64 page : pages_with(abi::kIommufdMagic)) {
      auto& h = *reinterpret_cast<abi::IommufdHeader*>(at(page));
      if (h.generation == device_record(tenant).owner_generation) return h;
    }
    throw std::runtime_error("no context record");
  }
  abi::VfioPciRecord& vfio_record(usize tenant) {
    for (u64 page : pages_with(abi::kVfioPciMagic)) {
      auto& r = *reinterpret_cast<abi::VfioPciRecord*>(at(page));
      if (r.bdf == tenants[tenant].bdf().value) return r;
    }
    throw std::runtime_error("no VFIO record");
  }
  // What hardware has for the function now: its context entry's two words, of the root table that the unit uses.
  u64* context_entry(usize tenant, board::Bdf bdf) {
    const u64 root = unit_record(tenant).root;
    const u64 table = *reinterpret_cast<const u64*>(at(root + (bdf.value >> 8) * 16)) & ~(kPageSize - 1);
    return reinterpret_cast<u64*>(at(table + (bdf.value & 0xFF) * 16));
  }
  bool translating(usize unit) { return (rig.board().unit(unit).read(0x1C, 4) >> 31 & 1) != 0; }  // GSTS.TES
  void expect_no_gap() {
    for (usize u = 0; u < rig.board().units(); ++u) {
      for (const board::DmaGap& gap : rig.board().unit(u).gaps())
        ADD_FAILURE() << "translation off at " << gap.begin_ns;
      EXPECT_TRUE(translating(u));
    }
  }
  // The first tenant notices nothing and comes back.
  void expect_healthy() {
    traffic.expect_running(0);
    ASSERT_DONE(tenants[0].come_back());
    traffic.expect_running(0);
    traffic.expect_lost_nothing(0);
  }
  // The second one is stopped for good.
  void expect_quarantined() {
    traffic.expect_stopped(1);
    expect_no_gap();
    const SourceId source{0, tenants[1].bdf().value};
    if (IommuDevice* device = rig.kernel().iommu().find(source)) {
      EXPECT_EQ(device->group().ownership(), Ownership::Quarantined);
      EXPECT_FALSE(device->unit().read_entry(source).present);
    }
    EXPECT_FALSE(rig.board().device(tenants[1].bdf())->bus_master_enabled());
    EXPECT_TRUE(rig.kernel().frames().in_use(top_of_second, kPageSize)) << "its table could be given out";
  }
  // Whatever its program gets back, the device is not among it, and the session can be finished all the same.
  void expect_finished_without_it(Errno device_answers = Errno::Eio) {
    Tenant& t = tenants[1];
    ASSERT_DONE(t.retrieve_session());
    ASSERT_DONE(t.retrieve_memory());
    static_cast<void>(t.retrieve_context());
    const auto device = t.retrieve_device();
    ASSERT_FALSE(device);
    EXPECT_EQ(device.error(), device_answers) << errno_name(device.error());
    // A page table that is whole has to be taken over like any other.
    if (t.context.fd()) static_cast<void>(t.context.hwpt_restore(Tenant::kHwpt));
    ASSERT_DONE(t.session.finish());
    t.close();
    expect_quarantined();
  }
  // Nobody but a reset lets it out; then it works like new, with memory of its own.
  void expect_back_after_reset() {
    const u64 resets = rig.board().audit().devices[1].in(Phase::During).resets;
    ASSERT_DONE(tenants[1].set_up());
    EXPECT_GT(rig.board().audit().devices[1].in(Phase::During).resets, resets);
    traffic.expect_running(1);
    EXPECT_TRUE(rig.kernel().frames().in_use(top_of_second, kPageSize));
  }
  void note_tables() { top_of_second = Phys(domain_record(1).top); }

  Phys top_of_second;
};

// --- records -----------------------------------------------------------------------------------------------------

TEST_F(FailureRow, DeviceRecordThatIsDamaged) {
  leave_all();
  note_tables();
  device_record(1).did ^= 1;
  arrive();
  expect_quarantined();
  expect_healthy();
  expect_finished_without_it();
  expect_back_after_reset();
}

TEST_F(FailureRow, DomainRecordThatIsDamaged) {
  leave_all();
  note_tables();
  domain_record(1).top ^= kPageSize;
  arrive();
  expect_quarantined();
  expect_healthy();
  expect_finished_without_it();
  expect_back_after_reset();
}

TEST_F(FailureRow, TableArenaOfAnUnknownVersion) {
  leave_all();
  note_tables();
  ++reinterpret_cast<abi::TableArenaPage*>(at(domain_record(1).first_descriptor))->version;
  arrive();
  expect_quarantined();
  expect_healthy();
  expect_finished_without_it();
  expect_back_after_reset();
}

TEST_F(FailureRow, ContextRecordOfAnUnknownVersion) {
  leave_all();
  note_tables();
  ++context_record(1).version;
  arrive();
  // Only its session's handler can read it. Until it is asked the device works on, through tables that are sound.
  traffic.expect_running(1);
  expect_healthy();
  Tenant& t = tenants[1];
  ASSERT_DONE(t.retrieve_session());
  EXPECT_EQ(t.retrieve_context().error(), Errno::Eio);
  expect_quarantined();
  EXPECT_EQ(t.retrieve_device().error(), Errno::Eio);
  ASSERT_DONE(t.session.finish());
  t.close();
  expect_quarantined();
  expect_back_after_reset();
}

// A context's records are one whole: a page table of it that cannot be taken over costs the context, not its
// neighbours.
TEST_F(FailureRow, HwptRecordThatIsDamaged) {
  leave_all();
  note_tables();
  reinterpret_cast<abi::IommufdHwptRecord*>(at(context_record(1).hwpt_chain + sizeof(abi::IommufdBlock)))->token ^= 1;
  arrive();
  traffic.expect_running(1);
  expect_healthy();
  Tenant& t = tenants[1];
  ASSERT_DONE(t.retrieve_session());
  EXPECT_EQ(t.retrieve_context().error(), Errno::Eio);
  expect_quarantined();
  ASSERT_DONE(t.retrieve_memory());
  EXPECT_EQ(t.retrieve_device().error(), Errno::Eio);
  ASSERT_DONE(t.session.finish());
  t.close();
  expect_quarantined();
  expect_back_after_reset();
}

TEST_F(FailureRow, VfioRecordOfAnUnknownVersion) {
  leave_all();
  note_tables();
  vfio_record(1).version = 99;
  arrive();
  expect_healthy();
  // Which device it was cannot be known from it: whoever is left over when the session ends is stopped.
  traffic.expect_running(1);
  expect_finished_without_it(Errno::Eproto);
  expect_back_after_reset();
}

TEST_F(FailureRow, IommuRecordsOfAnUnknownVersion) {
  leave_all();
  note_tables();
  header().version = 99;
  arrive();
  traffic.expect_stopped(0);
  expect_quarantined();
  // Their unit blocks everything and is nobody's: VFIO does not know the function.
  expect_finished_without_it(Errno::Enodev);
}

// --- both ways: records against what hardware has ------------------------------------------------------------------

TEST_F(FailureRow, EntryThatIsPresentAndHasNoRecord) {
  leave_all();
  note_tables();
  abi::IommuDeviceRecord& record = device_record(1);
  const abi::Schema& schema = abi::iommu_schema(abi::IommuRecordKind::Device, header().version);
  std::memset(static_cast<void*>(&record), 0, schema.size);  // a slot that says: unused
  arrive();
  said("no valid record");
  expect_quarantined();
  expect_healthy();
  expect_finished_without_it();
  expect_back_after_reset();
}

// A function that does not exist, with an entry that leads into a tenant's memory: cleared by its number alone.
TEST_F(FailureRow, EntryOfAFunctionThatIsNotThere) {
  leave_all();
  note_tables();
  const board::Bdf ghost(0, 30, 7);
  const u64* from = context_entry(1, tenants[1].bdf());
  u64* to = context_entry(1, ghost);
  to[1] = from[1];
  to[0] = from[0];
  arrive();
  EXPECT_EQ(context_entry(1, ghost)[0] & 1, 0U);
  // Whose table it walked is nobody's any more, though only one of the two was known.
  traffic.expect_running(0);
  expect_healthy();
}

TEST_F(FailureRow, RecordWhoseEntryIsNotThere) {
  leave_all();
  note_tables();
  context_entry(1, tenants[1].bdf())[0] = 0;
  rig.board().unit(0).drop_caches();
  arrive();
  expect_healthy();
  // Nothing is attached, so nothing is held; what it tries to reach, it does not.
  traffic.expect_stopped(1);
  expect_no_gap();
  Tenant& t = tenants[1];
  ASSERT_DONE(t.retrieve_session());
  ASSERT_DONE(t.retrieve_memory());
  ASSERT_DONE(t.retrieve_context());
  EXPECT_EQ(t.retrieve_device().error(), Errno::Eio);
  EXPECT_EQ(t.context.hwpt_restore(Tenant::kHwpt).error(), Errno::Eio);
  ASSERT_DONE(t.session.finish());
  t.close();
  traffic.expect_stopped(1);
  // It is an ordinary device now, and can be somebody's.
  ASSERT_DONE(t.set_up());
  traffic.expect_running(1);
}

// --- units: each tenant behind one of its own
// --------------------------------------------------------------------------

class FailureOfAUnit : public FailureRow {
 protected:
  explicit FailureOfAUnit(const RigConfig& config = two_units(), u64 stretch_ns = kStretch)
      : FailureRow(config, stretch_ns) {}
  static RigConfig two_units() {
    RigConfig config = machine();
    add_unit_for(config, 1);
    return config;
  }
  // The second tenant's: explicit scopes come first.
  board::IommuModel& unit() { return rig.board().unit(0); }
  // As a fault of the hardware would: the queue does nothing any more, everything else works on.
  void kill_queue() {
    constexpr u64 kGcmd = 0x18, kGsts = 0x1C;
    constexpr u64 kTe = u64{1} << 31, kQie = u64{1} << 26, kIre = u64{1} << 25;
    const u64 status = unit().read(kGsts, 4);
    ASSERT_NE(status & kQie, 0U);
    unit().write(kGcmd, 4, status & (kTe | kIre));
    ASSERT_EQ(unit().read(kGsts, 4) & kQie, 0U);
    unit().clear_violations();
  }
  // The first tenant's unit has noticed nothing; the second one's lets nothing through.
  void expect_only_its_unit_is_blocked() {
    traffic.expect_stopped(1);
    expect_no_gap();
    EXPECT_FALSE(rig.board().device(tenants[1].bdf())->bus_master_enabled());
    EXPECT_TRUE(rig.kernel().frames().in_use(top_of_second, kPageSize));
    expect_healthy();
    expect_finished_without_it(Errno::Enodev);
  }
};

// hardware.md §9.3; each check by itself, on units of all kinds, is in VtdAdoptTest.
struct UnitRow {
  const char* name;
  void (*change)(abi::IommuUnitRecord&);
};
class UnitRecord : public FailureOfAUnit, public testing::WithParamInterface<UnitRow> {};
TEST_P(UnitRecord, ThatDisagreesWithItsUnitCostsItsDevicesOnly) {
  leave_all();
  note_tables();
  GetParam().change(unit_record(1));
  reseal(unit_record(1));
  arrive();
  expect_only_its_unit_is_blocked();
}
INSTANTIATE_TEST_SUITE_P(Rows, UnitRecord,
                         testing::Values(UnitRow{"Capabilities", [](auto& r) { r.cap ^= u64{1} << 7; }},
                                         UnitRow{"ExtendedCapabilities", [](auto& r) { r.ecap ^= u64{1} << 6; }},
                                         UnitRow{"RootTable", [](auto& r) { r.rtaddr ^= kPageSize; }},
                                         UnitRow{"Enables", [](auto& r) { r.gsts ^= u32{1} << 25; }},
                                         UnitRow{"DomainIds", [](auto& r) { r.did_limit /= 2; }},
                                         UnitRow{"Queue", [](auto& r) { r.queue_descriptor_bytes ^= 48; }},
                                         UnitRow{"StatusPage", [](auto& r) { r.status_page = r.iqa & ~u64{0xFFF}; }},
                                         UnitRow{"ContextTables", [](auto& r) { r.context_tables[3] ^= 1; }}),
                         [](const auto& row) { return std::string(row.param.name); });

TEST_F(FailureOfAUnit, RecordOfAnUnknownVersionIsAnImageOfAnUnknownVersion) {
  leave_all();
  note_tables();
  // One block whose header says another version than the image's: its records are not believed.
  ++reinterpret_cast<abi::IommuBlock*>(at(header().unit_chain))->version;
  arrive();
  for (usize i = 0; i < 2; ++i) traffic.expect_stopped(i);
  expect_no_gap();
}

TEST_F(FailureOfAUnit, QueueThatDiedBetweenTheKernels) {
  leave_all();
  note_tables();
  kill_queue();
  arrive();
  said("cannot be taken over");
  expect_only_its_unit_is_blocked();
}

// A unit that does not answer is waited for: 10 s. The machine's steps are long here, and its devices slow.
class DeadQueue : public FailureOfAUnit {
 protected:
  DeadQueue() : FailureOfAUnit(slow(), 50'000'000) {
    for (Tenant& t : tenants) t.rate = 2000;
  }
  static RigConfig slow() {
    RigConfig config = two_units();
    config.board.step_ns = 2'000'000;
    return config;
  }
};

TEST_F(DeadQueue, AfterTheJumpCostsItsDevicesOnly) {
  leave_all();
  note_tables();
  arrive();
  Tenant& t = tenants[1];
  ASSERT_DONE(t.retrieve_all());
  ASSERT_DONE(t.take_over());
  traffic.expect_running(1);
  kill_queue();
  EXPECT_EQ(t.replace().error(), Errno::Eio);
  expect_quarantined();
  EXPECT_FALSE(t.device.attach(t.hwpt));
  expect_healthy();
  ASSERT_DONE(t.session.finish());
  t.close();
  expect_quarantined();
  // Not even a reset helps a function whose unit cannot be asked.
  EXPECT_FALSE(t.set_up());
  expect_quarantined();
}

// Found out at the quiesce: no jump, and the devices of that unit are stopped; the others are as before, and go.
TEST_F(DeadQueue, BeforeTheJumpRefusesItAndCostsItsDevicesOnly) {
  preserve_all();
  kill_queue();
  ASSERT_DONE(rig.kernel().kexec_load("b"));
  EXPECT_EQ(rig.kernel().kexec().error(), Errno::Eio);
  traffic.expect_stopped(1);
  traffic.expect_running(0);
  Tenant& t = tenants[1];
  EXPECT_EQ(rig.kernel().kexec().error(), Errno::Eio) << "not while it is preserved";
  t.close();
  leave("b");
  arrive();
  traffic.expect_stopped(1);
  ASSERT_DONE(tenants[0].come_back());
  traffic.expect_running(0);
  traffic.expect_lost_nothing(0);
}

}  // namespace
}  // namespace perdure::tool
