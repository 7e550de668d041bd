#include "core/mem/frame_allocator.h"

#include <cstring>

#include "core/base/asan.h"

namespace perdure {

// --- extents ------------------------------------------------------------------------------------------------

const FrameAllocator::Bank* FrameAllocator::bank_of(u64 at) const {
  usize low = 0, high = bank_count_;
  while (low < high) {
    const usize middle = (low + high) / 2;
    if (banks_[middle].end <= at) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < bank_count_ && banks_[low].base <= at ? &banks_[low] : nullptr;
}

const FrameAllocator::Bank& FrameAllocator::bank_of_block(u32 block) const {
  usize low = 0, high = bank_count_;
  while (high - low > 1) {
    const usize middle = (low + high) / 2;
    if (banks_[middle].index <= block) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return banks_[low];
}

bool FrameAllocator::overlaps_reserved(u64 base, u64 length) const {
  usize low = 0, high = reserved_count_;
  while (low < high) {
    const usize middle = (low + high) / 2;
    if (reserved_[middle].end().value <= base) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < reserved_count_ && ranges_overlap(base, length, reserved_[low].base.value, reserved_[low].length);
}

u64 FrameAllocator::reserved_bytes(u64 base, u64 end) const {
  u64 bytes = 0;
  for (usize i = 0; i < reserved_count_; ++i) {
    const u64 from = reserved_[i].base.value < base ? base : reserved_[i].base.value;
    const u64 to = reserved_[i].end().value > end ? end : reserved_[i].end().value;
    if (from < to) bytes += to - from;
  }
  return bytes;
}

bool FrameAllocator::in_ram(Phys base, u64 length) const {
  const Bank* bank = bank_of(base.value);
  return bank != nullptr && length <= bank->end - base.value;
}

bool FrameAllocator::in_scratch(Phys base, u64 length) const {
  for (const Extent& e : scratch()) {
    if (ranges_overlap(base.value, length, e.base.value, e.length)) return true;
  }
  return false;
}

// --- blocks -------------------------------------------------------------------------------------------------

// Bookkeeping memory starts with whatever was in it. A block's descriptor counts as written when its slot and the
// list of touched blocks name each other, which no leftover can fake, since the list is written before it is read.
bool FrameAllocator::touched(u32 block) const {
  const u32 slot = blocks_[block].slot;
  return slot < touched_count_ && touched_[slot] == block;
}

void FrameAllocator::touch(const Bank& bank, u32 block) {
  if (touched(block)) return;
  FrameBits& bits = bits_[block];
  bits.fill();
  const u64 start = address_of(bank, block);
  const u64 stop = start + kScratchGrain;
  u64 at = start < bank.base ? bank.base : start;
  const u64 end = stop > bank.end ? bank.end : stop;
  unsigned free = 0;
  for (usize i = 0; at < end; ++i) {
    // Up to the next reserved stretch, or to the end.
    const bool more = i < reserved_count_ && reserved_[i].base.value < end;
    const u64 to = more ? reserved_[i].base.value : end;
    if (at < to) {
      const unsigned count = static_cast<unsigned>((to - at) >> kPageShift);
      bits.set_free(static_cast<unsigned>((at - start) >> kPageShift), count);
      free += count;
    }
    const u64 next = more ? reserved_[i].end().value : end;
    if (next > at) at = next;
  }
  blocks_[block] = {kNone, kNone, touched_count_, static_cast<u16>(free), kUnlinked, 0};
  touched_[touched_count_++] = block;
  if (free != 0) link(pool_of(bank), block, kMaxOrder);
}

bool FrameAllocator::touch_next(Pool& pool) {
  const bool scratch = &pool == &pools_[1];
  for (; pool.bank < bank_count_; ++pool.bank, pool.offset = 0) {
    const Bank& bank = banks_[pool.bank];
    if (bank.scratch != scratch) continue;
    while (pool.offset < bank.count) {
      const u32 block = bank.index + pool.offset++;
      if (touched(block)) continue;
      touch(bank, block);
      if (blocks_[block].free != 0) return true;
    }
  }
  return false;
}

void FrameAllocator::link(Pool& pool, u32 block, unsigned bucket) {
  Block& b = blocks_[block];
  const u32 first = pool.first[bucket];
  b.prev = kNone;
  b.next = first;
  b.bucket = static_cast<u8>(bucket);
  if (first != kNone) blocks_[first].prev = block;
  pool.first[bucket] = block;
  pool.nonempty |= 1u << bucket;
}

void FrameAllocator::unlink(Pool& pool, u32 block) {
  Block& b = blocks_[block];
  if (b.next != kNone) blocks_[b.next].prev = b.prev;
  if (b.prev != kNone) {
    blocks_[b.prev].next = b.next;
  } else {
    pool.first[b.bucket] = b.next;
    if (b.next == kNone) pool.nonempty &= ~(1u << b.bucket);
  }
  b.bucket = kUnlinked;
}

Result<Phys> FrameAllocator::take(Pool& pool, unsigned order) {
  for (;;) {
    const u32 candidates = pool.nonempty & (~u32{0} << order);
    if (candidates == 0) {
      if (!touch_next(pool)) return fail(Errno::Enomem);
      continue;
    }
    // Smallest blocks first, to leave large ones whole.
    const u32 block = pool.first[__builtin_ctz(candidates)];
    Block& b = blocks_[block];
    FrameBits& bits = bits_[block];
    const unsigned at = bits.find(order, b.hint);
    if (at == FrameBits::kNotFound) {
      // Less is left than the bucket promised. Every block here has a free frame, so order 0 is always found.
      PERDURE_ASSERT(order > 0);
      unsigned left = order - 1;
      while (left > 0 && bits.find(left, b.hint) == FrameBits::kNotFound) --left;
      unlink(pool, block);
      link(pool, block, left);
      continue;
    }
    const unsigned count = 1u << order;
    FrameBits::set(bits.busy, at, count);
    FrameBits::set(bits.head, at, 1);
    if (order == 0) b.hint = static_cast<u8>(at / 64);
    b.free = static_cast<u16>(b.free - count);
    if (b.free == 0) {
      unlink(pool, block);
    } else if (b.bucket == kMaxOrder) {
      unlink(pool, block);
      link(pool, block, kMaxOrder - 1);
    }
    totals_.free -= count;
    if (&pool == &pools_[1]) totals_.scratch_free -= count;
    return Phys(address_of(bank_of_block(block), block) + (u64{at} << kPageShift));
  }
}

void FrameAllocator::give_back(const Bank& bank, u32 block, unsigned first, unsigned order) {
  Block& b = blocks_[block];
  FrameBits& bits = bits_[block];
  Pool& pool = pool_of(bank);
  const unsigned count = 1u << order;
  bits.set_free(first, count);
  b.free = static_cast<u16>(b.free + count);
  if (first / 64 < b.hint) b.hint = static_cast<u8>(first / 64);
  if (b.bucket == kUnlinked) {
    link(pool, block, order);  // nothing else is free
  } else {
    unsigned run = b.bucket;
    while (run < kMaxOrder && (run + 1 == kMaxOrder ? b.free == FrameBits::kFrames : bits.is_free(first, run + 1))) {
      ++run;
    }
    if (run > b.bucket) {
      unlink(pool, block);
      link(pool, block, run);
    }
  }
  totals_.free += count;
  if (bank.scratch) totals_.scratch_free += count;
}

// True when exactly one block of this order, kept or allocated, starts at `base`.
bool FrameAllocator::is_block_locked(const Bank& bank, u64 base, unsigned order, bool kept) const {
  const u64 end = base + (kPageSize << order);
  const unsigned first = static_cast<unsigned>(base >> kPageShift) % FrameBits::kFrames;
  const unsigned part = order < kMaxOrder ? order : kMaxOrder;
  for (u64 at = base; at != end; at += kPageSize << part) {
    const u32 block = block_of(bank, at);
    if (!touched(block) || !bits_[block].is_block(first, part, at == base, kept)) return false;
  }
  if (end == bank.end) return true;
  const u32 after = block_of(bank, end);
  return !touched(after) || !bits_[after].continues(static_cast<unsigned>(end >> kPageShift) % FrameBits::kFrames);
}

// --- the former kernel's blocks -----------------------------------------------------------------------------

namespace {

// Naturally aligned; so it does not wrap. The format can also say order 52, the whole address space, in which there
// always is something that may not be kept.
bool well_formed(u64 base, unsigned order) {
  return order < 52 && Phys(base).aligned(kPageSize << order);
}

}  // namespace

Result<void> FrameAllocator::keep(Phys base, unsigned order) {
  const MutexGuard guard(lock_);
  if (open_ || !well_formed(base.value, order)) return fail(Errno::Einval);
  const u64 start = base.value;
  const u64 length = kPageSize << order;
  const u64 last = start + (length - 1);
  if (in_scratch(base, length) || overlaps_reserved(start, length)) return fail(Errno::Einval);
  const Bank* bank = bank_of(start);
  if (bank == nullptr) {
    // The first bank after `start`, if any, must be beyond the block.
    for (usize i = 0; i < bank_count_; ++i) {
      if (banks_[i].base >= start && banks_[i].base <= last) return fail(Errno::Einval);
    }
    return {};
  }
  if (last >= bank->end) return fail(Errno::Einval);

  const unsigned count = order < kMaxOrder ? 1u << order : FrameBits::kFrames;
  const unsigned first = static_cast<unsigned>(start >> kPageShift) % FrameBits::kFrames;
  const u64 step = u64{count} << kPageShift;
  for (u64 at = start; at <= last; at += step) {
    const u32 block = block_of(*bank, at);
    if (touched(block) && !FrameBits::none(bits_[block].busy, first, count)) return fail(Errno::Einval);
  }
  Pool& pool = pool_of(*bank);
  for (u64 at = start; at <= last; at += step) {
    const u32 block = block_of(*bank, at);
    touch(*bank, block);
    FrameBits& bits = bits_[block];
    FrameBits::set(bits.busy, first, count);
    FrameBits::set(bits.kept, first, count);
    if (at == start) FrameBits::set(bits.head, first, 1);
    Block& b = blocks_[block];
    b.free = static_cast<u16>(b.free - count);
    if (b.free == 0) unlink(pool, block);
  }
  const u64 frames = u64{1} << order;
  totals_.free -= frames;
  totals_.kept += frames;
  return {};
}

bool FrameAllocator::is_kept_locked(u64 base, unsigned order) const {
  if (!well_formed(base, order)) return false;
  const Bank* bank = bank_of(base);
  if (bank == nullptr || bank->end - base < (kPageSize << order)) return false;
  return !overlaps_reserved(base, kPageSize << order) && is_block_locked(*bank, base, order, true);
}

bool FrameAllocator::is_kept(Phys base, unsigned order) const {
  const MutexGuard guard(lock_);
  return is_kept_locked(base.value, order);
}

Result<void> FrameAllocator::restore(Phys base, unsigned order) {
  const MutexGuard guard(lock_);
  if (!is_kept_locked(base.value, order)) return fail(Errno::Enoent);
  const Bank& bank = *bank_of(base.value);
  const unsigned count = order < kMaxOrder ? 1u << order : FrameBits::kFrames;
  const unsigned first = static_cast<unsigned>(base.page()) % FrameBits::kFrames;
  for (u64 done = 0; done < kPageSize << order; done += u64{count} << kPageShift) {
    FrameBits::clear(bits_[block_of(bank, base.value + done)].kept, first, count);
  }
  totals_.kept -= u64{1} << order;
  return {};
}

// --- use ----------------------------------------------------------------------------------------------------

void FrameAllocator::open() {
  const MutexGuard guard(lock_);
  PERDURE_ASSERT(banks_ != nullptr);
  open_ = true;
}

bool FrameAllocator::opened() const {
  const MutexGuard guard(lock_);
  return open_;
}

Result<Phys> FrameAllocator::alloc(unsigned order) {
  if (!may_allocate()) return fail(Errno::Enomem);
  return alloc_unasked(order);
}

Result<Phys> FrameAllocator::alloc_unasked(unsigned order) {
  if (order > kMaxOrder) return fail(Errno::Einval);
  Phys at;
  {
    const MutexGuard guard(lock_);
    at = TRY(take(pools_[open_ ? 0 : 1], order));
  }
  asan::unpoison(machine_.virt(at), kPageSize << order);
  return at;
}

Result<Phys> FrameAllocator::alloc_zeroed(unsigned order) {
  const Phys at = TRY(alloc(order));
  std::memset(machine_.virt(at), 0, kPageSize << order);
  return at;
}

Result<Phys> FrameAllocator::alloc_scratch(unsigned order) {
  if (order > kMaxOrder) return fail(Errno::Einval);
  if (!may_allocate()) return fail(Errno::Enomem);
  Phys at;
  {
    const MutexGuard guard(lock_);
    at = TRY(take(pools_[1], order));
  }
  asan::unpoison(machine_.virt(at), kPageSize << order);
  return at;
}

void FrameAllocator::free(Phys base, unsigned order) {
  PERDURE_ASSERT(order < 52 && base.aligned(kPageSize << order));
  const MutexGuard guard(lock_);
  const Bank* bank = bank_of(base.value);
  PERDURE_ASSERT(bank != nullptr && bank->end - base.value >= kPageSize << order);
  // A double free, a wrong order, or memory that is reserved or kept.
  PERDURE_ASSERT(is_block_locked(*bank, base.value, order, false));
  if (order <= kMaxOrder) {
    give_back(*bank, block_of(*bank, base.value), static_cast<unsigned>(base.page()) % FrameBits::kFrames, order);
    return;
  }
  for (u64 done = 0; done < kPageSize << order; done += kScratchGrain) {
    give_back(*bank, block_of(*bank, base.value + done), 0, kMaxOrder);
  }
}

bool FrameAllocator::in_use(Phys base, u64 length) const {
  if (length == 0 || range_overflows(base.value, length)) return false;
  const MutexGuard guard(lock_);
  if (overlaps_reserved(base.value, length)) return false;
  u64 at = align_down(base.value, kPageSize);
  const u64 last = base.value + (length - 1);
  while (at <= last) {
    const Bank* bank = bank_of(at);
    if (bank == nullptr) return false;
    const u64 bank_last = bank->end - 1 < last ? bank->end - 1 : last;
    while (at <= bank_last) {
      const u32 block = block_of(*bank, at);
      if (!touched(block)) return false;
      const u64 block_last = align_down(at, kScratchGrain) + (kScratchGrain - 1);
      const u64 stop = block_last < bank_last ? block_last : bank_last;
      const unsigned first = static_cast<unsigned>(at >> kPageShift) % FrameBits::kFrames;
      const unsigned count = static_cast<unsigned>((stop >> kPageShift) - (at >> kPageShift)) + 1;
      if (!FrameBits::all(bits_[block].busy, first, count)) return false;
      at = align_down(stop, kPageSize) + kPageSize;
    }
  }
  return true;
}

bool FrameAllocator::any_free(Phys base, u64 length) const {
  if (length == 0 || range_overflows(base.value, length)) return false;
  const MutexGuard guard(lock_);
  if (overlaps_reserved(base.value, length)) return false;
  const u64 last = base.value + (length - 1);
  for (usize i = 0; i < bank_count_; ++i) {
    const Bank& bank = banks_[i];
    if (bank.base > last || bank.end <= base.value) continue;
    const u64 bank_last = bank.end - 1 < last ? bank.end - 1 : last;
    u64 at = bank.base > base.value ? bank.base : align_down(base.value, kPageSize);
    while (at <= bank_last) {
      const u32 block = block_of(bank, at);
      if (!touched(block)) return true;
      const u64 block_last = align_down(at, kScratchGrain) + (kScratchGrain - 1);
      const u64 stop = block_last < bank_last ? block_last : bank_last;
      const unsigned first = static_cast<unsigned>(at >> kPageShift) % FrameBits::kFrames;
      const unsigned count = static_cast<unsigned>((stop >> kPageShift) - (at >> kPageShift)) + 1;
      if (!FrameBits::all(bits_[block].busy, first, count)) return true;
      at = align_down(stop, kPageSize) + kPageSize;
    }
  }
  return false;
}

FrameAllocator::Totals FrameAllocator::totals() const {
  const MutexGuard guard(lock_);
  return totals_;
}

}  // namespace perdure
