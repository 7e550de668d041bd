#include "core/iommu/restorer.h"

#include <algorithm>

#include "core/base/log.h"

namespace perdure {

Restorer::Restorer(Iommu& iommu, Kho& kho, IncomingModel& model, IommuLiveUpdate::Report& report)
    : iommu_(iommu), kho_(kho), model_(model), report_(report) {}

void Restorer::run() {
  match_units();
  match_devices();
  reserve_dids();  // before anything else can be given one of them
  restore_domains();
  taint_domains_of_unknown_entries();
  restore_orphans();
}

void Restorer::refuse(IncomingDevice& entry, std::string_view why) {
  if (entry.state != RecordState::Valid) return;
  entry.state = RecordState::Bad;
  // Its entry, if live, is cleared at the end of commit(); until it is, hardware walks these tables.
  model_.domains[entry.record.domain].quarantined = true;
  log(iommu_.machine(), LogLevel::Error,
      Line() << "iommu.device record of " << Hex{entry.record.bdf} << " on segment " << entry.record.segment
             << ": refused: " << why);
}

void Restorer::match_units() {
  for (u32 i = 0; i < model_.units.size(); ++i) {
    IncomingUnit& entry = model_.units[i];
    if (entry.state != RecordState::Valid) continue;
    IommuUnit* unit = iommu_.find_unit(Phys(entry.record.base));
    std::string_view why;
    if (!unit) {
      why = "there is no such unit";
    } else if (unit->info().segment != entry.record.segment || unit->info().cap != entry.record.cap ||
               unit->info().ecap != entry.record.ecap || unit->info().did_limit != entry.record.did_limit) {
      why = "the unit there is another one";
    } else if (!iommu_.usable(*unit)) {
      why = "the unit does not answer";
    }
    if (why.empty()) {
      entry.unit = unit;
      entry.state = RecordState::Restored;
      ++report_.units;
      continue;
    }
    entry.state = RecordState::Bad;
    log(iommu_.machine(), LogLevel::Error,
        Line() << "iommu.unit record " << i << ", registers at " << Hex{entry.record.base} << ": refused: " << why);
  }
}

void Restorer::match_devices() {
  for (u32 i = 0; i < model_.devices.size(); ++i) {
    if (model_.devices[i].state == RecordState::Valid) match_device(i);
  }
}

void Restorer::match_device(u32 index) {
  IncomingDevice& entry = model_.devices[index];
  const IncomingUnit& unit = model_.units[entry.record.unit];
  if (unit.state != RecordState::Restored) return refuse(entry, "its unit was not taken over");
  IommuDevice* device = iommu_.find(entry.source());
  if (!device) {
    ++report_.not_held;
    return refuse(entry, "the function is not there");
  }
  if (device->foreign_ids()) return refuse(entry, "its DMA carries another function's requester id");  // R49
  if (&device->unit() != unit.unit) return refuse(entry, "the function is behind another unit");       // R13
  bool live = false;
  const std::string_view why = compare_with_hardware(entry, *device, live);
  if (!live) {
    // Nothing is attached, so nothing is held; the tables are free of it.
    ++report_.not_held;
    entry.state = RecordState::Bad;
    log(iommu_.machine(), LogLevel::Warn,
        Line() << "iommu.device record of " << Hex{entry.record.bdf} << ": its entry is not present: not held");
    return;
  }
  if (!why.empty()) return refuse(entry, why);
  entry.device = device;
}

// Empty, or the first difference between the record and what the unit does for the function (R01, R13, T5).
std::string_view Restorer::compare_with_hardware(const IncomingDevice& entry, IommuDevice& device, bool& live) const {
  const abi::IommuDeviceRecord& record = entry.record;
  const abi::IommuDomainRecord& domain = model_.domains[record.domain].record;
  std::string_view why;
  for (SourceId source : device.aliases()) {
    const EntryState state = device.unit().read_entry(source);
    live = live || state.present;
    if (!why.empty()) continue;
    if (!state.present) {
      why = "one of its entries is not present";
    } else if (state.pass_through) {
      why = "its entry passes DMA through";
    } else if (record.did < kFirstDynamicDid || record.did >= device.unit().info().did_limit) {
      why = "its DID is out of range";
    } else if (state.did != record.did) {
      why = "its entry has another DID";
    } else if (state.top.value != domain.top || state.levels != domain.levels ||
               static_cast<u32>(state.format) != domain.format) {
      why = "its entry leads to another table";
    } else if (state.tracks_dirty != ((domain.flags & abi::kIommuDomainTracks) != 0)) {
      why = "its entry and its record differ in dirty tracking";
    }
  }
  if (why.empty() && device.aliases().size() != record.alias_count + 1) why = "its aliases are others now";
  for (u32 i = 0; i < record.alias_count && why.empty(); ++i) {
    const SourceId alias{entry.source().segment, record.aliases[i]};
    if (std::find(device.aliases().begin(), device.aliases().end(), alias) == device.aliases().end()) {
      why = "its aliases are others now";
    }
  }
  return why;
}

void Restorer::reserve_dids() {
  for (IncomingDevice& d : model_.devices) {
    if (d.state != RecordState::Valid) continue;
    IncomingAttachment& attachment = model_.attachments[d.attachment];
    if (attachment.reserved) continue;  // shared with a device before (R04)
    const Result<void> reserved = model_.units[d.record.unit].unit->did_reserve(attachment.record.did);
    if (reserved) {
      attachment.reserved = true;
    } else if (reserved.error() == Errno::Eexist) {
      refuse_shared_did(d);
    } else {
      refuse(d, "its DID cannot be reserved");
    }
  }
}

// One DID for two tables is a tag that mixes their cached translations, whoever is right (hardware.md §4, R04).
void Restorer::refuse_shared_did(IncomingDevice& entry) {
  const u32 mine = entry.attachment;
  refuse(entry, "its DID is taken");
  for (IncomingDevice& other : model_.devices) {
    if (other.state != RecordState::Valid || other.record.unit != entry.record.unit) continue;
    if (other.attachment == mine || other.record.did == entry.record.did) refuse(other, "its DID tags two tables");
  }
}

void Restorer::restore_domains() {
  for (const IncomingDevice& d : model_.devices) {
    if (d.state != RecordState::Valid) continue;
    IncomingDomain& domain = model_.domains[d.record.domain];
    if (domain.state != RecordState::Valid) continue;
    const Result<void> restored = restore_domain(d.record.domain);
    const Result<Ref<HeldOwner>> owner =
        iommu_.heap().make_ref<HeldOwner>(d.record.owner_generation, d.record.owner_token);
    if (restored && owner) {
      domain.owner = *owner;
      continue;
    }
    const Errno why = restored ? owner.error() : restored.error();
    // A device of it is live: whatever was taken over stays as it is for ever.
    if (domain.domain) domain.domain->never_free();
    domain.domain = nullptr;
    domain.state = RecordState::Bad;
    domain.quarantined = true;
    log(iommu_.machine(), LogLevel::Error,
        Line() << "iommu.domain record " << d.record.domain << ": cannot be restored: " << why);
  }
  for (IncomingDevice& d : model_.devices) {
    if (d.state != RecordState::Valid) continue;
    if (model_.domains[d.record.domain].state == RecordState::Restored) {
      restore_device(d);
    } else {
      refuse(d, "its domain was not restored");
    }
  }
  for (IncomingDomain& domain : model_.domains) {
    if (domain.state != RecordState::Restored) continue;
    if (domain.quarantined) domain.domain->never_free();
    if (domain.devices != 0) continue;
    domain.domain = nullptr;
    domain.state = RecordState::Bad;
    --report_.domains;
  }
}

// The object first, then the pages: when this fails, the object goes and the pages stay with nobody (R20). Once the
// table is taken over nothing can fail any more.
Result<void> Restorer::restore_domain(u32 index) {
  IncomingDomain& entry = model_.domains[index];
  Ref<PagingDomain> domain = TRY(iommu_.heap().make_ref<PagingDomain>(iommu_, PagingDomain::RestoredKey()));
  TRY(domain->reserve_unit_uses(model_.units.size()));
  Owned<pt::IoPageTable> table = TRY(adopt_table(entry.record));
  const bool knows_contents = model_.version >= 2;
  if (knows_contents && table->arena().pages_in_use() != entry.record.table_pages) {
    table->abandon();
    return fail(Errno::Eproto);
  }
  const bool known = knows_contents && entry.record.mapped_bytes != abi::kIommuMappedUnknown;
  domain->install_restored_tracking((entry.record.flags & abi::kIommuDomainCanTrack) != 0,
                                    (entry.record.flags & abi::kIommuDomainTracks) != 0);
  domain->install_restored_table(std::move(table), known ? entry.record.mapped_bytes : 0, known);
  entry.domain = std::move(domain);
  entry.state = RecordState::Restored;
  ++report_.domains;
  return {};
}

Result<Owned<pt::IoPageTable>> Restorer::adopt_table(const abi::IommuDomainRecord& record) {
  pt::Geometry geometry;
  geometry.format = static_cast<pt::FormatId>(record.format);
  geometry.levels = static_cast<u8>(record.levels);
  geometry.iova_bits = static_cast<u8>(record.iova_bits);
  geometry.output_bits = static_cast<u8>(record.output_bits);
  geometry.leaf_sizes = record.leaf_sizes;
  geometry.coherent = record.coherent != 0;
  // Never in a bank: programs write there.
  const auto readable = [&](Phys base, u64 length) {
    return iommu_.machine().in_window(base, length) && kho_.incoming_covers(base, length) &&
           kho_.frames().in_use(base, length);
  };
  const auto restore = [&](Phys base, unsigned order) { return kho_.restore(base, order); };
  return pt::adopt(iommu_.heap(), geometry, Phys(record.top), Phys(record.first_descriptor), readable, restore);
}

void Restorer::restore_device(IncomingDevice& entry) {
  IncomingDomain& domain = model_.domains[entry.record.domain];
  Group& group = entry.device->group();
  Result<void> held;
  {
    MutexGuard guard(group.lock_);
    held = group.hold_locked(domain.owner, domain.domain);
  }
  if (!held) {
    using std::literals::operator""sv;
    return refuse(entry, held.error() == Errno::Eexist ? "its group has an owner"sv : "its group has others"sv);
  }
  IncomingAttachment& attachment = model_.attachments[entry.attachment];
  domain.domain->adopt_attachment(entry.device->unit(), static_cast<u32>(attachment.record.did), 1);
  ++attachment.devices;
  ++domain.devices;
  entry.state = RecordState::Restored;
  ++report_.devices;
  if ((entry.record.flags & abi::kIommuDeviceBusMaster) != 0 && iommu_.bus_master_ &&
      !iommu_.bus_master_->is_on(entry.source())) {
    log(iommu_.machine(), LogLevel::Warn,
        Line() << "iommu: " << Hex{entry.record.bdf} << " was preserved with bus mastering on; it is off now, so its "
               << "DMA has stopped");
  }
}

// A domain whose table a function without a valid record walks is not given to anybody.
void Restorer::taint_domains_of_unknown_entries() {
  for (const IncomingUnit& unit : model_.units) {
    if (unit.state != RecordState::Restored) continue;
    unit.unit->each_present_entry([&](SourceId source, const EntryState& state) {
      const Requester* requester = iommu_.find_requester(source);
      if (!requester || !requester->attached.load()) model_.taint(state.top);
    });
  }
  for (IncomingDomain& domain : model_.domains) {
    if (domain.state == RecordState::Restored && domain.quarantined) domain.domain->never_free();
  }
}

// Whether the records together tell of every domain that hardware may walk: only a unit that was taken over was asked
// itself, and what a damaged record named is not known.
bool Restorer::tells_everything() const {
  const auto& header = *iommu_.machine().virt<const abi::IommuHeader>(Phys(model_.data));
  if (model_.units.size() != header.unit_slots || model_.attachments.size() != header.attachment_slots ||
      model_.devices.size() != header.device_slots) {
    return false;
  }
  for (const IncomingUnit& unit : model_.units) {
    if (unit.state == RecordState::Bad || unit.state == RecordState::Valid) return false;
  }
  for (const IncomingAttachment& a : model_.attachments) {
    if (a.state == RecordState::Bad) return false;
  }
  return true;
}

// Domains that were preserved without a device: nothing walks them, their HWPT wants them.
void Restorer::restore_orphans() {
  const bool proven = tells_everything();
  const auto name = [&](RecordState state, u32 domain) {
    if (state != RecordState::Unused && domain < model_.domains.size()) model_.domains[domain].named = true;
  };
  for (const IncomingAttachment& a : model_.attachments) name(a.state, a.record.domain);
  for (const IncomingDevice& d : model_.devices) name(d.state, d.record.domain);
  for (u32 i = 0; i < model_.domains.size(); ++i) {
    IncomingDomain& domain = model_.domains[i];
    if (domain.state != RecordState::Valid || domain.quarantined) continue;
    if (domain.named) {
      // One that lost all of its devices is nobody's: hardware that could not be asked may walk it still.
      domain.state = RecordState::Bad;
      continue;
    }
    if (const Result<void> restored = restore_domain(i); !restored) {
      domain.state = RecordState::Bad;
      log(iommu_.machine(), LogLevel::Error,
          Line() << "iommu.domain record " << i << ": cannot be restored: " << restored.error());
    } else if (!proven) {
      domain.domain->never_free();
    }
  }
}

void Restorer::free_unused_dids() {
  for (IncomingAttachment& attachment : model_.attachments) {
    if (!attachment.reserved || attachment.devices != 0) continue;
    IommuUnit& unit = *model_.units[attachment.record.unit].unit;
    // Its entries are gone and flushed, unless the unit failed; then nobody gets it.
    if (iommu_.usable(unit)) unit.did_free(static_cast<u32>(attachment.record.did));
    attachment.reserved = false;
  }
}

}  // namespace perdure
