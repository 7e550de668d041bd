// What the list of behaviours needs of a machine: a remapping unit, memory of its own, and two or three of QEMU's
// teaching devices as probes that do DMA on command.
#pragma once
#include "core/base/machine.h"
#include "core/base/types.h"

namespace perdure::conformance {

// A function that does DMA: QEMU's edu device, or one that is register-compatible.
struct Requester {
  u16 source = 0;  // requester id
  Phys registers;  // BAR 0
  Phys config;     // its configuration space
};

class Hardware {
 public:
  static constexpr unsigned kMaxRequesters = 3;

  Phys unit;                             // register window of the remapping unit
  std::byte* direct_map = nullptr;       // where physical address 0 is mapped
  Phys memory;                           // nobody else's; 2 MiB-aligned, below 1 GiB
  u64 memory_bytes = 0;                  // 16 MiB at least
  Phys nothing{0xA000'0000};             // a page that is neither memory nor register, below 4 GiB
  Requester requesters[kMaxRequesters];  // 0 and 1 are functions of one device; 2 has a devfn of 0x80 or more
  bool keeps = true;                     // the unit drops nothing from its caches by itself
  unsigned requester_count = 0;          // bus mastering on, nothing under way

  virtual u64 mmio_read(Phys at, Width width) = 0;
  virtual void mmio_write(Phys at, Width width, u64 value) = 0;
  // Makes stores visible to walkers that do not snoop.
  virtual void write_back(Phys at, u64 bytes) = 0;
  virtual u64 now_ns() = 0;
  virtual void relax() = 0;
  // Where a message must go to raise this vector here, and whether one has come since the machine started.
  virtual MsiTarget message(u8 vector) = 0;
  virtual bool message_came(u8 vector) = 0;

 protected:
  ~Hardware() = default;
};

}  // namespace perdure::conformance
