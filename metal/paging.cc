// The direct map: physical address space behind kDirectMap, in leaves of 2 MiB. entry.S has it up to 4 GiB.
#include "metal/firmware.h"
#include "metal/layout.h"

extern "C" {
extern perdure::u64 metal_direct_pdpt[];
extern perdure::u64 metal_direct_pd[];
extern perdure::u64 metal_low_pd[];
}

namespace perdure::metal {

namespace {

constexpr u64 kPresent = 1, kWritable = 2, kUncached = 0x18, kDirty = 0x40, kHuge = 0x80, kNoExecute = u64{1} << 63;
constexpr u64 kFixed = u64{4} << 30;  // of entry.S
alignas(kPageSize) constinit u64 extra[(kMostMemory - kFixed) / kHugePageSize] = {};

u64& entry_of(u64 at) {
  return at < kFixed ? metal_direct_pd[at / kHugePageSize] : extra[(at - kFixed) / kHugePageSize];
}

void flush() {
  __asm__ volatile("movq %%cr3, %%rax; movq %%rax, %%cr3" : : : "rax", "memory");
}

}  // namespace

u64 map_memory(const Facts& facts) {
  u64 end = align_up(facts.end_of_ram(), kGiantPageSize);
  if (end < kFixed) end = kFixed;
  for (u64 at = kFixed; at < end; at += kGiantPageSize) {
    metal_direct_pdpt[at / kGiantPageSize] = reinterpret_cast<u64>(&entry_of(at)) | kPresent | kWritable;
  }
  for (u64 at = 0; at < end; at += kHugePageSize) {
    u64 bits = kPresent | kWritable | kHuge | kNoExecute;
    bool ram = false;
    for (const Facts::Region& r : facts.memory()) {
      ram = ram || (r.usable != 0 && ranges_overlap(r.base, r.length, at, kHugePageSize));
    }
    if (!ram && at >= kLowMemory) bits |= kUncached;
    entry_of(at) = at | bits | (at < kFixed ? entry_of(at) & kDirty : 0);
  }
  flush();
  return end;
}

void map_slot(Phys slot, bool present) {
  for (u64 at = slot.value; at < slot.value + kSlotBytes; at += kHugePageSize) {
    metal_low_pd[at / kHugePageSize] = present ? at | kPresent | kWritable | kHuge : 0;
  }
  flush();
}

bool written(Phys base) {
  return (entry_of(base.value) & kDirty) != 0;
}

}  // namespace perdure::metal
