#include "core/iommu/paging_domain.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/iommu/graft.h"
#include "core/iommu/iommu.h"

namespace perdure {

PagingDomain::PagingDomain(Iommu& iommu, Owned<pt::IoPageTable> table, bool can_track)
    : iommu_(iommu),
      lock_(LockRank::IommuDomain),
      table_(std::move(table)),
      units_(iommu.heap()),
      can_track_(can_track),
      restored_(false) {}

PagingDomain::PagingDomain(Iommu& iommu, RestoredKey)
    : iommu_(iommu), lock_(LockRank::IommuRestored), units_(iommu.heap()), restored_(true) {}

PagingDomain::~PagingDomain() {
  // A group holds a reference as long as it is attached, the records as long as it is preserved.
  PERDURE_ASSERT(units_.empty() && !preserved());
  if (table_ && never_free_) table_->abandon();
}

Result<void> PagingDomain::check_mutable_locked() const {
  TRY(immutability_.may_change());
  if (restored_) return fail(Errno::Eopnotsupp);
  return {};
}

Result<void> PagingDomain::map(Iova iova, Phys phys, u64 length, Access access) {
  Result<void> visible;
  {
    MutexGuard guard(lock_);
    TRY(check_mutable_locked());
    if (flush_failed_) return fail(Errno::Eio);
    TRY(table_->map(iova, phys, length, access));
    for (const UnitUse& use : units_) {
      visible = use.unit->mapped_pages(use.did, iova, length);
      if (visible) continue;
      iommu_.note_failure(*use.unit);
      pt::Gather gather;
      static_cast<void>(table_->unmap(iova, length, gather));
      static_cast<void>(flush_removed_locked(iova, length, gather));
      break;
    }
    if (visible) mapped_bytes_ += length;
  }
  if (!visible) iommu_.isolate_failed_units();
  return visible;
}

Result<u64> PagingDomain::unmap(Iova iova, u64 length) {
  if (length == 0) return u64{0};
  if (range_overflows(iova.value, length)) return fail(Errno::Einval);
  u64 bytes = 0;
  Result<void> flushed;
  {
    MutexGuard guard(lock_);
    TRY(check_mutable_locked());
    // A leaf that reaches beyond the range goes whole, and is flushed whole.
    Iova first = iova;
    Iova last = iova + (length - 1);
    if (auto leaf = table_->leaf_at(first)) first = leaf->iova;
    if (auto leaf = table_->leaf_at(last)) last = leaf->iova + (leaf->length - 1);
    pt::Gather gather;
    bytes = table_->unmap(iova, length, gather);
    if (bytes == 0 && !gather.tables_removed && !flush_failed_) return u64{0};
    mapped_bytes_ -= bytes;
    flushed = flush_removed_locked(first, last - first + 1, gather);
  }
  if (!flushed) {
    iommu_.isolate_failed_units();
    return fail(flushed.error());
  }
  return bytes;
}

// After unmap and before anything that was mapped or linked there is used again (hardware.md §6). The units are looked
// at only now: one that begin_attach() adds later has no entry yet that could have cached what is gone.
Result<void> PagingDomain::flush_removed_locked(Iova iova, u64 length, pt::Gather& gather) {
  Iova first = iova;
  Iova last = iova + (length - 1);
  if (gather.tables_removed) {
    first = std::min(first, gather.first);
    last = std::max(last, gather.last);
  }
  for (const UnitUse& use : units_) {
    if (use.unit->flush_pages(use.did, first, last - first + 1, !gather.tables_removed)) continue;
    iommu_.note_failure(*use.unit);
    flush_failed_ = true;
  }
  if (flush_failed_) {
    // The unit may still hold what was cut out: neither the tables nor the pages behind them are anybody's again.
    never_free_ = true;
    return fail(Errno::Eio);
  }
  table_->release(gather);
  return {};
}

Result<pt::Leaf> PagingDomain::leaf_at(Iova iova) const {
  MutexGuard guard(lock_);
  return table_->leaf_at(iova);
}

u32 PagingDomain::attached_devices() const {
  MutexGuard guard(lock_);
  u32 count = 0;
  for (const UnitUse& use : units_) count += use.devices;
  return count;
}

u32 PagingDomain::did_on(const IommuUnit& unit) const {
  MutexGuard guard(lock_);
  for (const UnitUse& use : units_) {
    if (use.unit == &unit) return use.did;
  }
  return 0;
}

u64 PagingDomain::mapped_bytes() const {
  MutexGuard guard(lock_);
  return mapped_bytes_;
}

bool PagingDomain::mapped_bytes_known() const {
  MutexGuard guard(lock_);
  return mapped_bytes_known_;
}

PagingDomain::UnitUse* PagingDomain::use_of_locked(const IommuUnit& unit) {
  for (UnitUse& use : units_) {
    if (use.unit == &unit) return &use;
  }
  return nullptr;
}

Result<u32> PagingDomain::begin_attach(IommuUnit& unit, u32 devices) {
  MutexGuard guard(lock_);
  TRY(check_mutable_locked());
  if (flush_failed_) return fail(Errno::Eio);
  if (UnitUse* use = use_of_locked(unit)) {
    use->devices += devices;
    return use->did;
  }
  TRY(units_.reserve(units_.size() + 1));
  const u32 did = TRY(unit.did_alloc());
  if (tracks_) {
    // Before its first entry is there.
    if (const Result<void> tracks = unit.set_dirty_tracking(did, true); !tracks) {
      unit.did_free(did);
      return fail(tracks.error());
    }
  }
  static_cast<void>(units_.push_back({&unit, did, devices}));
  return did;
}

void PagingDomain::end_attach(IommuUnit& unit, u32 devices, bool flushed) {
  MutexGuard guard(lock_);
  // The unit may go on with what it has cached: nothing behind this domain is proven free again.
  if (!flushed) never_free_ = flush_failed_ = true;
  for (usize i = 0; i < units_.size(); ++i) {
    UnitUse& use = units_[i];
    if (use.unit != &unit) continue;
    PERDURE_ASSERT(use.devices >= devices);
    use.devices -= devices;
    if (use.devices == 0) {
      // A DID whose translations may still be cached would hand them to its next user.
      if (!flush_failed_) unit.did_free(use.did);
      units_.erase_at(i);
    }
    return;
  }
  PERDURE_ASSERT(!"detached from a unit it was not on");
}

Result<void> PagingDomain::reserve_unit_uses(usize count) {
  MutexGuard guard(lock_);
  return units_.reserve(count);
}

void PagingDomain::adopt_attachment(IommuUnit& unit, u32 did, u32 devices) {
  MutexGuard guard(lock_);
  if (UnitUse* use = use_of_locked(unit)) {
    PERDURE_ASSERT(use->did == did);
    use->devices += devices;
    return;
  }
  const Result<void> added = units_.push_back({&unit, did, devices});
  PERDURE_ASSERT(added.has_value());
}

Result<void> PagingDomain::take_over(PagingDomain& live) {
  Result<void> flushed;
  MutexGuard live_guard(live.lock_);
  if (!live.restored_ || restored_) return fail(Errno::Einval);
  MutexGuard guard(lock_);
  TRY(live.immutability_.may_change());
  TRY(immutability_.may_change());
  if (live.flush_failed_ || flush_failed_) return fail(Errno::Eio);
  if (live.successor_ || !units_.empty()) return fail(Errno::Einval);
  if (table_->engine() != live.table_->engine() || table_->geometry() != live.table_->geometry()) {
    log(iommu_.machine(), LogLevel::Error,
        Line() << "iommu: replace: the new table has another shape than the old one");
    return fail(Errno::Einval);
  }
  for (const UnitUse& use : live.units_) {
    if (suits(*use.unit)) continue;
    log(iommu_.machine(), LogLevel::Error,
        Line() << "iommu: replace: the unit at " << use.unit->info().base << " cannot track what is written through "
               << "the new table");
    return fail(Errno::Einval);
  }
  Iova at;
  const Result<u64> mapped = check_same_results(*live.table_, *table_, at);
  if (!mapped) {
    log(iommu_.machine(), LogLevel::Error,
        Line() << "iommu: replace: the new table differs at IOVA " << at << ": map the same memory there first");
    return fail(mapped.error());
  }
  if (live.mapped_bytes_known_ && *mapped != live.mapped_bytes_) {
    log(iommu_.machine(), LogLevel::Error,
        Line() << "iommu: replace: the old table maps " << Hex{*mapped} << " bytes, its record says "
               << Hex{live.mapped_bytes_} << ": the handover is damaged");
    return fail(Errno::Eio);
  }
  TRY(table_->graft_onto(*live.table_));
  // The DID goes with the top page: entries stay as they are.
  std::swap(units_, live.units_);
  live.successor_ = Ref<PagingDomain>(this);
  for (const UnitUse& use : units_) {
    if (use.unit->flush_domain(use.did)) continue;
    iommu_.note_failure(*use.unit);
    live.never_free_ = true;
    flush_failed_ = true;
    never_free_ = true;
    flushed = fail(Errno::Eio);
  }
  TRY(flushed);
  return inherit_tracking_locked(live);
}

Ref<PagingDomain> PagingDomain::successor() const {
  MutexGuard guard(lock_);
  return successor_;
}

Result<void> PagingDomain::adopt(u64 mapped_bytes) {
  MutexGuard guard(lock_);
  TRY(immutability_.may_change());
  if (!restored_ || successor_) return fail(Errno::Einval);
  if (never_free_ || flush_failed_) return fail(Errno::Eio);
  if (mapped_bytes_known_ && mapped_bytes_ != mapped_bytes) {
    log(iommu_.machine(), LogLevel::Error,
        Line() << "iommu: adopt: the table maps " << Hex{mapped_bytes_} << " bytes, its owner's records say "
               << Hex{mapped_bytes} << ": the handover is damaged");
    return fail(Errno::Eio);
  }
  mapped_bytes_ = mapped_bytes;
  mapped_bytes_known_ = true;  // the next audit counts
  restored_.store(false, std::memory_order_release);
  return {};
}

void PagingDomain::install_restored_table(Owned<pt::IoPageTable> table, u64 mapped_bytes, bool mapped_bytes_known) {
  MutexGuard guard(lock_);
  table_ = std::move(table);
  mapped_bytes_ = mapped_bytes;
  mapped_bytes_known_ = mapped_bytes_known;
}

void PagingDomain::install_restored_tracking(bool can_track, bool tracks) {
  MutexGuard guard(lock_);
  can_track_ = can_track;
  tracks_ = tracks;
}

void PagingDomain::never_free() {
  MutexGuard guard(lock_);
  never_free_ = true;
}

Result<void> PagingDomain::begin_preserve() {
  MutexGuard guard(lock_);
  TRY(immutability_.may_change());  // one record only
  if (flush_failed_) return fail(Errno::Eio);
  if (successor_) return fail(Errno::Einval);  // nothing walks it any more
  immutability_.hold();
  return {};
}

void PagingDomain::end_preserve() {
  MutexGuard guard(lock_);
  immutability_.release();
}

}  // namespace perdure
