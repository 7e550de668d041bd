// Domains, groups, devices and who owns them.
#pragma once
#include "core/iommu/unit.h"
#include "core/mem/vec.h"

namespace perdure {

class Group;
class Iommu;
class IommuDevice;

// Whoever controls a group's DMA. Identity is the object's address, compared while both hold a reference, so
// neither a token nor a recycled address can stand for an owner (R06, R07).
class DmaOwner : public RefCounted {};

enum class Ownership : u8 {
  Unowned,
  HeldForSession,  // preserved by the former kernel; waits for (generation, token)
  Owned,
  Quarantined,  // blocked for good; leaves only by a function reset with the entry blocked
};

// A translation that devices can be attached to, on every unit that they are behind.
class PagingDomain : public RefCounted {
 public:
  PagingDomain(Iommu& iommu, Owned<pt::IoPageTable> table);
  ~PagingDomain() override;

  const pt::Geometry& geometry() const { return table_->geometry(); }
  // Visible on all attached units on return. Ebusy while preserved (one choke point for immutability), Eopnotsupp on a
  // restored domain that is free-only (R25), else as IoPageTable.
  Result<void> map(Iova iova, Phys phys, u64 length, Access access);
  // Flushed and drained on return; the pages may be given back. Returns the bytes unmapped.
  Result<u64> unmap(Iova iova, u64 length);
  Result<pt::Leaf> leaf_at(Iova iova) const;

  bool preserved() const;  // immutable: in an outgoing record
  bool restored() const;   // built around a former kernel's table; free-only until adopted or grafted away
  u32 attached_devices() const;
  u32 did_on(const IommuUnit& unit) const;  // 0: not attached there

  pt::IoPageTable& table() const { return *table_; }

 private:
  friend class Iommu;
  friend class IommuLiveUpdate;
  friend class Group;
  struct UnitUse {
    IommuUnit* unit = nullptr;
    u32 did = 0;
    u32 devices = 0;
  };
  Iommu& iommu_;
  mutable Mutex lock_{LockRank::IommuDomain};
  Owned<pt::IoPageTable> table_;
  Vec<UnitUse> units_ GUARDED_BY(lock_);
  u32 preserve_count_ GUARDED_BY(lock_) = 0;
  bool restored_ = false;
};

// A function whose DMA goes through a unit.
class IommuDevice : public HeapObject {
 public:
  SourceId source() const { return source_; }
  Group& group() const { return *group_; }
  IommuUnit& unit() const { return *unit_; }
  // Every requester id its DMA may carry, its own first.
  std::span<const SourceId> aliases() const { return aliases_.span(); }
  bool preserved() const;

 private:
  friend class Iommu;
  friend class IommuLiveUpdate;
  friend class Group;
  explicit IommuDevice(Heap& heap) : aliases_(heap) {}
  SourceId source_;
  Group* group_ = nullptr;
  IommuUnit* unit_ = nullptr;
  Vec<SourceId> aliases_;
};

// Devices that cannot be told apart: owned and attached together.
class Group : public HeapObject {
 public:
  u32 id() const { return id_; }
  Ownership ownership() const;

  // Takes the group for `owner` and blocks its DMA; again by the same owner: counts. Eperm: someone else's (or held
  // for a session), Ebusy: attached to something although unowned, Eio: quarantined.
  Result<void> claim(Ref<DmaOwner> owner);
  // HeldForSession → Owned, exactly once, for the iommufd that was preserved under (generation, token); the
  // attachment stays. Eperm when it is not held for them.
  Result<void> claim_held(Ref<DmaOwner> owner, u64 generation, u64 token);
  // Back to HeldForSession: the undo of claim_held when the rest of a BIND fails.
  void unclaim_held(DmaOwner& owner);
  // The last release detaches, leaving DMA blocked.
  void release(DmaOwner& owner);

  // The owner's domain for the whole group. attach: Ebusy if one is attached. replace: no gap when `domain` takes over
  // from a restored one (graft; Einval, nothing changed, when it cannot); between ordinary domains DMA stops for a
  // moment. Both Ebusy while preserved, Eperm when not the owner's, Eio when quarantined.
  Result<void> attach(DmaOwner& owner, Ref<PagingDomain> domain);
  Result<void> replace(DmaOwner& owner, Ref<PagingDomain> domain);
  Result<void> detach(DmaOwner& owner);
  Ref<PagingDomain> domain() const;  // null: blocked

  Mutex& lock() const RETURN_CAPABILITY(lock_) { return lock_; }

 private:
  friend class Iommu;
  friend class IommuLiveUpdate;
  explicit Group(Iommu& iommu, u32 id);
  Iommu& iommu_;
  u32 id_;
  mutable Mutex lock_{LockRank::IommuGroup};
};

class Iommu {
 public:
  Iommu(Heap& heap, Kho& kho);
  ~Iommu();

  Result<void> add_unit(Owned<IommuUnit> unit);
  // Called for every function found, in bus order. `unit` is what ACPI's scopes say. Singleton groups. A live entry
  // without a validated record is quarantined here (reconcile).
  Result<IommuDevice*> add_device(SourceId source, IommuUnit& unit, std::span<const SourceId> aliases);
  IommuDevice* find(SourceId source) const;

  // An empty domain that every device behind `device`'s unit can be attached to. Eopnotsupp when no format fits.
  Result<Ref<PagingDomain>> domain_alloc(IommuDevice& device);
  // Compatible: a domain of this geometry can be attached to the device.
  bool compatible(const PagingDomain& domain, const IommuDevice& device) const;

  // Function off: bus master cleared and read back, then blocked as design §8 demands. Never fails: what cannot be
  // proven stopped is reported, and its memory is never given out.
  void quarantine(IommuDevice& device, std::string_view why);

  Heap& heap() const { return heap_; }
  Machine& machine() const { return heap_.machine(); }

 private:
  friend class IommuLiveUpdate;
  Heap& heap_;
  Kho& kho_;
};

}  // namespace perdure
