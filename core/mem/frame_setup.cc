// The frame allocator's beginning: where its bookkeeping lies, the banks, scratch memory.
#include "core/base/asan.h"
#include "core/base/log.h"
#include "core/base/scope_guard.h"
#include "core/mem/frame_allocator.h"

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

}  // namespace perdure
