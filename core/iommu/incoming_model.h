// What a former kernel's records say, copied out of the image and validated: the only form in which the rest of the
// core sees them. Run-time state of the restored objects stands here, never in the image (threat T2).
#pragma once
#include "core/abi/iommu.h"
#include "core/iommu/iommu.h"

namespace perdure {

enum class RecordState : u8 {
  Unused,
  Bad,       // refused; the log says why
  Valid,     // sound by itself and together with the records that it refers to
  Restored,  // an object of this kernel stands for it
};

struct IncomingUnit {
  RecordState state = RecordState::Unused;
  abi::IommuUnitRecord record;
  IommuUnit* unit = nullptr;  // of this kernel, found by type and base
};

struct IncomingDomain {
  RecordState state = RecordState::Unused;
  abi::IommuDomainRecord record;
  Ref<PagingDomain> domain;
  Ref<HeldOwner> owner;  // of all its devices
  bool reclaimed = false;
  bool quarantined = false;  // a function that used it was, or may have been
  bool named = false;        // some record says that it was on a unit
  u32 devices = 0;           // that are being restored on it
};

struct IncomingAttachment {
  RecordState state = RecordState::Unused;
  abi::IommuAttachmentRecord record;
  u32 devices = 0;        // that hardware confirms
  bool reserved = false;  // the DID, in this kernel
};

struct IncomingDevice {
  RecordState state = RecordState::Unused;
  abi::IommuDeviceRecord record;
  u32 attachment = 0;  // index; meaningful when Valid
  IommuDevice* device = nullptr;
  SourceId source() const { return {static_cast<u16>(record.segment), static_cast<u16>(record.bdf)}; }
};

class IncomingModel : public HeapObject {
 public:
  explicit IncomingModel(Heap& heap)
      : blocks(heap), units(heap), domains(heap), attachments(heap), devices(heap), by_source(heap) {}

  // The valid record whose function has this requester id, as its own or as an alias; null if there is none.
  IncomingDevice* device_of(SourceId requester);
  // A function that nobody answers for walks this table.
  void taint(Phys top) {
    for (IncomingDomain& domain : domains) {
      if (domain.record.top == top.value) domain.quarantined = true;
    }
  }

  u64 data = 0;  // LUO's value: where the header lies
  u64 generation = 0;
  u32 version = 0;
  u32 domain_slots = 0;  // that there were; `domains` ends early when their chain is broken
  Vec<Phys> blocks;      // header and record blocks that were followed, to be given back
  Vec<IncomingUnit> units;
  Vec<IncomingDomain> domains;
  Vec<IncomingAttachment> attachments;
  Vec<IncomingDevice> devices;

  struct SourceEntry {
    SourceId source;
    u32 device = 0;
  };
  Vec<SourceEntry> by_source;  // requester ids of valid device records, sorted
};

}  // namespace perdure
