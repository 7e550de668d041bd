// Physical memory as an IOMMU unit reaches it, and what the unit tells its surroundings.
#pragma once
#include "core/base/types.h"

namespace perdure::board {

// What the unit uses a word of memory for.
enum class TableUse : u8 {
  RootTable,
  ContextTable,
  PasidDirectory,
  PasidTable,
  PageTable,
  Queue,       // invalidation descriptors
  WaitStatus,  // the word a wait descriptor writes
  InterruptTable,
};

// What the board writes over frames that nobody may use any more. Whatever structure the unit takes it for, it is a
// present entry with reserved bits set, an invalid descriptor, and no pointer into memory.
inline constexpr u64 kPoisonWord = 0xDEAD'FEED'DEAD'FFF7;

// All accesses are naturally aligned and atomic. Called with the unit's lock held, from any thread: must not call the
// unit. Each answers false, and does nothing, when the word is not RAM.
class PhysMemory {
 public:
  virtual bool load64(u64 phys, u64& value) = 0;
  virtual bool store32(u64 phys, u32 value) = 0;
  // `expected` becomes what was found. False also when not RAM, then with `expected` unchanged.
  virtual bool compare_exchange64(u64 phys, u64& expected, u64 desired) = 0;
  virtual bool is_ram(u64 phys, u64 bytes) const = 0;
  // Asked before each use: false when the frame does not belong to what the unit may use (freed, not preserved across
  // a jump, poisoned). The access happens all the same, as on hardware, and becomes a violation.
  virtual bool may_use(u64 /*phys*/, TableUse /*use*/) { return true; }

 protected:
  ~PhysMemory() = default;
};

class IommuEnvironment {
 public:
  // Monotonic. Called with the unit's lock held: must not call the unit.
  virtual u64 now_ns() = 0;

  // The following are called without the unit's lock, on the thread that caused them; what one thread causes comes in
  // order.

  // An interrupt message of the unit itself (fault event, completion event); never remapped.
  virtual void msi(u64 address, u32 data) = 0;
  // GSTS.TES changed: from now on requests are translated or, with `on` false, pass untranslated.
  virtual void translation_enabled(bool on, u64 when_ns) = 0;
  // A device TLB invalidation: `bytes` at `iova` of the function `source`, all of it when bytes is 0.
  virtual void device_tlb_invalidate(u16 /*source*/, u64 /*iova*/, u64 /*bytes*/) {}

 protected:
  ~IommuEnvironment() = default;
};

}  // namespace perdure::board
