// Devices that cannot be told apart: owned and attached together.
#pragma once
#include <string_view>

#include "core/base/list.h"
#include "core/iommu/device.h"
#include "core/iommu/dma_owner.h"
#include "core/iommu/immutability.h"
#include "core/iommu/paging_domain.h"

namespace perdure {

class Iommu;

// Ownership (design §7), every transition under the group's lock:
//
//   Unowned ── claim ──► Owned ── last release ──► Unowned
//   Unowned ── restored by IommuLiveUpdate ──► HeldForSession ── claim_held ──► Owned ── unclaim_held ──►
//   HeldForSession any ── quarantine ──► Quarantined
class Group : public HeapObject {
 public:
  u32 id() const { return id_; }
  IommuUnit& unit() const { return unit_; }
  Ownership ownership() const;

  // Takes the group for `owner` and blocks its DMA; again by the same owner: counts. Eperm: someone else's (or held
  // for a session), Ebusy: attached to something although unowned, Eio: quarantined.
  Result<void> claim(Ref<DmaOwner> owner);
  // HeldForSession → Owned, exactly once, for the iommufd that was preserved under (generation, token); the
  // attachment stays. Eperm when it is not held for them, Eio: quarantined.
  Result<void> claim_held(Ref<DmaOwner> owner, u64 generation, u64 token);
  // Back to HeldForSession: the undo of claim_held when the rest of a BIND fails.
  void unclaim_held(DmaOwner& owner);
  // The last release detaches, leaving DMA blocked. While a device is preserved nothing happens, and it is logged:
  // the session holds the file whose close this would be.
  void release(DmaOwner& owner);

  // The owner's domain for the whole group. attach: Ebusy if one is attached. replace: no gap when `domain` takes over
  // from a restored one (graft; Einval, nothing changed, when it cannot); between ordinary domains DMA stops for a
  // moment. Both Ebusy while preserved, Eperm when not the owner's, Eio when quarantined, Einval for a domain that the
  // unit cannot walk. Called with no lock of rank IommuGroup or above.
  Result<void> attach(DmaOwner& owner, Ref<PagingDomain> domain);
  Result<void> replace(DmaOwner& owner, Ref<PagingDomain> domain);
  // Enoent: nothing is attached.
  Result<void> detach(DmaOwner& owner);
  Ref<PagingDomain> domain() const;  // null: blocked
  // Ebusy while preserved: for its driver, before the function is reset.
  Result<void> may_change() const { return immutability_.may_change(); }
  // What firmware uses through any of its devices, appended. Enomem.
  Result<void> regions(Vec<FirmwareRegion>& all) const;

  Mutex& lock() const RETURN_CAPABILITY(lock_) { return lock_; }

 private:
  friend class Heap;
  friend class Iommu;
  friend class IommuLiveUpdate;
  friend class Restorer;
  friend struct GroupPeer;  // tests
  Group(Iommu& iommu, IommuUnit& unit, u32 id, SourceId leader);

  // Sets the owner of a restored group; nothing else may own without DMA being blocked first (R06). Eexist, reported,
  // when an owner is there already (R08), Eopnotsupp for a group of several devices (R14).
  Result<void> hold_locked(Ref<HeldOwner> owner, Ref<PagingDomain> domain) REQUIRES(lock_);
  void quarantine_locked(std::string_view why) REQUIRES(lock_);

  Result<void> check_owner_locked(const DmaOwner& owner) const REQUIRES(lock_);
  Result<void> attach_locked(Ref<PagingDomain> domain) REQUIRES(lock_);
  Result<void> replace_locked(Ref<PagingDomain> domain) REQUIRES(lock_);
  Result<void> detach_locked() REQUIRES(lock_);
  // Follows a graft that another group made.
  void settle_locked() const REQUIRES(lock_);
  // All or none. `flushed`: what was set and taken back is known to be gone from the unit's caches.
  Result<void> set_entries_locked(u32 did, const PagingDomain& domain, bool& flushed) REQUIRES(lock_);
  // Eio: a flush failed; none is present all the same.
  Result<void> clear_entries_locked() REQUIRES(lock_);
  bool entry_present_locked() const REQUIRES(lock_);

  Iommu& iommu_;
  IommuUnit& unit_;
  const u32 id_;
  const SourceId leader_;
  mutable Mutex lock_{LockRank::IommuGroup};
  List<IommuDevice, &IommuDevice::in_group_> devices_ GUARDED_BY(lock_);
  u32 device_total_ GUARDED_BY(lock_) = 0;
  List<Requester, &Requester::in_group> requesters_ GUARDED_BY(lock_);
  Ownership ownership_ GUARDED_BY(lock_) = Ownership::Unowned;
  Ref<DmaOwner> owner_ GUARDED_BY(lock_);
  u32 owner_count_ GUARDED_BY(lock_) = 0;
  Ref<HeldOwner> held_ GUARDED_BY(lock_);  // kept while Owned by claim_held, for its undo
  mutable Ref<PagingDomain> domain_ GUARDED_BY(lock_);
  bool awaiting_restore_ GUARDED_BY(lock_) = false;  // live entry with a record: IommuLiveUpdate::commit() decides
  Immutability immutability_;                        // held while its device is preserved
  ListNode in_iommu_;
};

}  // namespace perdure
