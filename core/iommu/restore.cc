// The new kernel's side of IommuLiveUpdate.
#include "core/base/log.h"
#include "core/iommu/incoming_model.h"
#include "core/iommu/live_update.h"
#include "core/iommu/outgoing_records.h"
#include "core/iommu/record_reader.h"
#include "core/iommu/restorer.h"
#include "core/kho/record_chain.h"

namespace perdure {

Result<void> IommuLiveUpdate::load(u64 data) {
  MutexGuard guard(lock_);
  if (incoming_) return incoming_->data == data ? Result<void>() : fail(Errno::Einval);
  incoming_ = TRY(read_iommu_records(kho_, data));
  return {};
}

const abi::IommuUnitRecord* IommuLiveUpdate::unit_record(Phys base) const {
  MutexGuard guard(lock_);
  if (!incoming_) return nullptr;
  for (const IncomingUnit& unit : incoming_->units) {
    const bool good = unit.state == RecordState::Valid || unit.state == RecordState::Restored;
    if (good && unit.record.base == base.value) return &unit.record;
  }
  return nullptr;
}

bool IommuLiveUpdate::records(SourceId source) const {
  MutexGuard guard(lock_);
  const IncomingDevice* entry = incoming_ ? incoming_->device_of(source) : nullptr;
  return entry && entry->source() == source;
}

void IommuLiveUpdate::each_recorded(FunctionRef<void(SourceId)> visit) const {
  MutexGuard guard(lock_);
  if (!incoming_) return;
  for (const IncomingDevice& d : incoming_->devices) {
    if (d.state == RecordState::Valid || d.state == RecordState::Restored) visit(d.source());
  }
}

bool IommuLiveUpdate::records_alias(SourceId source) const {
  MutexGuard guard(lock_);
  const IncomingDevice* entry = incoming_ ? incoming_->device_of(source) : nullptr;
  return entry && entry->source() != source;
}

void IommuLiveUpdate::each_recorded_behind(Phys unit,
                                           FunctionRef<void(std::span<const SourceId> requesters)> visit) const {
  MutexGuard guard(lock_);
  if (!incoming_) return;
  for (const IncomingDevice& device : incoming_->devices) {
    if (device.state != RecordState::Valid || incoming_->units[device.record.unit].record.base != unit.value) continue;
    SourceId ids[1 + abi::kIommuMaxAliases] = {device.source()};
    for (u32 i = 0; i < device.record.alias_count; ++i) ids[1 + i] = {ids[0].segment, device.record.aliases[i]};
    visit(std::span<const SourceId>(ids, 1 + device.record.alias_count));
  }
}

void IommuLiveUpdate::note_unknown_entry(const EntryState& state) {
  MutexGuard guard(lock_);
  if (incoming_ && state.present) incoming_->taint(state.top);
}

void IommuLiveUpdate::commit() {
  MutexGuard guard(lock_);
  report_ = {};
  if (incoming_) Restorer(iommu_, kho_, *incoming_, report_).run();

  // Both ways: what is live and was not attached by now has nobody to answer for it.
  for (Group* group = iommu_.next_group(nullptr); group; group = iommu_.next_group(group)) {
    MutexGuard group_guard(group->lock_);
    if (group->awaiting_restore_) group->quarantine_locked("its entry is live, and its record was refused");
  }
  iommu_.each_unit([&](IommuUnit& unit) {
    report_.quarantined += iommu_.quarantine_unknown_entries(unit, "its entry is live, and no valid record says why");
  });
  iommu_.isolate_failed_units();
  if (incoming_) Restorer(iommu_, kho_, *incoming_, report_).free_unused_dids();
  for (Group* group = iommu_.next_group(nullptr); group; group = iommu_.next_group(group)) {
    MutexGuard group_guard(group->lock_);
    if (group->ownership_ == Ownership::Quarantined) report_.quarantined += group->device_total_;
  }
  log(iommu_.machine(), report_.quarantined != 0 ? LogLevel::Warn : LogLevel::Info,
      Line() << "iommu: " << report_.units << " units taken over, " << report_.domains << " domains restored, "
             << report_.devices << " devices held, " << report_.quarantined << " quarantined, " << report_.not_held
             << " not held");
}

Result<Ref<PagingDomain>> IommuLiveUpdate::restored_domain_locked(u32 index, u64 generation) {
  if (!incoming_ || index >= incoming_->domain_slots) return fail(Errno::Enoent);
  if (index >= incoming_->domains.size()) return fail(Errno::Eio);
  const IncomingDomain& entry = incoming_->domains[index];
  if (entry.state == RecordState::Unused) return fail(Errno::Enoent);
  if (entry.state != RecordState::Restored) return fail(Errno::Eio);
  if (entry.record.owner_generation != generation) return fail(Errno::Enoent);
  return entry.domain;
}

Result<Ref<PagingDomain>> IommuLiveUpdate::held_domain(u32 index, u64 generation) {
  MutexGuard guard(lock_);
  return restored_domain_locked(index, generation);
}

Result<Ref<PagingDomain>> IommuLiveUpdate::reclaim_domain(u32 index, u64 generation) {
  MutexGuard guard(lock_);
  Ref<PagingDomain> domain = TRY(restored_domain_locked(index, generation));
  if (incoming_->domains[index].reclaimed) return fail(Errno::Ebusy);
  incoming_->domains[index].reclaimed = true;
  return domain;
}

void IommuLiveUpdate::unreclaim_domain(PagingDomain& domain) {
  MutexGuard guard(lock_);
  if (!incoming_) return;
  for (IncomingDomain& entry : incoming_->domains) {
    if (entry.domain.get() == &domain) entry.reclaimed = false;
  }
}

u32 IommuLiveUpdate::quarantine_held(u64 generation, u64 token, std::string_view why) {
  u32 stopped = 0;
  for (Group* group = iommu_.next_group(nullptr); group; group = iommu_.next_group(group)) {
    MutexGuard guard(group->lock_);
    if (group->ownership_ != Ownership::HeldForSession || !group->held_->is_for(generation, token)) continue;
    group->quarantine_locked(why);
    ++stopped;
  }
  if (stopped != 0) iommu_.isolate_failed_units();
  return stopped;
}

Result<void> IommuLiveUpdate::retrieve(u64 data) {
  return load(data);
}

void IommuLiveUpdate::finish(u64 data) {
  Owned<IncomingModel> done;
  {
    MutexGuard guard(lock_);
    if (!incoming_ || incoming_->data != data) return;
    done = std::move(incoming_);
  }
  kho::discard_pages(kho_, done->blocks.span());
}

}  // namespace perdure
