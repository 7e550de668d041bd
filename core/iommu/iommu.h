// Domains, groups, devices and who owns them.
#pragma once
#include <string_view>

#include "core/iommu/bus_master.h"
#include "core/iommu/device.h"
#include "core/iommu/dma_owner.h"
#include "core/iommu/group.h"
#include "core/iommu/paging_domain.h"
#include "core/iommu/unit.h"

namespace perdure {

class IommuLiveUpdate;

// Nothing is attached by default: a device's DMA is blocked (its entry is not present) until its owner attaches a
// domain. Units, groups and devices live until ~Iommu, so pointers to them stay good.
class Iommu {
 public:
  Iommu(Heap& heap, Kho& kho);
  ~Iommu();
  Iommu(const Iommu&) = delete;
  Iommu& operator=(const Iommu&) = delete;

  // Before the first add_device(). Without one, quarantine cannot stop a function at its source and says so.
  void set_bus_master_switch(BusMasterSwitch& bus_master) { bus_master_ = &bus_master; }

  Result<void> add_unit(Owned<IommuUnit> unit);
  // Called for every function found, in bus order. `unit` is what ACPI's scopes say. `aliases`: further requester ids,
  // with or without `source`. Singleton groups, unless requester ids or leaders are shared: such functions cannot be
  // told apart, or reach each other anyhow.
  // A live entry without a validated record is quarantined here (reconcile). Not to be called by two threads at once.
  // Eexist: already there, Ebusy: shares requester ids with a group in use, Einval: with groups that do not fit,
  // Enomem; the function is blocked then, and nobody can own it.
  Result<IommuDevice*> add_device(SourceId source, IommuUnit& unit, std::span<const SourceId> aliases,
                                  const FunctionFacts& facts = {});
  // Once, when all devices are there and IommuLiveUpdate::commit() is through: groups with memory that firmware uses at
  // all times are the kernel's own from here on (nobody else can claim them: Eperm), with that memory identity-mapped
  // and nothing else. What cannot be mapped stays blocked, and is logged. Enomem, with none claimed.
  Result<void> keep_firmware_regions();
  // The function goes away. What a session is held for stays held, its DID reserved, and is found again by the next
  // add_device() (R33). Ebusy while owned or preserved.
  Result<void> remove_device(IommuDevice& device);
  IommuDevice* find(SourceId source) const;
  IommuUnit* find_unit(Phys base) const;

  // An empty domain that every device behind `device`'s unit can be attached to: of the shape of a restored one that
  // the device runs on, else of the unit's own choice. `can_track`: one that can track what devices write. Eopnotsupp
  // when no format fits.
  Result<Ref<PagingDomain>> domain_alloc(IommuDevice& device, bool can_track = false);
  // Compatible: a domain of this geometry can be attached to the device.
  bool compatible(const PagingDomain& domain, const IommuDevice& device) const;

  // Function off: bus master cleared and read back, then blocked as design §8 demands. Never fails: what cannot be
  // proven stopped is reported, and its memory is never given out. Allocates nothing. Takes the group's lock.
  void quarantine(IommuDevice& device, std::string_view why);
  // The only way out: the function was reset, with its entry blocked all the time. Unowned again; what it may have
  // reached before stays with nobody. Enoent: not quarantined, Ebusy: its owner has not let go, its group has others,
  // or it can reach memory, Eio: its unit cannot be asked.
  Result<void> reset_done(IommuDevice& device);
  // Every function behind the unit, known or not.
  void quarantine_unit(IommuUnit& unit, std::string_view why);

  void each_device(FunctionRef<void(IommuDevice&)> visit) const;
  void each_unit(FunctionRef<void(IommuUnit&)> visit) const;

  Heap& heap() const { return heap_; }
  Machine& machine() const { return heap_.machine(); }

 private:
  friend class IommuLiveUpdate;
  friend class Restorer;
  friend class PagingDomain;
  friend class Group;

  struct UnitSlot : public HeapObject {
    Owned<IommuUnit> unit;
    std::atomic<bool> failed{false};       // did not answer; isolate_failed_units() will see to it
    std::atomic<bool> quarantined{false};  // nothing is attached behind it any more
    ListNode node;
  };
  static constexpr unsigned kBuckets = 256;

  IommuDevice* known_device(SourceId source) const;
  Result<Group*> group_for(const IommuDevice& device, SourceId leader) const;
  Result<void> map_firmware_regions(Group& group, IommuDevice& device);
  Result<IommuDevice*> readd_device(IommuDevice& former, const IommuDevice& found);
  void reconcile_device(IommuDevice& device);

  static unsigned bucket_of(SourceId source) { return (source.bdf ^ source.bdf >> 8 ^ source.segment) % kBuckets; }
  Requester* find_requester(SourceId source) const;
  UnitSlot* slot_of(const IommuUnit& unit) const;
  bool usable(const IommuUnit& unit) const;

  // A flush was not answered. Only notes it, so it may be called under any lock; whoever noted it calls
  // isolate_failed_units() when it holds no lock of rank IommuGroup or above.
  void note_failure(IommuUnit& unit);
  void isolate_failed_units();  // and those whose queue died
  // A present entry that no group stands for, by what hardware says (design §8).
  void quarantine_entry(IommuUnit& unit, SourceId source, std::string_view why);
  // Every present entry that no group attached; returns how many.
  u32 quarantine_unknown_entries(IommuUnit& unit, std::string_view why);
  bool bus_master_off(SourceId source);
  bool wait_idle(SourceId source);

  Group* next_group(Group* after) const;

  Heap& heap_;
  Kho& kho_;
  BusMasterSwitch* bus_master_ = nullptr;
  Ref<DmaOwner> firmware_;  // owns what firmware uses
  IommuLiveUpdate* live_update_ = nullptr;
  // Lists only grow; linking and finding is all that happens under it.
  mutable Mutex lock_{LockRank::Leaf};
  List<UnitSlot, &UnitSlot::node> units_ GUARDED_BY(lock_);
  List<Group, &Group::in_iommu_> groups_ GUARDED_BY(lock_);
  List<IommuDevice, &IommuDevice::in_iommu_> devices_ GUARDED_BY(lock_);
  Requester* buckets_[kBuckets] GUARDED_BY(lock_) = {};
  u32 next_group_id_ GUARDED_BY(lock_) = 0;
};

}  // namespace perdure
