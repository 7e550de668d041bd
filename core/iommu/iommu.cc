#include "core/iommu/iommu.h"

#include "core/base/log.h"
#include "core/base/scope_guard.h"
#include "core/iommu/live_update.h"

namespace perdure {

Iommu::Iommu(Heap& heap, Kho& kho) : heap_(heap), kho_(kho) {}

// Nobody else runs any more, so nothing is locked: destroying takes locks of lower rank than lock_.
Iommu::~Iommu() {
  PERDURE_ASSERT(live_update_ == nullptr);
  while (IommuDevice* device = devices_.pop_front()) Owned<IommuDevice>(heap_, device).reset();
  while (Group* group = groups_.pop_front()) {
    group->settle_locked();
    if (Ref<PagingDomain> domain = std::move(group->domain_)) {
      // Attached to the end, so hardware walks its tables: their pages are not given back.
      domain->end_attach(group->unit_, group->device_total_, false);
    }
    Owned<Group>(heap_, group).reset();
  }
  for (Requester* bucket : buckets_) {
    while (Requester* requester = bucket) {
      bucket = requester->next_in_bucket;
      Owned<Requester>(heap_, requester).reset();
    }
  }
  while (UnitSlot* slot = units_.pop_front()) Owned<UnitSlot>(heap_, slot).reset();
}

Result<void> Iommu::add_unit(Owned<IommuUnit> unit) {
  if (find_unit(unit->info().base)) return fail(Errno::Eexist);
  Owned<UnitSlot> slot = TRY(heap_.make<UnitSlot>());
  slot->unit = std::move(unit);
  MutexGuard guard(lock_);
  units_.push_back(*slot.release());
  return {};
}

IommuUnit* Iommu::find_unit(Phys base) const {
  MutexGuard guard(lock_);
  for (UnitSlot& slot : units_) {
    if (slot.unit->info().base == base) return slot.unit.get();
  }
  return nullptr;
}

Requester* Iommu::find_requester(SourceId source) const {
  MutexGuard guard(lock_);
  for (Requester* r = buckets_[bucket_of(source)]; r; r = r->next_in_bucket) {
    if (r->source == source) return r;
  }
  return nullptr;
}

IommuDevice* Iommu::known_device(SourceId source) const {
  if (const Requester* requester = find_requester(source)) {
    if (IommuDevice* device = requester->device.load(std::memory_order_acquire)) return device;
  }
  MutexGuard guard(lock_);
  for (IommuDevice& device : devices_) {
    if (device.foreign_ids() && device.source() == source) return &device;
  }
  return nullptr;
}

IommuDevice* Iommu::find(SourceId source) const {
  IommuDevice* device = known_device(source);
  return device && device->present() ? device : nullptr;
}

Group* Iommu::next_group(Group* after) const {
  MutexGuard guard(lock_);
  if (after) return groups_.next(*after);
  return groups_.empty() ? nullptr : &groups_.front();
}

void Iommu::each_device(FunctionRef<void(IommuDevice&)> visit) const {
  IommuDevice* device = nullptr;
  while (true) {
    {
      MutexGuard guard(lock_);
      if (device) {
        device = devices_.next(*device);
      } else {
        device = devices_.empty() ? nullptr : &devices_.front();
      }
    }
    if (!device) return;
    if (device->present()) visit(*device);
  }
}

void Iommu::each_unit(FunctionRef<void(IommuUnit&)> visit) const {
  UnitSlot* slot = nullptr;
  while (true) {
    {
      MutexGuard guard(lock_);
      if (slot) {
        slot = units_.next(*slot);
      } else {
        slot = units_.empty() ? nullptr : &units_.front();
      }
    }
    if (!slot) return;
    visit(*slot->unit);
  }
}

Iommu::UnitSlot* Iommu::slot_of(const IommuUnit& unit) const {
  MutexGuard guard(lock_);
  for (UnitSlot& slot : units_) {
    if (slot.unit.get() == &unit) return &slot;
  }
  return nullptr;
}

bool Iommu::usable(const IommuUnit& unit) const {
  const UnitSlot* slot = slot_of(unit);
  return slot && !slot->failed.load() && !slot->quarantined.load() && unit.alive();
}

// --- devices ----------------------------------------------------------------------------------------------------

// Functions that share a requester id, or are not isolated from each other, are one group. Null: there is none yet.
Result<Group*> Iommu::group_for(const IommuDevice& device, SourceId leader) const {
  Group* group = nullptr;
  const auto join = [&](Group& other) -> Result<void> {
    if (group == &other) return {};
    if (group || &other.unit_ != device.unit_) {
      log(machine(), LogLevel::Error,
          Line() << "iommu: " << Hex{device.source().bdf}
                 << " belongs together with functions that cannot be one group: it is blocked");
      return fail(Errno::Einval);
    }
    group = &other;
    return {};
  };
  for (SourceId id : device.aliases()) {
    if (const Requester* requester = find_requester(id)) TRY(join(*requester->group));
  }
  for (Group* other = next_group(nullptr); other; other = next_group(other)) {
    if (other->leader_ == leader) TRY(join(*other));
  }
  return group;
}

Result<IommuDevice*> Iommu::add_device(SourceId source, IommuUnit& unit, std::span<const SourceId> aliases,
                                       const FunctionFacts& facts) {
  if (!slot_of(unit)) return fail(Errno::Einval);
  Owned<IommuDevice> device = TRY(heap_.make<IommuDevice>(heap_));
  device->source_ = source;
  device->unit_ = &unit;
  device->foreign_ids_ = facts.foreign_ids;
  if (!facts.foreign_ids) TRY(device->aliases_.push_back(source));
  for (SourceId alias : aliases) {
    bool known = false;
    for (SourceId have : device->aliases_) known = known || have == alias;
    if (known) continue;
    if (!device->aliases_.empty() && alias.segment != device->aliases_[0].segment) return fail(Errno::Einval);
    TRY(device->aliases_.push_back(alias));
  }
  if (device->aliases_.empty()) return fail(Errno::Einval);
  for (const FirmwareRegion& region : facts.regions) TRY(device->regions_.push_back(region));
  if (IommuDevice* former = known_device(source)) return readd_device(*former, *device);

  const SourceId leader = facts.leader ? *facts.leader : source;
  Group* group = TRY(group_for(*device, leader));
  Owned<Group> fresh;
  if (!group) {
    u32 id = 0;
    {
      MutexGuard guard(lock_);
      id = next_group_id_++;
    }
    fresh = TRY(heap_.make<Group>(*this, unit, id, leader));
    group = fresh.get();
  }
  device->group_ = group;

  // All memory first; then the links, which cannot fail.
  Vec<Owned<Requester>> requesters(heap_);
  for (SourceId id : device->aliases_) {
    if (find_requester(id)) continue;
    Owned<Requester> requester = TRY(heap_.make<Requester>(id, *group));
    TRY(requesters.push_back(std::move(requester)));
  }
  IommuDevice* added = device.get();
  {
    MutexGuard group_guard(group->lock_);
    // An owner chose its group as it was (R14). One that still waits for commit() is refused there.
    const bool in_use = group->ownership_ != Ownership::Unowned || group->domain_;
    if (in_use && group->ownership_ != Ownership::Quarantined) return fail(Errno::Ebusy);
    MutexGuard guard(lock_);
    for (Owned<Requester>& owned : requesters) {
      Requester* requester = owned.release();
      Requester*& bucket = buckets_[bucket_of(requester->source)];
      requester->next_in_bucket = bucket;
      bucket = requester;
      group->requesters_.push_back(*requester);
    }
    for (Requester* r = buckets_[bucket_of(source)]; r; r = r->next_in_bucket) {
      if (r->source == source) r->device.store(added, std::memory_order_release);
    }
    group->devices_.push_back(*added);
    ++group->device_total_;
    devices_.push_back(*device.release());
    if (fresh) groups_.push_back(*fresh.release());
  }
  reconcile_device(*added);
  return added;
}

// The function was there before: the same object again, if it is the same function behind the same unit.
Result<IommuDevice*> Iommu::readd_device(IommuDevice& former, const IommuDevice& found) {
  if (former.present()) return fail(Errno::Eexist);
  bool same = former.unit_ == found.unit_ && former.aliases_.size() == found.aliases_.size();
  for (usize i = 0; same && i < found.aliases_.size(); ++i) same = former.aliases_[i] == found.aliases_[i];
  if (!same) return fail(Errno::Einval);
  former.present_.store(true, std::memory_order_release);
  return &former;
}

Result<void> Iommu::remove_device(IommuDevice& device) {
  MutexGuard guard(device.group_->lock_);
  TRY(device.group_->immutability_.may_change());
  if (device.group_->ownership_ == Ownership::Owned) return fail(Errno::Ebusy);
  device.present_.store(false, std::memory_order_release);
  return {};
}

// An entry that is live before anything was attached: the former kernel's, and rightful only with a record.
void Iommu::reconcile_device(IommuDevice& device) {
  const bool recorded = live_update_ && live_update_->records(device.source());
  Group& group = device.group();
  {
    MutexGuard guard(group.lock_);
    if (group.ownership_ == Ownership::Quarantined) {
      group.quarantine_locked("shares requester ids with a quarantined function");
      return;
    }
    if (!group.entry_present_locked()) return;
    if (recorded) {
      group.awaiting_restore_ = true;
      return;
    }
  }
  if (live_update_) {
    for (SourceId id : device.aliases()) live_update_->note_unknown_entry(device.unit().read_entry(id));
  }
  quarantine(device, "its entry is live, and no valid record says why");
}

// --- what firmware uses -----------------------------------------------------------------------------------------

Result<void> Iommu::keep_firmware_regions() {
  Result<void> result;
  each_device([&](IommuDevice& device) {
    bool always = false;
    for (const FirmwareRegion& region : device.regions()) always = always || !region.until_driven;
    if (!always || !result) return;
    if (!firmware_) {
      auto owner = heap_.make_ref<DmaOwner>();
      if (!owner) {
        result = fail(owner.error());
        return;
      }
      firmware_ = std::move(*owner);
    }
    Group& group = device.group();
    if (!group.claim(firmware_)) return;  // quarantined: firmware's use of it ended there
    if (group.domain()) return;           // through another device of the group
    const Result<void> mapped = map_firmware_regions(group, device);
    if (mapped) return;
    log(machine(), LogLevel::Error,
        Line() << "iommu: " << Hex{device.source().bdf}
               << " cannot reach the memory that firmware reserves for it: " << mapped.error() << "; it stays blocked");
  });
  return result;
}

Result<void> Iommu::map_firmware_regions(Group& group, IommuDevice& device) {
  const Ref<PagingDomain> domain = TRY(domain_alloc(device));
  // Regions may overlap, or two devices have the same; a page is mapped once.
  const auto map = [&](const FirmwareRegion& region) -> Result<void> {
    for (u64 done = 0; done < region.length; done += kPageSize) {
      const Phys at = region.base + done;
      if (domain->leaf_at(Iova(at.value))) continue;
      TRY(domain->map(Iova(at.value), at, kPageSize, Access::ReadWrite));
    }
    return {};
  };
  Vec<FirmwareRegion> regions(heap_);
  TRY(group.regions(regions));
  for (const FirmwareRegion& region : regions) TRY(map(region));
  return group.attach(*firmware_, domain);
}

// --- domains ----------------------------------------------------------------------------------------------------

Result<Ref<PagingDomain>> Iommu::domain_alloc(IommuDevice& device, bool can_track) {
  const UnitInfo& unit = device.unit().info();
  pt::Geometry geometry = can_track ? unit.dirty_tracking : unit.geometry;
  if (can_track && geometry.format == pt::FormatId::None) return fail(Errno::Eopnotsupp);
  // What the device runs on may be of another format or shape than this kernel prefers, and only its like can take over
  // from it (PagingDomain::take_over).
  if (const Ref<PagingDomain> live = device.group().domain(); live && live->restored()) {
    const pt::Geometry& g = live->geometry();
    if (!can_track || (g.format == geometry.format && g.coherent)) geometry = g;
  }
  if (geometry.format == pt::FormatId::None) return fail(Errno::Eopnotsupp);
  Owned<pt::IoPageTable> table = TRY(pt::create(heap_, geometry));
  return heap_.make_ref<PagingDomain>(*this, std::move(table), can_track);
}

bool Iommu::compatible(const PagingDomain& domain, const IommuDevice& device) const {
  return domain.suits(device.unit());
}

}  // namespace perdure
