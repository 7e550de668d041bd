// The records of one update while the former kernel still runs: which object has which slot.
#pragma once
#include "core/iommu/iommu.h"
#include "core/iommu/leaf_check.h"
#include "core/kho/record_chain.h"

namespace perdure {

class OutgoingRecords : public HeapObject {
 public:
  struct Unit {
    IommuUnit* unit = nullptr;
    u32 devices = 0;
  };
  struct Domain {
    Ref<PagingDomain> domain;
    LeafCheck* check = nullptr;
    u64 owner_generation = 0;
    u64 owner_token = 0;  // of its devices, once there is one
    u32 devices = 0;
  };
  struct Attachment {
    u32 domain = 0;
    u32 unit = 0;
    u32 devices = 0;
  };
  struct Device {
    IommuDevice* device = nullptr;
    u32 unit = 0;
    u32 domain = 0;
    u32 attachment = 0;
    u64 owner_generation = 0;
    u64 owner_token = 0;
  };

  OutgoingRecords(Kho& kho, u32 version);
  ~OutgoingRecords() override;

  // A slot of the chain and its entry here. Enomem, E2big.
  template <class Entry>
  static Result<u32> add(kho::RecordChain& chain, Vec<Entry>& entries) {
    return kho::add_slot(chain, entries);
  }
  template <class Entry>
  static void remove(kho::RecordChain& chain, Vec<Entry>& entries, u32 index) {
    kho::remove_slot(chain, entries, index);
  }

  // Writes every record, its checksum, the block headers and the header; allocates nothing. Eio: a domain or device is
  // not what it was when it was preserved; the log names it.
  Result<void> seal(BusMasterSwitch* bus_master);
  // The unit records and what depends on them once more, after the units came to rest.
  void seal_units();

  Kho& kho;
  const u32 version;
  u64 generation = 0;
  Phys header;
  kho::RecordChain unit_chain;
  kho::RecordChain domain_chain;
  kho::RecordChain attachment_chain;
  kho::RecordChain device_chain;
  Vec<Unit> units;
  Vec<Domain> domains;
  Vec<Attachment> attachments;
  Vec<Device> devices;

 private:
  Result<void> write_domain(u32 index);
  Result<void> write_attachment(u32 index);
  Result<void> write_device(u32 index, const BusMasterSwitch* bus_master);
  void write_header();
};

}  // namespace perdure
