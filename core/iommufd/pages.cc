#include "core/iommufd/pages.h"

#include <algorithm>

#include "core/base/scope_guard.h"

namespace perdure::iommufd {

Pages::Pages(Heap& heap, Ref<SharedMemory> memory, u32 seals, u64 start, u64 length, bool writable, Payer payer)
    : heap_(heap),
      kind_(Kind::File),
      start_(start),
      length_(length),
      writable_(writable),
      seals_(seals),
      memory_(std::move(memory)),
      payer_(std::move(payer)),
      segments_(heap) {}

Pages::Pages(Heap& heap, u64 start, u64 length, bool writable, Payer payer)
    : heap_(heap),
      kind_(Kind::User),
      start_(start),
      length_(length),
      writable_(writable),
      seals_(0),
      payer_(std::move(payer)),
      segments_(heap) {}

Pages::Pages(Heap& heap, Phys registers, u64 length, bool writable)
    : heap_(heap),
      kind_(Kind::Registers),
      start_(registers.value),
      length_(length),
      writable_(writable),
      seals_(0),
      segments_(heap) {}

// What is pinned still was lost to hardware: its memory keeps its addresses for good, but nobody pays for it any more.
Pages::~Pages() {
  MutexGuard guard(lock_);
  if (pinned_ != 0) payer_.refund(pinned_);
}

usize Pages::index_locked(u64 at) const {
  usize low = 0;
  usize high = segments_.size();
  while (low < high) {
    const usize middle = (low + high) / 2;
    if (segments_[middle].end() <= at) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

Result<void> Pages::cut_locked(u64 at) {
  const usize i = index_locked(at);
  if (i == segments_.size() || segments_[i].first >= at) return {};
  Segment upper = segments_[i];
  const u64 lower_length = at - upper.first;
  upper.first = at;
  upper.length -= lower_length;
  upper.offset += lower_length;
  SharedMemory& memory = *upper.memory;
  TRY(segments_.insert_at(i + 1, std::move(upper)));
  memory.pin();
  segments_[i].length = lower_length;
  return {};
}

Result<void> Pages::cut(u64 at) {
  MutexGuard guard(lock_);
  return cut_locked(at);
}

Result<void> Pages::each_gap_locked(u64 first, u64 end, FunctionRef<Result<void>(u64, u64)> visit) const {
  usize i = index_locked(first);
  for (u64 at = first; at < end; ++i) {
    const u64 used = i < segments_.size() ? std::min(segments_[i].first, end) : end;
    if (used > at) TRY(visit(at, used - at));
    at = i < segments_.size() ? std::max(at, segments_[i].end()) : end;
  }
  return {};
}

Result<void> Pages::resolve_locked(Task& via, u64 first, u64 length, Vec<Segment>& fresh) const {
  if (kind_ == Kind::File) {
    if (!memory_) return fail(Errno::Einval);
    return fresh.push_back({first, length, 1, memory_, start_ + first});
  }
  const u64 end = first + length;
  const auto take = [&](Ref<SharedMemory> memory, u64 offset, u64 bytes) -> Result<void> {
    if (bytes == 0 || bytes > end - first) return fail(Errno::Efault);
    TRY(fresh.push_back({first, bytes, 1, std::move(memory), offset}));
    first += bytes;
    return {};
  };
  TRY(payer_.process->resolve(via, UserAddr(start_ + first), length, writable_ ? Access::Write : Access::Read, take));
  if (first != end) return fail(Errno::Efault);
  return {};
}

Result<void> Pages::pin(Task& via, u64 first, u64 length) {
  if (kind_ == Kind::Registers) return {};
  const u64 end = first + length;
  Vec<Segment> fresh(heap_);
  MutexGuard guard(lock_);
  if ((start_ + first) % kPageSize != 0 || length % kPageSize != 0) return fail(Errno::Einval);
  // A border more does no harm if it then fails.
  TRY(cut_locked(first));
  TRY(cut_locked(end));
  u64 missing = 0;
  const auto count = [&](u64, u64 bytes) -> Result<void> {
    missing += bytes / kPageSize;
    return {};
  };
  TRY(each_gap_locked(first, end, count));
  TRY(payer_.charge(via, missing));
  usize pinned = 0;
  ScopeGuard undo([&] {
    lock_.assert_held();
    while (pinned > 0) fresh[--pinned].memory->unpin();
    if (missing != 0) payer_.refund(missing);
  });
  const auto resolve = [&](u64 at, u64 bytes) -> Result<void> {
    lock_.assert_held();
    return resolve_locked(via, at, bytes, fresh);
  };
  TRY(each_gap_locked(first, end, resolve));
  for (const Segment& segment : fresh) {
    segment.memory->pin();
    ++pinned;
    if ((segment.offset | segment.length) % kPageSize != 0) return fail(Errno::Einval);
    const Result<void> there =
        segment.memory->extents(segment.offset, segment.length, [](const FileExtent&) -> Result<void> { return {}; });
    // Beyond the end of what a process has mapped it cannot look either.
    if (!there) return fail(kind_ == Kind::User && there.error() == Errno::Einval ? Errno::Efault : there.error());
  }
  TRY(segments_.reserve(segments_.size() + fresh.size()));
  undo.dismiss();
  pinned_ += missing;
  for (usize i = index_locked(first); i < segments_.size() && segments_[i].first < end; ++i) ++segments_[i].count;
  for (Segment& segment : fresh) {
    const usize at = index_locked(segment.first);
    static_cast<void>(segments_.insert_at(at, std::move(segment)));  // reserved
  }
  return {};
}

// The last reference to a memory may go here, under locks that rank below its own (shared_memory.h).
void Pages::unpin(u64 first, u64 length) {
  if (kind_ == Kind::Registers) return;
  const u64 end = first + length;
  MutexGuard guard(lock_);
  const usize from = index_locked(first);
  usize kept = from;
  u64 pages = 0;
  for (usize i = from; i < segments_.size(); ++i) {
    Segment& segment = segments_[i];
    if (segment.first < end) {
      PERDURE_ASSERT(segment.first >= first && segment.end() <= end);
      if (--segment.count == 0) {
        segment.memory->unpin();
        pages += segment.length / kPageSize;
        continue;
      }
    } else if (kept == i) {
      break;
    }
    if (kept != i) std::swap(segments_[kept], segment);
    ++kept;
  }
  if (pages == 0) return;
  while (segments_.size() > kept) segments_.pop_back();
  pinned_ -= pages;
  payer_.refund(pages);
}

Result<void> Pages::each_piece(u64 first, u64 length, FunctionRef<Result<void>(const Piece&)> visit) const {
  if (kind_ == Kind::Registers) return visit({nullptr, start_ + first, length});
  if (kind_ == Kind::File) {
    if (!memory_) return fail(Errno::Einval);
    return visit({memory_, start_ + first, length});
  }
  MutexGuard guard(lock_);
  const u64 end = first + length;
  usize i = index_locked(first);
  for (u64 at = first; at < end; ++i) {
    if (i == segments_.size() || segments_[i].first > at) return fail(Errno::Efault);
    const Segment& segment = segments_[i];
    const u64 bytes = std::min(segment.end(), end) - at;
    TRY(visit({segment.memory, segment.offset + (at - segment.first), bytes}));
    at += bytes;
  }
  return {};
}

Result<PageIdentity> Pages::pinned_at(u64 at) const {
  MutexGuard guard(lock_);
  const usize i = index_locked(at);
  if (i == segments_.size() || segments_[i].first > at) return fail(Errno::Efault);
  const Segment& segment = segments_[i];
  const u64 page = at - (start_ + at) % kPageSize;  // whole pages are pinned
  return PageIdentity::of(*segment.memory, segment.offset + (page - segment.first), payer_.process.get(),
                          start_ + page);
}

u32 Pages::pins_of(const PageIdentity& page) const {
  MutexGuard guard(lock_);
  u32 pins = 0;
  for (const Segment& segment : segments_) {
    const PageIdentity first =
        PageIdentity::of(*segment.memory, segment.offset, payer_.process.get(), start_ + segment.first);
    if (first.memory == page.memory && first.process == page.process && page.at >= first.at &&
        page.at - first.at < segment.length) {
      ++pins;
    }
  }
  return pins;
}

Result<void> Pages::each_source_locked(u64 first, u64 length,
                                       FunctionRef<Result<void>(SharedMemory*, u64, u64)> visit) const {
  if (kind_ == Kind::Registers) return fail(Errno::Efault);
  const u64 end = first + length;
  for (usize i = index_locked(first); first < end;) {
    const bool more = i < segments_.size();
    if (more && segments_[i].first <= first) {
      const Segment& segment = segments_[i++];
      const u64 bytes = std::min(segment.end(), end) - first;
      TRY(visit(segment.memory.get(), segment.offset + (first - segment.first), bytes));
      first += bytes;
      continue;
    }
    const u64 bytes = (more ? std::min(segments_[i].first, end) : end) - first;
    if (kind_ == Kind::File && !memory_) return fail(Errno::Einval);
    TRY(visit(memory_.get(), start_ + first, bytes));
    first += bytes;
  }
  return {};
}

Result<void> Pages::read(Task& via, u64 first, std::span<std::byte> to) const {
  MutexGuard guard(lock_);
  return each_source_locked(first, to.size(), [&](SharedMemory* memory, u64 at, u64 bytes) -> Result<void> {
    lock_.assert_held();
    const std::span<std::byte> part = to.first(bytes);
    to = to.subspan(bytes);
    return memory ? memory->load(at, part) : payer_.process->copy_in(via, part, UserAddr(at));
  });
}

Result<void> Pages::write(Task& via, u64 first, std::span<const std::byte> from) {
  MutexGuard guard(lock_);
  return each_source_locked(first, from.size(), [&](SharedMemory* memory, u64 at, u64 bytes) -> Result<void> {
    lock_.assert_held();
    const std::span<const std::byte> part = from.first(bytes);
    from = from.subspan(bytes);
    return memory ? memory->store(at, part) : payer_.process->copy_out(via, UserAddr(at), part);
  });
}

Result<void> Pages::change_payer(Task& via, Payer& payer) {
  MutexGuard guard(lock_);
  TRY(payer.charge(via, pinned_));
  payer_.refund(pinned_);
  std::swap(payer_, payer);
  return {};
}

void Pages::restore_payer(Payer payer) {
  MutexGuard guard(lock_);
  payer.charge_again(pinned_);
  payer_.refund(pinned_);
  std::swap(payer_, payer);
}

Accounting Pages::mode() const {
  MutexGuard guard(lock_);
  return payer_.mode;
}

u64 Pages::pinned_pages() const {
  MutexGuard guard(lock_);
  return pinned_;
}

}  // namespace perdure::iommufd
