// A function whose DMA goes through a unit, and the requester ids that its DMA may carry.
#pragma once
#include <atomic>

#include "core/base/list.h"
#include "core/iommu/unit.h"
#include "core/mem/vec.h"

namespace perdure {

class Group;
class IommuDevice;

// Memory that firmware uses through a function (RMRR): to be identity-mapped for as long as firmware does.
struct FirmwareRegion {
  Phys base;
  u64 length = 0;
  // Until an operating system drives the function: USB and graphics. Others at all times.
  bool until_driven = false;
};

// What is known of a function beside its requester ids.
struct FunctionFacts {
  // Stands for all that it is not isolated from (pci/isolation.h); null: from none.
  const SourceId* leader = nullptr;
  // Its DMA carries other functions' ids and never its own (Linux: real DMA device).
  bool foreign_ids = false;
  std::span<const FirmwareRegion> regions;
};

// One requester id of a group: an entry of the unit's tables.
struct Requester : public HeapObject {
  Requester(SourceId id, Group& of) : source(id), group(&of) {}
  const SourceId source;
  Group* const group;
  std::atomic<IommuDevice*> device{nullptr};  // the function with this id of its own, null for a mere alias
  std::atomic<bool> attached{false};          // its entry is this kernel's doing; written under the group's lock
  Requester* next_in_bucket = nullptr;        // the table of Iommu
  ListNode in_group;
};

class IommuDevice : public HeapObject {
 public:
  SourceId source() const { return source_; }
  Group& group() const { return *group_; }
  IommuUnit& unit() const { return *unit_; }
  // Every requester id its DMA may carry, its own first, unless all are others'.
  std::span<const SourceId> aliases() const { return aliases_.span(); }
  bool foreign_ids() const { return foreign_ids_; }
  std::span<const FirmwareRegion> regions() const { return regions_.span(); }
  bool preserved() const { return preserved_.load(std::memory_order_acquire); }
  // False between Iommu::remove_device() and the next add_device() of the same function.
  bool present() const { return present_.load(std::memory_order_acquire); }

 private:
  friend class Heap;
  friend class Iommu;
  friend class IommuLiveUpdate;
  friend class Group;
  explicit IommuDevice(Heap& heap) : aliases_(heap), regions_(heap) {}

  SourceId source_;
  Group* group_ = nullptr;
  IommuUnit* unit_ = nullptr;
  Vec<SourceId> aliases_;
  Vec<FirmwareRegion> regions_;
  bool foreign_ids_ = false;
  std::atomic<bool> preserved_{false};  // written under the group's lock; read without at the jump (R37)
  std::atomic<bool> present_{true};
  u32 record_index_ = 0;  // while preserved; guarded by IommuLiveUpdate's lock
  ListNode in_group_;
  ListNode in_iommu_;
};

}  // namespace perdure
