// What outlives a jump, page by page, and the end of everything else: memory that was not handed over is overwritten,
// so that a next kernel which uses it does not get away with it.
#pragma once
#include "core/abi/boot_info.h"
#include "core/base/machine.h"
#include "metal/firmware.h"

namespace perdure::metal {

class Survivors {
 public:
  // Nothing survives yet. One at a time.
  Survivors(const Machine& machine, const Facts& facts);
  void keep(Phys base, u64 bytes);
  // What the handover at `fdt` preserves, and its own pages; null: nothing.
  void keep_handover(Phys fdt);
  bool any(Phys base, u64 bytes) const;

  // Overwrites what does not survive of RAM, wherever something may have been left: `map` is the next kernel's, `boot`
  // this one's. Memory that this kernel neither wrote to nor inherited is as it was.
  void poison_others(std::span<const abi::MemoryMapEntry> map, const abi::BootInfo& boot) const;

 private:
  void suspect(const abi::BootInfo& boot) const;
  const Machine& machine_;
  const u64 pages_;
};

}  // namespace perdure::metal
