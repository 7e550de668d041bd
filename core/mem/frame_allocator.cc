#include "core/mem/frame_allocator.h"

#include <cstring>

#include "core/base/asan.h"
#include "core/base/log.h"
#include "core/base/scope_guard.h"

namespace perdure {

namespace {

constexpr u64 page_down(u64 v) {
  return align_down(v, kPageSize);
}
// End of a reserved stretch of at least one byte, rounded up to a page; the last page of the address space, which is
// beyond any RAM, stands for its end.
constexpr u64 reserved_end(const Extent& e) {
  const u64 last_page = page_down(e.base.value + (e.length - 1));
  return last_page == page_down(~u64{0}) ? last_page : last_page + kPageSize;
}
bool malformed(const Machine& machine, const Extent& e) {
  return e.length == 0 || !e.base.aligned(kPageSize) || !Phys(e.length).aligned(kPageSize) ||
         !machine.in_window(e.base, e.length);
}

}  // namespace

// --- set-up -------------------------------------------------------------------------------------------------

// The first stretch of `bytes` that overlaps nothing reserved: in scratch if there is any, else in RAM. Quadratic
// in the number of reserved stretches, of which there are a handful, since nothing exists yet to sort them in.
Result<void> FrameAllocator::place_bookkeeping(std::span<const Extent> ram, std::span<const Extent> reserved,
                                               std::span<const Extent> scratch, u64 bytes) {
  constexpr Extent kEverywhere{Phys(0), ~u64{0}};
  const std::span<const Extent> allowed = scratch.empty() ? std::span(&kEverywhere, 1) : scratch;
  const usize pairs = ram.size() * allowed.size();
  for (usize pair = 0; pair < pairs; ++pair) {
    const Extent& bank = ram[pair % ram.size()];
    const Extent& area = allowed[pair / ram.size()];
    u64 at = bank.base > area.base ? bank.base.value : area.base.value;
    const u64 end = bank.end() < area.end() ? bank.end().value : area.end().value;
    // The frame at 0 would be a null address.
    if (at == 0) at = kPageSize;
    for (bool moved = true; moved && at < end;) {
      moved = false;
      for (const Extent& r : reserved) {
        if (ranges_overlap(at, bytes, r.base.value, r.length)) {
          at = reserved_end(r);
          moved = true;
        }
      }
    }
    if (at < end && end - at >= bytes) {
      bookkeeping_ = {Phys(at), bytes};
      return {};
    }
  }
  log(machine_, LogLevel::Error,
      Line() << "frames: no " << bytes << " contiguous bytes for the frame bookkeeping in "
             << (scratch.empty() ? "RAM" : "scratch memory") << "; make it larger");
  return fail(Errno::Enomem);
}

void FrameAllocator::add_bank(u64 base, u64 end, bool scratch) {
  if (base == end) return;
  const u64 first = base >> kBlockShift;
  const u32 count = static_cast<u32>(((end - 1) >> kBlockShift) - first + 1);
  banks_[bank_count_++] = {base, end, first, block_count_, count, scratch};
  block_count_ += count;
}

Result<void> FrameAllocator::sort_scratch(std::span<const Extent> scratch) {
  for (const Extent& e : scratch) {
    if (e.length == 0) continue;
    usize i = scratch_count_++;
    for (; i > 0 && scratch_[i - 1].base > e.base; --i) scratch_[i] = scratch_[i - 1];
    scratch_[i] = e;
  }
  for (usize i = 1; i < scratch_count_; ++i) {
    if (scratch_[i - 1].end() > scratch_[i].base) {
      log(machine_, LogLevel::Error, Line() << "frames: scratch extents overlap at " << scratch_[i].base);
      return fail(Errno::Einval);
    }
  }
  return {};
}

void FrameAllocator::sort_reserved(std::span<const Extent> reserved) {
  const auto insert = [&](u64 base, u64 end) {
    usize i = reserved_count_++;
    for (; i > 0 && reserved_[i - 1].base.value > base; --i) reserved_[i] = reserved_[i - 1];
    reserved_[i] = {Phys(base), end - base};
  };
  for (const Extent& e : reserved) {
    if (e.length != 0) insert(page_down(e.base.value), reserved_end(e));
  }
  insert(bookkeeping_.base.value, bookkeeping_.end().value);
  insert(0, kPageSize);
  usize merged = 0;
  for (usize i = 1; i < reserved_count_; ++i) {
    if (reserved_[i].base <= reserved_[merged].end()) {
      const u64 end = reserved_[i].end().value;
      if (end > reserved_[merged].end().value) reserved_[merged].length = end - reserved_[merged].base.value;
    } else {
      reserved_[++merged] = reserved_[i];
    }
  }
  reserved_count_ = merged + 1;
}

Result<void> FrameAllocator::init(std::span<const Extent> ram, std::span<const Extent> reserved,
                                  std::span<const Extent> scratch) {
  PERDURE_ASSERT(banks_ == nullptr);
  const MutexGuard guard(lock_);
  u64 blocks = 0;
  usize scratch_areas = 0;
  for (usize i = 0; i < ram.size(); ++i) {
    if (malformed(machine_, ram[i]) || (i > 0 && ram[i - 1].end() > ram[i].base)) {
      log(machine_, LogLevel::Error,
          Line() << "frames: RAM extent " << i << " at " << ram[i].base << " is empty, unaligned, out of order, or "
                 << "beyond the physical address space");
      return fail(Errno::Einval);
    }
    blocks += ((ram[i].end().value - 1) >> kBlockShift) - (ram[i].base.value >> kBlockShift) + 1;
  }
  for (const Extent& e : reserved) {
    if (range_overflows(e.base.value, e.length)) return fail(Errno::Einval);
  }
  for (const Extent& e : scratch) {
    if (e.length == 0) continue;
    if (malformed(machine_, e)) {
      log(machine_, LogLevel::Error, Line() << "frames: scratch extent at " << e.base << " is malformed");
      return fail(Errno::Einval);
    }
    ++scratch_areas;
  }
  handover_ = scratch_areas != 0;
  // Where a scratch area and an extent of RAM meet, the extent's bank becomes up to three, and the blocks with a
  // boundary in them are there twice. Not more than this many pairs of the two sorted, disjoint lists meet.
  const u64 meetings = ram.size() + scratch_areas;
  blocks += 2 * meetings;
  if (ram.empty() || blocks >= kNone) return fail(Errno::Einval);

  const usize max_scratch = scratch_areas + kMaxCarved;
  const usize max_banks = ram.size() + 2 * (meetings + kMaxCarved);
  const usize max_reserved = reserved.size() + 2;
  u64 bytes = 0;
  const auto room = [&bytes](u64 count, u64 each) {
    const u64 at = bytes;
    bytes = align_up(at + count * each, 64);
    return at;
  };
  const u64 banks_at = room(max_banks, sizeof(Bank));
  const u64 scratch_at = room(max_scratch, sizeof(Extent));
  const u64 reserved_at = room(max_reserved, sizeof(Extent));
  const u64 touched_at = room(blocks, sizeof(u32));
  const u64 blocks_at = room(blocks, sizeof(Block));
  const u64 bits_at = room(blocks, sizeof(FrameBits));
  TRY(place_bookkeeping(ram, reserved, handover_ ? scratch : std::span<const Extent>(), align_up(bytes, kPageSize)));

  std::byte* const base = machine_.virt(bookkeeping_.base);
  asan::unpoison(base, bytes);
  banks_ = reinterpret_cast<Bank*>(base + banks_at);
  scratch_ = reinterpret_cast<Extent*>(base + scratch_at);
  reserved_ = reinterpret_cast<Extent*>(base + reserved_at);
  touched_ = reinterpret_cast<u32*>(base + touched_at);
  blocks_ = reinterpret_cast<Block*>(base + blocks_at);
  bits_ = reinterpret_cast<FrameBits*>(base + bits_at);
  sort_reserved(reserved);
  ScopeGuard undo([this] {
    banks_ = nullptr;
    bank_count_ = scratch_count_ = reserved_count_ = 0;
    block_count_ = 0;
  });
  TRY(sort_scratch(scratch));

  usize next = 0;  // scratch area
  for (usize i = 0; i < ram.size();) {
    // Adjacent extents are one bank, so that a kept block never lies in two.
    u64 at = ram[i].base.value;
    u64 end = ram[i].end().value;
    for (++i; i < ram.size() && ram[i].base.value == end; ++i) end = ram[i].end().value;
    while (next < scratch_count_ && scratch_[next].base.value < end) {
      const u64 scratch_end = scratch_[next].end().value;
      if (scratch_end > at) {
        const u64 from = scratch_[next].base.value > at ? scratch_[next].base.value : at;
        const u64 to = scratch_end < end ? scratch_end : end;
        add_bank(at, from, false);
        add_bank(from, to, true);
        at = to;
      }
      if (scratch_end > end) break;  // goes on in the next extent
      ++next;
    }
    add_bank(at, end, false);
  }
  PERDURE_ASSERT(block_count_ <= blocks && bank_count_ <= max_banks);
  for (usize i = 0; i < bank_count_; ++i) {
    const Bank& b = banks_[i];
    const u64 frames = (b.end - b.base - reserved_bytes(b.base, b.end)) >> kPageShift;
    totals_.frames += frames;
    if (b.scratch) totals_.scratch_free += frames;
  }
  totals_.free = totals_.frames;
  reset_pools();
  undo.dismiss();
  return {};
}

void FrameAllocator::reset_pools() {
  for (Pool& pool : pools_) {
    pool = {};
    for (u32& first : pool.first) first = kNone;
  }
}

Result<Extent> FrameAllocator::carve_scratch(u64 bytes) {
  const MutexGuard guard(lock_);
  if (bytes == 0 || bytes > machine_.window) return fail(Errno::Einval);
  if (handover_ || open_ || touched_count_ != 0) return fail(Errno::Ebusy);
  if (carved_ == kMaxCarved) return fail(Errno::Enospc);
  const u64 length = align_up(bytes, kScratchGrain);
  for (usize i = 0; i < bank_count_; ++i) {
    const Bank bank = banks_[i];
    if (bank.scratch) continue;
    u64 at = align_up(bank.base, kScratchGrain);
    for (usize r = 0; r < reserved_count_; ++r) {
      if (ranges_overlap(at, length, reserved_[r].base.value, reserved_[r].length)) {
        at = align_up(reserved_[r].end().value, kScratchGrain);
      }
    }
    if (at >= bank.end || bank.end - at < length) continue;

    // The bank becomes up to three. Their boundaries are block boundaries, so no block's number changes.
    const auto part = [&bank](u64 base, u64 end, bool scratch) {
      return Bank{base,
                  end,
                  base >> kBlockShift,
                  block_of(bank, base),
                  static_cast<u32>(((end - 1) >> kBlockShift) - (base >> kBlockShift) + 1),
                  scratch};
    };
    Bank parts[3];
    usize n = 0;
    if (bank.base < at) parts[n++] = part(bank.base, at, false);
    parts[n++] = part(at, at + length, true);
    if (at + length < bank.end) parts[n++] = part(at + length, bank.end, false);
    for (usize k = bank_count_; k > i + 1; --k) banks_[k - 1 + n - 1] = banks_[k - 1];
    for (usize k = 0; k < n; ++k) banks_[i + k] = parts[k];
    bank_count_ += n - 1;

    usize s = scratch_count_++;
    for (; s > 0 && scratch_[s - 1].base.value > at; --s) scratch_[s] = scratch_[s - 1];
    scratch_[s] = {Phys(at), length};
    totals_.scratch_free += length >> kPageShift;
    ++carved_;
    return Extent{Phys(at), length};
  }
  log(machine_, LogLevel::Error,
      Line() << "frames: no " << length << " contiguous bytes of free RAM for scratch memory");
  return fail(Errno::Enomem);
}

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
  u64 at = page_down(base.value);
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
      at = page_down(stop) + kPageSize;
    }
  }
  return true;
}

FrameAllocator::Totals FrameAllocator::totals() const {
  const MutexGuard guard(lock_);
  return totals_;
}

}  // namespace perdure
