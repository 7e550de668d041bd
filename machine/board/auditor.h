// Compares memory with the ledger. Knows what programs intended and what devices wrote, and nothing of page tables.
#pragma once
#include "machine/board/pci_bus.h"
#include "machine/board/physical_memory.h"
#include "machine/board/results.h"

namespace perdure::board {

class Auditor {
 public:
  Auditor(const PhysicalMemory& memory, PciBus& bus, u64 now_ns) : memory_(memory), bus_(bus), now_ns_(now_ns) {}

  // Judges every slot and searches all memory that exists; devices may go on meanwhile. Fills in the current phase's
  // numbers of each device's ledger.
  AuditReport run();

 private:
  struct Intents {
    Device* device = nullptr;
    std::map<u64, Intent> active;
  };
  struct Suspect {
    Device* device = nullptr;
    u8 ring = 0;
    u32 slot = 0;
    SlotEntry entry;
    u64 phys = 0;
    Record found;
  };
  struct Stray {
    usize device = 0;  // index into intents_
    u64 phys = 0;
    Record record;
  };

  void check_slots(Device& device);
  void check_slot(Device& device, u8 ring, u32 slot, const SlotEntry& entry) REQUIRES(device.lock());
  void settle_suspects();
  void search();
  void examine(u64 phys);
  void settle_strays();
  bool load_record(u64 phys, Record& record) const;
  void finding(Finding::Kind kind, const Device& device, u8 ring, u32 slot, u64 sequence, u64 iova, u64 expected,
               u64 found);

  const PhysicalMemory& memory_;
  PciBus& bus_;
  u64 now_ns_;
  AuditReport report_;
  std::vector<Intents> intents_;
  std::vector<Suspect> suspects_;
  std::vector<Stray> strays_;
};

}  // namespace perdure::board
