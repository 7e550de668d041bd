// Page frames of the machine's RAM: natural-aligned power-of-two blocks up to 4 MiB, two bits a frame,
// set up lazily so that boot costs O(extents).
//
// Life at boot, after a handover (kho-luo §1.7): scratch extents only → keep() for every preserved block →
// open(): all RAM that is not kept. A kept block stays out until restore() hands it to its new owner once.
#pragma once
#include <span>

#include "core/base/lock.h"
#include "core/base/machine.h"

namespace perdure {

struct Extent {
  Phys base;
  u64 length = 0;
  constexpr Phys end() const { return base + length; }
};

class FrameAllocator {
 public:
  static constexpr unsigned kMaxOrder = 10;

  struct Totals {
    u64 frames = 0;  // under management
    u64 free = 0;
    u64 kept = 0;  // preserved by the former kernel and not restored
  };

  explicit FrameAllocator(Machine& machine) : machine_(machine) {}
  FrameAllocator(const FrameAllocator&) = delete;
  FrameAllocator& operator=(const FrameAllocator&) = delete;

  // Before anything else. `ram`: all RAM to manage, sorted, page-aligned, disjoint. `reserved`: stretches never to be
  // given out (boot data, the running image). `scratch`: the only memory to allocate from until open();
  // empty on a cold boot. Bookkeeping itself is taken from scratch, or on a cold boot from RAM.
  // Enomem if the bookkeeping does not fit, Einval for malformed extents.
  Result<void> init(std::span<const Extent> ram, std::span<const Extent> reserved, std::span<const Extent> scratch);
  // A block that the former kernel preserved. Only before open(). Blocks outside RAM are accepted and
  // ignored (guest banks); Einval when unaligned or overlapping scratch, reserved memory or another kept block.
  Result<void> keep(Phys base, unsigned order);
  void open();
  bool opened() const;

  // A block of 2^order frames, aligned to its size. Enomem.
  Result<Phys> alloc(unsigned order);
  Result<Phys> alloc_zeroed(unsigned order);
  void free(Phys base, unsigned order);

  // Takes over a kept block exactly as it was kept, once: afterwards it is an ordinary allocated block that
  // free() accepts. Enoent if it was not kept, with this order, or was restored before.
  Result<void> restore(Phys base, unsigned order);
  bool is_kept(Phys base, unsigned order) const;
  // True when the whole range is RAM under management and not free: kept or allocated.
  bool in_use(Phys base, u64 length) const;
  // True when any byte of the range is scratch memory.
  bool in_scratch(Phys base, u64 length) const;
  std::span<const Extent> scratch() const;

  Totals totals() const;
  Machine& machine() const { return machine_; }

 private:
  struct RamBank;
  Machine& machine_;
  mutable Mutex lock_{LockRank::Frames};
};

}  // namespace perdure
