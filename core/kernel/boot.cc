// Kernel::boot(): from boot information to programs being served, cold or after a jump.
#include "core/acpi/mcfg.h"
#include "core/base/scope_guard.h"
#include "core/kernel/kernel.h"
#include "core/pci/isolation.h"
#include "core/pci/scope.h"
#include "core/vtd/vtd_unit.h"

namespace perdure {

namespace {

// Stretches of one kind; a memory map has no more than this many beside its banks.
constexpr usize kMostExtents = 64;

struct Extents {
  Extent list[kMostExtents];
  usize count = 0;
  Result<void> add(Phys base, u64 length) {
    if (count == kMostExtents) return fail(Errno::E2big);
    list[count++] = {base, length};
    return {};
  }
  // True when one of them covers the whole range.
  bool contains(Phys base, u64 length) const {
    for (const Extent& e : span()) {
      if (base >= e.base && length <= e.length && base.value - e.base.value <= e.length - length) return true;
    }
    return false;
  }
  std::span<const Extent> span() const { return {list, count}; }
};

}  // namespace

template <class Step>
Result<void> Kernel::timed(UpdatePhase phase, Step step) {
  const u64 begin = machine_.now_ns();
  Result<void> result = step();
  timeline_.add(phase, begin, machine_.now_ns());
  return result;
}

Result<void> Kernel::boot() {
  auto up = bring_up();
  if (!up) {
    // Nothing of what was handed over was given to anybody: hardware walks its tables, or was blocked, as the log says.
    report(LogLevel::Error, Line() << config_.release << " cannot run here: " << up.error()
                                   << "; what devices reach stays as it is, reset the machine");
  }
  return up;
}

Result<void> Kernel::bring_up() {
  const u64 begin = machine_.now_ns();
  boot_ = machine_.boot();
  std::string_view why;
  if (auto sound = abi::check(boot_, machine_.window, &why); !sound) {
    report(LogLevel::Error, Line() << "boot information is damaged: " << why << "; nothing is known of this machine");
    return sound;
  }
  TRY(boot_memory());
  if (kho_.is_handover()) {
    timeline_.load(kho_);
    timeline_.add(UpdatePhase::Jump, boot_.jump_ns, begin);
    timeline_.add(UpdatePhase::Carve, begin, machine_.now_ns());
  }
  TRY(timed(UpdatePhase::Records, [this] { return boot_records(); }));
  TRY(timed(UpdatePhase::Adopt, [this] { return boot_units(); }));
  TRY(timed(UpdatePhase::Scan, [this] { return boot_bus(); }));
  TRY(timed(UpdatePhase::Reattach, [this] { return boot_devices(); }));
  TRY(boot_services());
  const u64 now = machine_.now_ns();
  timeline_.add(UpdatePhase::Ready, now, now);
  report(LogLevel::Info, Line() << config_.release << " is up, hop " << boot_.hop);
  return {};
}

// Scratch only, until everything that was preserved is set aside (kho-luo §1.7).
Result<void> Kernel::boot_memory() {
  const std::span<const abi::MemoryMapEntry> map(machine_.virt<const abi::MemoryMapEntry>(Phys(boot_.memory_map)),
                                                 boot_.memory_map_count);
  std::string_view why;
  if (auto sound = abi::check_memory_map(map, machine_.window, &why); !sound) {
    report(LogLevel::Error, Line() << "memory map at " << Phys(boot_.memory_map) << " is damaged: " << why);
    return sound;
  }
  Extents ram;
  Extents reserved;
  Extents scratch;
  for (const abi::MemoryMapEntry& e : map) {
    if (e.type == static_cast<u32>(abi::MemoryType::Ram)) TRY(ram.add(Phys(e.base), e.length));
    if (e.type == static_cast<u32>(abi::MemoryType::Reserved)) TRY(reserved.add(Phys(e.base), e.length));
  }
  // What this kernel was started with lies in scratch memory and is read until the boot is over.
  TRY(reserved.add(Phys(boot_.memory_map), map.size_bytes()));
  if (boot_.kho_scratch != 0) {
    // The former kernel's word for it: an address where no memory is cannot be read.
    if (!ram.contains(Phys(boot_.kho_scratch), boot_.kho_scratch_length)) {
      report(LogLevel::Error,
             Line() << "the scratch table at " << Phys(boot_.kho_scratch)
                    << " is not in RAM: no memory is known to be free, none was touched; reset the machine");
      return fail(Errno::Einval);
    }
    TRY(reserved.add(Phys(boot_.kho_scratch), boot_.kho_scratch_length));
    const auto* areas = machine_.virt<const abi::KhoScratch>(Phys(boot_.kho_scratch));
    for (u64 i = 0; i < boot_.kho_scratch_length / sizeof(abi::KhoScratch); ++i) {
      if (areas[i].size != 0) TRY(scratch.add(Phys(areas[i].address), areas[i].size));
    }
  }
  TRY(frames_.init(ram.span(), reserved.span(), scratch.span()));
  if (boot_.kho_fdt == 0) {
    if (scratch.count == 0) TRY(frames_.carve_scratch(config_.scratch_bytes));
  } else if (auto carved = Kho::carve(frames_, Phys(boot_.kho_fdt)); !carved) {
    // What must not be touched is not known, so no memory is opened.
    block_everything();
    report(LogLevel::Error, Line() << "the handover at " << Phys(boot_.kho_fdt)
                                   << " is unreadable: all DMA is blocked, no memory was touched; reset the machine");
    return carved;
  }
  frames_.open();
  TRY(kho_.init(Phys(boot_.kho_fdt), config_.kho_max_order));
  if (const auto former = kho::incoming_metadata(kho_)) former_ = *former;
  return kho::publish_metadata(kho_, config_.release, former_.count + 1);
}

// What the former kernel says: sessions, then the records of units, domains and devices.
Result<void> Kernel::boot_records() {
  luo_ = TRY(heap_.make<luo::Luo>(kho_));
  iommu_ = TRY(heap_.make<Iommu>(heap_, kho_));
  live_update_ = TRY(heap_.make<IommuLiveUpdate>(*iommu_, kho_, config_.write_version));
  pci_live_update_ = TRY(heap_.make<pci::LiveUpdate>(kho_, config_.write_version));
  if (!kho_.is_handover()) return luo_->init();
  if (auto loaded = luo_->load_incoming(); !loaded && loaded.error() != Errno::Eproto) return loaded;
  if (const auto data = luo_->incoming_flb_data(live_update_->compatible()); data) {
    // Unreadable: commit() quarantines every device that is still translated; the log says why.
    if (auto loaded = live_update_->load(*data); !loaded && loaded.error() != Errno::Eproto) return loaded;
  }
  if (const auto data = luo_->incoming_flb_data(pci_live_update_->compatible()); data) {
    if (auto loaded = pci_live_update_->load(*data); !loaded && loaded.error() != Errno::Eproto) return loaded;
  }
  return luo_->init();
}

Result<void> Kernel::boot_units() {
  auto dmar = acpi::read_dmar(heap_, Phys(boot_.rsdp));
  if (!dmar && dmar.error() == Errno::Enoent) {
    report(LogLevel::Warn, Line() << "no DMAR table: this machine has no IOMMU, no device can be used");
    return {};
  }
  if (!dmar) return fail(dmar.error());
  dmar_ = TRY(heap_.make<acpi::Dmar>(std::move(*dmar)));
  Vec<vtd::VtdUnit*> working(heap_);
  TRY(working.reserve(dmar_->units.size()));
  for (const acpi::DmarUnit& found : dmar_->units) TRY(boot_unit(found, working));
  // Devices at work have their vectors back now; what is left is for events.
  for (vtd::VtdUnit* unit : working) unit->arm_faults();
  return {};
}

Result<void> Kernel::boot_unit(const acpi::DmarUnit& found, Vec<vtd::VtdUnit*>& working) {
  Vec<vtd::InterruptOwner> owners(heap_);
  Result<void> collected;
  live_update_->each_recorded_behind(found.base, [&](std::span<const SourceId> requesters) {
    if (!collected) return;
    collected = owners.push_back({requesters[0].bdf, vtd::InterruptEntry::source_of(requesters)});
  });
  TRY(collected);
  const vtd::UnitConfig config{.register_bytes = found.register_bytes,
                               .host_address_bits = dmar_->host_address_bits,
                               .timeout_ns = config_.unit_timeout_ns,
                               .mode = config_.table_mode,
                               .stage = config_.stage,
                               .interrupt_remapping = config_.interrupt_remapping && dmar_->interrupt_remapping,
                               .interrupt_owners = owners.span(),
                               .renew_root_table = config_.renew_root_table,
                               .defer_fault_event = true};
  const auto add = [&](Owned<vtd::VtdUnit> unit) -> Result<void> {
    vtd::VtdUnit* const added = unit.get();
    TRY(iommu_->add_unit(std::move(unit)));
    return working.push_back(added);
  };
  if (const abi::IommuUnitRecord* record = live_update_->unit_record(found.base)) {
    if (auto unit = vtd::VtdUnit::adopt(heap_, kho_, *record, config); unit) return add(std::move(*unit));
    report(LogLevel::Error, Line() << "unit at " << found.base << " cannot be taken over; its devices are blocked");
    return block_unit(found.base, config);
  }
  auto unit = vtd::VtdUnit::create(heap_, found.base, found.segment, config);
  if (unit) return add(std::move(*unit));
  if (unit.error() == Errno::Ebusy) {
    report(LogLevel::Error,
           Line() << "unit at " << found.base << " translates and no record says what; its devices are blocked");
    return block_unit(found.base, config);
  }
  report(LogLevel::Error,
         Line() << "unit at " << found.base << " does not work: " << unit.error() << "; its devices cannot be used");
  return {};
}

// Bus masters off at the source, then an all-blocking root; translation is never off.
Result<void> Kernel::block_unit(Phys base, const vtd::UnitConfig& config) {
  if (bus_) {
    for (usize i = 0; i < bus_->size(); ++i) bus_->at(i).set_bus_master(false);
  }
  if (auto blocked = vtd::VtdUnit::block_all(frames_, base, config); !blocked) {
    if (blocked.error() == Errno::Enomem) return blocked;
    report(LogLevel::Error,
           Line() << "unit at " << base << " could not be blocked: " << blocked.error() << "; reset the machine");
  }
  return {};
}

// Without any image to believe: from ACPI alone, with scratch memory.
void Kernel::block_everything() {
  auto windows = acpi::read_mcfg(heap_, Phys(boot_.rsdp));
  if (windows) {
    pci::ConfigSpace config(machine_, std::move(*windows));
    for (const acpi::EcamWindow& w : config.windows()) {
      for (u32 bdf = u32{w.first_bus} << 8; bdf <= (u32{w.last_bus} << 8 | 0xFF); ++bdf) {
        const SourceId source{.segment = w.segment, .bdf = static_cast<u16>(bdf)};
        if (config.read16(source, pci::reg::kVendor) == 0xFFFF) continue;
        config.update16(source, pci::reg::kCommand, pci::Command::kBusMaster, 0);
      }
    }
  }
  const auto dmar = acpi::read_dmar(heap_, Phys(boot_.rsdp));
  if (!dmar) return;
  for (const acpi::DmarUnit& unit : dmar->units) {
    if (!block_unit(unit.base, {.register_bytes = unit.register_bytes,
                                .host_address_bits = dmar->host_address_bits,
                                .timeout_ns = config_.unit_timeout_ns})) {
      report(LogLevel::Error, Line() << "no memory to block the unit at " << unit.base << "; reset the machine");
    }
  }
}

Result<void> Kernel::boot_bus() {
  auto windows = acpi::read_mcfg(heap_, Phys(boot_.rsdp));
  // A table that cannot be read now is not a machine without devices: those at work would be stopped for it.
  if (!windows && windows.error() == Errno::Enomem) return fail(Errno::Enomem);
  if (!windows) {
    report(LogLevel::Error, Line() << "no usable MCFG table: " << windows.error() << "; no device can be found");
    return {};
  }
  bus_ = TRY(heap_.make<pci::Bus>(heap_, std::move(*windows)));
  TRY(note_functions_at_work());
  TRY(bus_->enumerate(kho_.is_handover() ? &*pci_live_update_ : nullptr));
  if (kho_.is_handover()) {
    pci_live_update_->check(*bus_, [this](Phys base, u64 length) { return reserved(base, length); });
  }
  pci::enable_access_control(*bus_);
  iommu_->set_bus_master_switch(*bus_);
  return {};
}

// Three witnesses: PCI's records, the IOMMU's records, and live entries. To whatever one of them names nothing is
// written before commit() and settle_functions() have compared them.
Result<void> Kernel::note_functions_at_work() {
  Vec<SourceId> recorded(heap_);
  Vec<SourceId> live(heap_);
  Result<void> noted;
  live_update_->each_recorded([&](SourceId source) {
    if (noted) noted = recorded.push_back(source);
  });
  iommu_->each_unit([&](IommuUnit& unit) {
    unit.each_present_entry([&](SourceId source, const EntryState&) {
      if (noted) noted = live.push_back(source);
    });
  });
  TRY(noted);
  TRY(pci_live_update_->agree(recorded.span()));
  for (SourceId source : live) {
    if (!live_update_->records_alias(source)) TRY(pci_live_update_->note_at_work(source));
  }
  return {};
}

// Where no BAR of a function can be: memory, and the registers of units.
bool Kernel::reserved(Phys base, u64 length) const {
  const auto* map = machine_.virt<const abi::MemoryMapEntry>(Phys(boot_.memory_map));
  for (u32 i = 0; i < boot_.memory_map_count; ++i) {
    if (ranges_overlap(map[i].base, map[i].length, base.value, length)) return true;
  }
  if (!dmar_) return false;
  for (const acpi::DmarUnit& unit : dmar_->units) {
    if (ranges_overlap(unit.base.value, unit.register_bytes, base.value, length)) return true;
  }
  return false;
}

// Devices to groups, then what the records say of them.
Result<void> Kernel::boot_devices() {
  iommufd_ =
      TRY(heap_.make<iommufd::Iommufd>(kho_, *iommu_, *live_update_,
                                       iommufd::Iommufd::Config{.write_version = config_.write_version,
                                                                .mark_preserve = config_.ioctl_hwpt_mark_preserve,
                                                                .restore = config_.ioctl_hwpt_restore,
                                                                .test_ops = config_.iommufd_test}));
  vfio_ = TRY(heap_.make<vfio::Vfio>(
      *iommufd_, *pci_live_update_,
      vfio::Vfio::Config{.write_version = config_.write_version, .container = config_.vfio_container}));
  for (usize i = 0; bus_ && i < bus_->size(); ++i) {
    if (!bus_->at(i).is_bridge() && dmar_) TRY(boot_device(bus_->at(i)));
    if (!vfio_->known(bus_->at(i).source())) TRY(vfio_->add_other(bus_->at(i)));
  }
  live_update_->commit();
  settle_functions();
  drop_carried_interrupts();
  return iommu_->keep_firmware_regions();
}

// What nothing translates, or what cannot be told apart from its neighbours, is not for programs.
Result<void> Kernel::boot_device(pci::Function& function) {
  const auto unit_index = pci::unit_of(*bus_, *dmar_, function);
  if (!unit_index) return {};
  IommuUnit* unit = iommu_->find_unit(dmar_->units[*unit_index].base);
  if (!unit) {
    // Its unit blocks everything or cannot be driven; here it stops at the source, too.
    if (!function.set_bus_master(false)) {
      report(LogLevel::Error,
             Line() << "bus mastering of " << Hex{function.source().bdf} << " does not stay off; reset the machine");
    }
    return {};
  }
  Vec<SourceId> ids(heap_);
  TRY(pci::requester_ids(function, ids));
  Vec<FirmwareRegion> regions(heap_);
  // Firmware gives up USB controllers and graphics when an operating system takes over.
  const u32 sub_class = function.class_code() >> 8;
  const bool until_driven = sub_class == pci::ClassCode::kUsb || sub_class >> 8 == pci::ClassCode::kDisplay;
  for (const acpi::ReservedRegion& region : dmar_->reserved) {
    bool named = false;
    for (const acpi::Scope& scope : region.scopes) {
      named =
          named || (region.segment == function.source().segment && pci::covers(*bus_, region.segment, scope, function));
    }
    if (named) TRY(regions.push_back({region.base, region.length, until_driven}));
  }
  const SourceId leader = pci::isolation_leader(*bus_, function);
  const auto device = iommu_->add_device(
      function.source(), *unit, ids.span(),
      {.leader = &leader, .foreign_ids = &function.dma_function() != &function, .regions = regions.span()});
  if (!device && device.error() == Errno::Enomem) return fail(Errno::Enomem);
  if (!device) {
    report(LogLevel::Error, Line() << "device " << Hex{function.source().segment} << ":" << Hex{function.source().bdf}
                                   << " is not used: " << device.error());
    return {};
  }
  if (function.hosts_segment()) return {};  // like a bridge: the kernel drives it
  return vfio_->add_device(function, **device);
}

Result<void> Kernel::set_virtual_functions(SourceId source, u32 count) {
  pci::Function* const physical = bus_ ? bus_->find(source) : nullptr;
  if (!physical || physical->virtual_total() == 0 || !vfio_->find(source)) return fail(Errno::Enoent);
  // One at a time, and nobody waits for that.
  if (changing_functions_.exchange(true)) return fail(Errno::Ebusy);
  const ScopeGuard done([this] { changing_functions_ = false; });
  if (count > physical->virtual_total()) return fail(Errno::Erange);
  if (count == physical->virtual_count()) return {};
  if (count != 0 && physical->virtual_count() != 0) return fail(Errno::Ebusy);
  if (pci_live_update_->keeps(*physical) || physical->inherited() != pci::Inherited::No) return fail(Errno::Ebusy);
  if (count == 0) TRY(vfio_->let_go_virtual(*physical));
  const Result<void> set = bus_->set_virtual_functions(*physical, count);
  vfio_->note_virtual(*physical);
  return set;
}

Result<void> Kernel::unbind_driver(SourceId source) {
  if (!vfio_) return fail(Errno::Enodev);
  const pci::Function* const physical = bus_->find(source);
  if (physical && physical->virtual_count() != 0) TRY(set_virtual_functions(source, 0));
  return vfio_->unbind(source);
}

Result<void> Kernel::bind_driver(SourceId source) {
  return vfio_ ? vfio_->bind(source) : fail(Errno::Enodev);
}

void Kernel::settle_functions() {
  for (usize i = 0; bus_ && i < bus_->size(); ++i) {
    pci::Function& function = bus_->at(i);
    if (function.is_bridge() || function.inherited() == pci::Inherited::No) continue;
    IommuDevice* const device = iommu_->find(function.source());
    if (!device) continue;  // behind no unit that works: nothing of it is translated
    const Ownership ownership = device->group().ownership();
    if (function.inherited() == pci::Inherited::Refused) {
      if (ownership != Ownership::Quarantined) iommu_->quarantine(*device, "what PCI recorded of it does not fit");
    } else if (ownership == Ownership::Unowned) {
      function.let_go();  // nothing of it was live any more
    }
  }
}

// Of functions that are not held: nobody will come for them.
void Kernel::drop_carried_interrupts() {
  iommu_->each_device([](IommuDevice& device) {
    InterruptRemapper* const remapper = device.unit().interrupt_remapper();
    if (!remapper || device.group().ownership() == Ownership::HeldForSession) return;
    remapper->drop_carried(device.source());
  });
}

Result<void> Kernel::boot_services() {
  luo_device_ = TRY(heap_.make<luo::Device>(*luo_));
  memfd_handler_ = TRY(heap_.make<luo::MemfdHandler>(kho_, host_files_));
  iommufd_handler_ = TRY(heap_.make<iommufd::IommufdHandler>(*iommufd_));
  vfio_handler_ = TRY(heap_.make<vfio::VfioHandler>(*vfio_));
  TRY(luo_->register_handler(*memfd_handler_));
  TRY(luo_->register_handler(*iommufd_handler_));
  TRY(luo_->register_handler(*vfio_handler_));
  TRY(luo_->link_flb(*iommufd_handler_, *live_update_));
  TRY(luo_->link_flb(*vfio_handler_, *live_update_));
  return luo_->link_flb(*vfio_handler_, *pci_live_update_);
}

}  // namespace perdure
