// Page frames of the machine's RAM: natural-aligned power-of-two blocks up to 4 MiB, three bits a frame,
// set up lazily so that boot costs O(extents + kept blocks).
//
// Life at boot, after a handover (kho-luo §1.7): scratch extents only → keep() for every preserved block →
// open(): all RAM that is not kept. A kept block stays out until restore() hands it to its new owner once.
// On a cold boot: carve_scratch() → open().
//
// Scratch memory never holds anything that is preserved, so that the next kernel can be loaded into it and boot
// from it. After open() alloc() leaves it alone; what early boot took from it stays until freed.
#pragma once
#include <span>

#include "core/base/lock.h"
#include "core/base/machine.h"
#include "core/mem/frame_bits.h"

namespace perdure {

struct Extent {
  Phys base;
  u64 length = 0;
  constexpr Phys end() const { return base + length; }
};

class FrameAllocator {
 public:
  static constexpr unsigned kMaxOrder = FrameBits::kOrder;
  // Alignment and granularity of the scratch that carve_scratch() makes.
  static constexpr u64 kScratchGrain = kPageSize << kMaxOrder;
  // How often carve_scratch() may be called.
  static constexpr unsigned kMaxCarved = 4;

  struct Totals {
    u64 frames = 0;        // under management: RAM that is not reserved
    u64 free = 0;          // of all frames, scratch included
    u64 kept = 0;          // preserved by the former kernel and not restored
    u64 scratch_free = 0;  // the part of `free` that is scratch
    bool operator==(const Totals&) const = default;
  };

  explicit FrameAllocator(Machine& machine) : machine_(machine) {}
  FrameAllocator(const FrameAllocator&) = delete;
  FrameAllocator& operator=(const FrameAllocator&) = delete;

  // Before anything else. `ram`: all RAM to manage, sorted, page-aligned, disjoint. `reserved`: stretches never to be
  // given out (boot data, the running image), in any order, rounded outwards to pages. `scratch`: the only memory to
  // allocate from until open(), page-aligned, disjoint, in any order; what of it is not in `ram` or is reserved is left
  // alone; entries of length 0 are skipped; empty on a cold boot. Bookkeeping itself is taken from scratch, or on a
  // cold boot from RAM. The frame at address 0 is never given out. Enomem if the bookkeeping does not fit, Einval for
  // malformed extents.
  Result<void> init(std::span<const Extent> ram, std::span<const Extent> reserved, std::span<const Extent> scratch);
  // Cold boot only, between init() and open(), before any allocation (else Ebusy): makes the lowest free,
  // contiguous stretch of `bytes`, rounded up to kScratchGrain and aligned to it, scratch memory. Enomem if there
  // is none; Enospc after kMaxCarved calls; Einval for 0 bytes.
  Result<Extent> carve_scratch(u64 bytes);
  // A block that the former kernel preserved. Only before open(). Blocks outside RAM are accepted and
  // ignored (guest banks); Einval when unaligned, partly in RAM, or overlapping scratch, reserved memory or another
  // kept block. O(1) up to 4 MiB, O(length / 4 MiB) above.
  Result<void> keep(Phys base, unsigned order);
  void open();
  bool opened() const;

  // A block of 2^order frames, aligned to its size, order <= kMaxOrder. Contents undefined. Enomem.
  Result<Phys> alloc(unsigned order);
  Result<Phys> alloc_zeroed(unsigned order);
  // The same from scratch memory at any time: for what the next kernel is started with (boot information, scratch
  // table). Never preserve it.
  Result<Phys> alloc_scratch(unsigned order);
  // A block of any of the three, or a restored one, with the order it has. Anything else is a bug and panics.
  void free(Phys base, unsigned order);

  // Takes over a kept block exactly as it was kept, once: afterwards it is an ordinary allocated block that
  // free() accepts. Enoent if it was not kept, with this order, or was restored before.
  Result<void> restore(Phys base, unsigned order);
  bool is_kept(Phys base, unsigned order) const;
  // True when the whole range is RAM under management and not free: kept or allocated.
  bool in_use(Phys base, u64 length) const;
  // True when any page of the range is RAM under management and free.
  bool any_free(Phys base, u64 length) const;
  // True when the whole range is RAM under management, free or not. Ranges that cross into or out of scratch memory are
  // not looked at further: false.
  bool in_ram(Phys base, u64 length) const;
  // True when any byte of the range is scratch memory.
  bool in_scratch(Phys base, u64 length) const;
  // Sorted. Changes only in init() and carve_scratch().
  std::span<const Extent> scratch() const { return {scratch_, scratch_count_}; }
  // Where the allocator's own state lies.
  Extent bookkeeping() const { return bookkeeping_; }

  Totals totals() const;
  Machine& machine() const { return machine_; }

 private:
  friend class Heap;
  // alloc() without asking may_allocate(): the heap asked already.
  Result<Phys> alloc_unasked(unsigned order);

  static constexpr u32 kNone = ~u32{0};
  static constexpr u8 kUnlinked = 0xff;  // Block::bucket of a block in no list

  // A contiguous stretch of RAM that is all scratch or not at all. It owns the descriptors of every aligned 4 MiB
  // block that it overlaps; frames of those blocks beyond the bank are reserved.
  struct Bank {
    u64 base;
    u64 end;
    u64 first_block;  // base >> 22
    u32 index;        // of first_block in blocks_
    u32 count;
    bool scratch;
  };
  // Valid when `slot` and touched_ agree (see touched()). A block that has free frames is in the list `bucket` of its
  // pool; it has no free run of a larger order than `bucket`, but need not have one of that order.
  struct Block {
    u32 prev;
    u32 next;
    u32 slot;
    u16 free;
    u8 bucket;
    u8 hint;  // words of `busy` below this one have no free frame
  };
  struct Pool {
    u32 first[kMaxOrder + 1];
    u32 nonempty;  // bit b: first[b] is not kNone
    usize bank;    // the first block never touched is at or after this bank and offset
    u32 offset;
  };

  Result<void> place_bookkeeping(std::span<const Extent> ram, std::span<const Extent> reserved,
                                 std::span<const Extent> scratch, u64 bytes);
  void add_bank(u64 base, u64 end, bool scratch);
  Result<void> sort_scratch(std::span<const Extent> scratch);
  void sort_reserved(std::span<const Extent> reserved);
  const Bank* bank_of(u64 at) const;
  const Bank& bank_of_block(u32 block) const;
  bool overlaps_reserved(u64 base, u64 length) const;
  u64 reserved_bytes(u64 base, u64 end) const;
  static u32 block_of(const Bank& bank, u64 at) {
    return bank.index + static_cast<u32>((at >> kBlockShift) - bank.first_block);
  }
  static u64 address_of(const Bank& bank, u32 block) {
    return (bank.first_block + (block - bank.index)) << kBlockShift;
  }
  bool may_allocate() const { return machine_.steps == nullptr || machine_.steps->may_allocate(); }

  bool touched(u32 block) const REQUIRES(lock_);
  void touch(const Bank& bank, u32 block) REQUIRES(lock_);
  bool touch_next(Pool& pool) REQUIRES(lock_);
  void reset_pools() REQUIRES(lock_);
  Pool& pool_of(const Bank& bank) REQUIRES(lock_) { return pools_[bank.scratch ? 1 : 0]; }
  void link(Pool& pool, u32 block, unsigned bucket) REQUIRES(lock_);
  void unlink(Pool& pool, u32 block) REQUIRES(lock_);
  Result<Phys> take(Pool& pool, unsigned order) REQUIRES(lock_);
  void give_back(const Bank& bank, u32 block, unsigned first, unsigned order) REQUIRES(lock_);
  bool is_block_locked(const Bank& bank, u64 base, unsigned order, bool kept) const REQUIRES(lock_);
  bool is_kept_locked(u64 base, unsigned order) const REQUIRES(lock_);

  static constexpr unsigned kBlockShift = kPageShift + kMaxOrder;

  Machine& machine_;
  mutable Mutex lock_{LockRank::Frames};

  // Bookkeeping arrays, in bookkeeping_. Banks, scratch and reserved do not change once other threads run.
  Extent bookkeeping_;
  Bank* banks_ = nullptr;  // sorted
  usize bank_count_ = 0;
  Extent* scratch_ = nullptr;
  usize scratch_count_ = 0;
  Extent* reserved_ = nullptr;  // sorted, merged
  usize reserved_count_ = 0;
  unsigned carved_ = 0;
  bool handover_ = false;

  Block* blocks_ PT_GUARDED_BY(lock_) = nullptr;
  FrameBits* bits_ PT_GUARDED_BY(lock_) = nullptr;
  u32* touched_ PT_GUARDED_BY(lock_) = nullptr;  // the touched blocks' numbers, in order of touching
  u32 touched_count_ GUARDED_BY(lock_) = 0;
  u32 block_count_ = 0;
  Pool pools_[2] GUARDED_BY(lock_) = {};  // ordinary, scratch
  bool open_ GUARDED_BY(lock_) = false;
  Totals totals_ GUARDED_BY(lock_);
};

}  // namespace perdure
