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

IommuDevice* Iommu::find(SourceId source) const {
  const Requester* requester = find_requester(source);
  IommuDevice* device = requester ? requester->device.load(std::memory_order_acquire) : nullptr;
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

Result<IommuDevice*> Iommu::add_device(SourceId source, IommuUnit& unit, std::span<const SourceId> aliases) {
  if (!slot_of(unit)) return fail(Errno::Einval);
  Owned<IommuDevice> device = TRY(heap_.make<IommuDevice>(heap_));
  device->source_ = source;
  device->unit_ = &unit;
  TRY(device->aliases_.push_back(source));
  for (SourceId alias : aliases) {
    bool known = false;
    for (SourceId have : device->aliases_) known = known || have == alias;
    if (known) continue;
    if (alias.segment != source.segment) return fail(Errno::Einval);
    TRY(device->aliases_.push_back(alias));
  }
  if (Requester* requester = find_requester(source)) {
    if (IommuDevice* former = requester->device.load()) return readd_device(*former, *device);
  }

  // Functions that share a requester id are one group.
  Group* group = nullptr;
  for (SourceId id : device->aliases_) {
    const Requester* requester = find_requester(id);
    if (!requester || requester->group == group) continue;
    if (group || &requester->group->unit_ != &unit) {
      log(machine(), LogLevel::Error,
          Line() << "iommu: " << Hex{source.bdf} << " shares requester ids with functions that cannot be one group");
      return fail(Errno::Einval);
    }
    group = requester->group;
  }
  Owned<Group> fresh;
  if (!group) {
    u32 id = 0;
    {
      MutexGuard guard(lock_);
      id = next_group_id_++;
    }
    fresh = TRY(heap_.make<Group>(*this, unit, id));
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

// --- domains ----------------------------------------------------------------------------------------------------

Result<Ref<PagingDomain>> Iommu::domain_alloc(IommuDevice& device) {
  pt::Geometry geometry = device.unit().info().geometry;
  // What the device runs on may be of another format or shape than this kernel prefers, and only its like can take over
  // from it (PagingDomain::take_over).
  if (const Ref<PagingDomain> live = device.group().domain(); live && live->restored()) geometry = live->geometry();
  if (geometry.format == pt::FormatId::None) return fail(Errno::Eopnotsupp);
  Owned<pt::IoPageTable> table = TRY(pt::create(heap_, geometry));
  return heap_.make_ref<PagingDomain>(*this, std::move(table));
}

bool Iommu::compatible(const PagingDomain& domain, const IommuDevice& device) const {
  return device.unit().walks(domain.geometry());
}

}  // namespace perdure
