// A translation that devices are attached to, on every unit that they are behind.
#pragma once
#include <atomic>

#include "core/iommu/immutability.h"
#include "core/iommu/unit.h"
#include "core/mem/vec.h"

namespace perdure {

class Iommu;

class PagingDomain : public RefCounted {
 public:
  // Only a restore builds a domain around a former kernel's table.
  class RestoredKey {
    friend class Restorer;
    RestoredKey() = default;
  };

  // `can_track`: it may be told to track what devices write, and no unit that does not mark that can have it.
  PagingDomain(Iommu& iommu, Owned<pt::IoPageTable> table, bool can_track);
  PagingDomain(Iommu& iommu, RestoredKey key);
  ~PagingDomain() override;

  const pt::Geometry& geometry() const { return table_->geometry(); }
  // Visible on all attached units on return. Ebusy while preserved (immutability.h), Eopnotsupp on a
  // restored domain that is free-only (R25), Eio after a unit failed, else as IoPageTable. Called, like unmap, with no
  // lock of rank IommuGroup or above: a unit that does not answer is quarantined from here.
  Result<void> map(Iova iova, Phys phys, u64 length, Access access);
  // Flushed and drained on return; the pages may be given back. Returns the bytes unmapped. Eio: nothing is mapped
  // there any more, but a unit did not confirm it, so the pages must never be given back.
  Result<u64> unmap(Iova iova, u64 length);
  Result<pt::Leaf> leaf_at(Iova iova) const;

  // --- dirty tracking ------------------------------------------------------------------------------------
  bool can_track_dirty() const { return can_track_; }
  bool tracks_dirty() const;
  // On: from its return on every leaf that a device writes through gets a mark, and none has one from before, also when
  // it was on already. Off: marks stay, to be read. Errors of each unit's, with everything as before but the marks; Eio
  // after a unit failed. Eopnotsupp: not allocated for it; Ebusy while preserved. Called like map().
  Result<void> set_dirty_tracking(bool on);
  // IoPageTable::each_dirty() under the domain's lock. What lost its mark is to be flushed: flush_unmarked() of at
  // least that. Ebusy while preserved, Eopnotsupp: restored, or not allocated for it.
  Result<void> each_dirty(Iova iova, u64 length, FunctionRef<Result<bool>(const pt::Leaf&)> unmark);
  Result<void> flush_unmarked(Iova first, Iova last);

  // Whether `unit` can translate by it, as it was allocated.
  bool suits(const IommuUnit& unit) const;

  bool preserved() const { return immutability_.held(); }
  // Built around a former kernel's table, and not adopted: free-only.
  bool restored() const { return restored_.load(std::memory_order_acquire); }
  u32 attached_devices() const;
  u32 did_on(const IommuUnit& unit) const;  // 0: not attached there
  u64 mapped_bytes() const;

  pt::IoPageTable& table() const { return *table_; }

  // For whoever reclaimed a restored domain: it can be changed from now on like any other, the same table and DIDs.
  // `mapped_bytes`: what its owner's records say that it maps. Nothing is looked at or written, so O(1). Einval: not
  // restored, or another domain took over; Ebusy: preserved; Eio: it maps another number of bytes, or hardware may walk
  // its tables for ever, whose pages must not be used again. Nothing changed then.
  Result<void> adopt(u64 mapped_bytes);

 private:
  friend class Iommu;
  friend class IommuLiveUpdate;
  friend class OutgoingRecords;
  friend class Restorer;
  friend class Group;

  struct UnitUse {
    IommuUnit* unit = nullptr;
    u32 did = 0;
    u32 devices = 0;
  };

  // Attaching and detaching `devices` behind `unit`, around the writes to the unit's entries. The unit is in the list
  // before its first entry is present and until its last one is flushed away, so that no unmap can miss it.
  Result<u32> begin_attach(IommuUnit& unit, u32 devices);
  // `flushed`: every entry is known to be gone from the unit's caches; otherwise the DID is never used again and the
  // tables are never freed.
  void end_attach(IommuUnit& unit, u32 devices, bool flushed);
  // Devices that hardware has attached already; the DID is reserved. Never fails after reserve_unit_uses().
  Result<void> reserve_unit_uses(usize count);
  void adopt_attachment(IommuUnit& unit, u32 did, u32 devices);

  // Moves everything that hardware walks of `live`, a restored domain, to this one (design §7). Einval, with nothing
  // changed, when the results would differ. Eio: done, but a flush failed; the old tables are leaked.
  Result<void> take_over(PagingDomain& live);
  // The domain that took over from this one, null if none did.
  Ref<PagingDomain> successor() const;

  void install_restored_table(Owned<pt::IoPageTable> table, u64 mapped_bytes, bool mapped_bytes_known);
  void install_restored_tracking(bool can_track, bool tracks);
  // Hardware may walk the tables for ever: their pages are not freed with the domain.
  void never_free();

  bool mapped_bytes_known() const;
  Result<void> begin_preserve();
  void end_preserve();

  Result<void> check_mutable_locked() const REQUIRES(lock_);
  UnitUse* use_of_locked(const IommuUnit& unit) REQUIRES(lock_);
  // On every unit, or, as far as they answer, on none.
  Result<void> track_on_units_locked(bool on) REQUIRES(lock_);
  Result<void> flush_leaves_locked(Iova first, Iova last) REQUIRES(lock_);
  // After a graft: what was written through the old table is marked in the new one.
  Result<void> inherit_tracking_locked(PagingDomain& live) REQUIRES(lock_, live.lock_);
  Result<void> flush_removed_locked(Iova iova, u64 length, pt::Gather& gather) REQUIRES(lock_);

  Iommu& iommu_;
  mutable Mutex lock_;
  Owned<pt::IoPageTable> table_;  // set once; its contents are guarded by lock_
  Vec<UnitUse> units_ GUARDED_BY(lock_);
  Ref<PagingDomain> successor_ GUARDED_BY(lock_);
  u64 mapped_bytes_ GUARDED_BY(lock_) = 0;
  bool mapped_bytes_known_ GUARDED_BY(lock_) = true;
  Immutability immutability_;  // held while preserved
  bool can_track_ = false;     // set before anybody else sees it
  bool tracks_ GUARDED_BY(lock_) = false;
  bool never_free_ GUARDED_BY(lock_) = false;
  bool flush_failed_ GUARDED_BY(lock_) = false;
  std::atomic<bool> restored_;  // written under lock_
  u32 record_index_ = 0;        // while preserved; guarded by IommuLiveUpdate's lock
};

}  // namespace perdure
