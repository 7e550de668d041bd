// What devices write through a domain (hardware.md §3.2 SSADE, §3.3, §6): the unit marks a leaf when it caches a
// translation that writes through it, and never again for as long as it has that cached.
#include "core/base/log.h"
#include "core/iommu/iommu.h"

namespace perdure {

bool PagingDomain::suits(const IommuUnit& unit) const {
  if (can_track_ && unit.info().dirty_tracking.format == pt::FormatId::None) return false;
  return unit.walks(geometry());
}

bool PagingDomain::tracks_dirty() const {
  MutexGuard guard(lock_);
  return tracks_;
}

Result<void> PagingDomain::track_on_units_locked(bool on) {
  for (usize i = 0; i < units_.size(); ++i) {
    const Result<void> set = units_[i].unit->set_dirty_tracking(units_[i].did, on);
    if (set) continue;
    if (set.error() == Errno::Eio) iommu_.note_failure(*units_[i].unit);
    // The one that failed, too: some of its entries may be set.
    for (usize back = 0; back <= i; ++back) {
      const Result<void> undone = units_[back].unit->set_dirty_tracking(units_[back].did, !on);
      if (!undone && undone.error() == Errno::Eio) iommu_.note_failure(*units_[back].unit);
    }
    return set;
  }
  return {};
}

Result<void> PagingDomain::flush_leaves_locked(Iova first, Iova last) {
  Result<void> flushed;
  for (const UnitUse& use : units_) {
    if (use.unit->flush_pages(use.did, first, last - first + 1, true)) continue;
    iommu_.note_failure(*use.unit);
    flushed = fail(Errno::Eio);
  }
  return flushed;
}

Result<void> PagingDomain::set_dirty_tracking(bool on) {
  const auto set = [&]() -> Result<void> {
    MutexGuard guard(lock_);
    TRY(check_mutable_locked());
    if (!can_track_) return fail(Errno::Eopnotsupp);
    if (on) {
      // What was written in an earlier turn is nothing to this one.
      const Iova last((u64{1} << geometry().iova_bits) - 1);
      bool any = false;
      const auto unmark = [&](const pt::Leaf&) -> Result<bool> { return any = true; };
      const Result<void> walked = table_->each_dirty(Iova(0), last.value + 1, unmark);
      if (any) TRY(flush_leaves_locked(Iova(0), last));
      TRY(walked);
    }
    if (on == tracks_) return {};
    TRY(track_on_units_locked(on));
    tracks_ = on;
    return {};
  };
  const Result<void> done = set();
  if (!done) iommu_.isolate_failed_units();
  return done;
}

Result<void> PagingDomain::each_dirty(Iova iova, u64 length, FunctionRef<Result<bool>(const pt::Leaf&)> unmark) {
  MutexGuard guard(lock_);
  TRY(check_mutable_locked());
  if (!can_track_) return fail(Errno::Eopnotsupp);
  return table_->each_dirty(iova, length, unmark);
}

Result<void> PagingDomain::flush_unmarked(Iova first, Iova last) {
  Result<void> flushed;
  {
    MutexGuard guard(lock_);
    flushed = flush_leaves_locked(first, last);
  }
  if (!flushed) iommu_.isolate_failed_units();
  return flushed;
}

// Entries still track as they did for the old table; from now on they do what this domain was told to. What was written
// through the old table until the flush has its marks there, where nobody asks for them any more.
Result<void> PagingDomain::inherit_tracking_locked(PagingDomain& live) {
  if (tracks_ != live.tracks_) {
    const Result<void> tracks = track_on_units_locked(tracks_);
    if (!tracks) tracks_ = live.tracks_;
    TRY(tracks);
  }
  if (!tracks_ || !live.tracks_) return {};
  return live.table_->each_dirty(Iova(0), u64{1} << live.geometry().iova_bits,
                                 [&](const pt::Leaf& leaf) -> Result<bool> {
                                   lock_.assert_held();
                                   TRY(table_->mark_dirty(leaf.iova, leaf.length));
                                   return false;
                                 });
}

}  // namespace perdure
