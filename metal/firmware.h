// What firmware and loader told the first kernel of a run, in a form that later kernels read: the counterpart of
// what Linux hands on as its boot parameters. It says what the machine is, nothing of what a kernel did.
#pragma once
#include <span>

#include "core/base/machine.h"
#include "core/mem/frame_allocator.h"

namespace perdure::metal {

struct Facts {
  static constexpr u64 kMagic = 0x53544341462d5650;  // "PV-FACTS"
  static constexpr u32 kMostRegions = 40;
  struct Region {
    u64 base;
    u64 length;
    u64 usable;  // 1: RAM
  };

  u64 magic = kMagic;
  u64 rsdp = 0;
  u64 archive = 0;  // the kernels there are (archive.h)
  u64 archive_bytes = 0;
  u64 share = 0;  // RAM that memfds are made of; it never enters the frame allocator
  u64 share_bytes = 0;
  u64 regions = 0;
  Region region[kMostRegions] = {};  // sorted, disjoint
  char firmware[16] = {};
  char command_line[128] = {};

  std::span<const Region> memory() const { return {region, regions}; }
  bool is_ram(Phys base, u64 length) const {
    for (const Region& r : memory()) {
      if (r.usable != 0 && base.value >= r.base && length <= r.length && base.value - r.base <= r.length - length) {
        return true;
      }
    }
    return false;
  }
  u64 end_of_ram() const {
    u64 end = 0;
    for (const Region& r : memory()) {
      if (r.usable != 0 && r.base + r.length > end) end = r.base + r.length;
    }
    return end;
  }
};

// Reads what a PVH loader left at `start_info` and keeps it at kFacts. Ends the run where nothing can go on.
void keep_facts(Phys start_info);
// Eproto: nobody kept them.
Result<const Facts*> facts();

// Makes all RAM of the machine reachable behind kDirectMap; registers uncached. Returns the end of the window.
u64 map_memory(const Facts& facts);
// Where images run, low. One that does not run is not there: what still points at a former kernel faults.
void map_slot(Phys slot, bool present);
// Whether anything was written, since this kernel came, to the 2 MiB at `base` through the direct map.
bool written(Phys base);

}  // namespace perdure::metal
