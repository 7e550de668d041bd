// The addresses of an IOAS: which are free, which are chosen, what they must be multiples of (uapi §2.4).
#include <algorithm>
#include <bit>

#include "core/iommufd/ioas.h"

namespace perdure::iommufd {

namespace {
constexpr u64 kHighest = ~u64{0};
}  // namespace

u64 Ioas::iova_alignment() const {
  MutexGuard guard(lock_);
  return alignment_;
}

u64 Ioas::page_sizes() const {
  MutexGuard guard(lock_);
  u64 sizes = ~(kPageSize - 1);
  for (const HwptPaging& hwpt : domains_) sizes &= hwpt.domain().geometry().leaf_sizes;
  return sizes;
}

Result<void> Ioas::each_gap(FunctionRef<Result<void>(IovaRange)> visit) const {
  MutexGuard guard(lock_);
  return reserved_.each_gap(visit);
}

Result<void> Ioas::check_iova_locked(u64 iova, u64 length) const {
  if (iova % alignment_ != 0) return fail(Errno::Einval);
  if (range_overflows(iova, length)) return fail(Errno::Eoverflow);
  const u64 last = iova + (length - 1);
  if (reserved_.find(iova, last)) return fail(Errno::Einval);
  if (areas_.find(Iova(iova), Iova(last))) return fail(Errno::Eexist);
  return {};
}

// The lowest hole of `span` that takes the length.
Result<u64> Ioas::choose_in_locked(IovaRange span, u64 alignment, u64 low_bits, u64 length) const {
  const Area* area = areas_.lower_bound(Iova(span.first));
  for (u64 at = span.first; at <= span.last;) {
    while (area && area->last().value < at) area = AreaMap::next(*area);
    const IovaRange* reserved = reserved_.find(at, span.last);
    // Ranges are found by their start, so one that begins below may hide one that reaches further: taken in turns.
    u64 used_until = 0;
    if (area && area->iova.value <= at) used_until = area->last().value;
    if (reserved && reserved->first <= at) used_until = std::max(used_until, reserved->last);
    if (used_until != 0) {
      if (used_until >= span.last) break;
      at = used_until + 1;
      continue;
    }
    u64 hole_last = span.last;
    if (area) hole_last = std::min(hole_last, area->iova.value - 1);
    if (reserved) hole_last = std::min(hole_last, reserved->first - 1);
    // `start < last` is Linux's test, too: a hole of one byte is never used.
    const u64 start = align_up(at, alignment) | low_bits;
    if (start >= at && start < hole_last && hole_last - start >= length - 1) return start;
    if (hole_last >= span.last) break;
    at = hole_last + 1;
  }
  return fail(Errno::Enospc);
}

// In [page, 2^64 - 1 - page], and there in the allowed ranges if there are any, at the alignment of the source, so
// that large pages can be used, but not beyond one large page (uapi §2.4).
Result<u64> Ioas::choose_iova_locked(u64 source_start, u64 length) const {
  if (length >= kHighest / 2) return fail(Errno::Eoverflow);
  u64 alignment = std::bit_ceil(length);
  if (source_start != 0) alignment = std::min(alignment, source_start & (~source_start + 1));
  alignment = std::min(alignment, kHugePageSize);
  if (alignment < alignment_) return fail(Errno::Einval);
  const u64 low_bits = source_start % kPageSize;

  constexpr u64 kLast = kHighest - kPageSize;
  if (allowed_.empty()) return choose_in_locked({kPageSize, kLast}, alignment, low_bits, length);
  for (usize i = 0; i < allowed_.size(); ++i) {
    IovaRange span = allowed_[i];
    // Ranges that meet are one.
    while (i + 1 < allowed_.size() && allowed_[i + 1].first == span.last + 1) span.last = allowed_[++i].last;
    span = {std::max(span.first, kPageSize), std::min(span.last, kLast)};
    if (span.first > span.last) continue;
    const Result<u64> found = choose_in_locked(span, alignment, low_bits, length);
    if (found || found.error() != Errno::Enospc) return found;
  }
  return fail(Errno::Enospc);
}

Result<void> Ioas::set_allowed(Vec<IovaRange> ranges) {
  MutexGuard guard(lock_);
  TRY(immutability.may_change());
  for (const IovaRange& range : ranges) {
    if (reserved_.find(range.first, range.last)) return fail(Errno::Eaddrinuse);
  }
  std::swap(allowed_, ranges);
  return {};
}

Result<void> Ioas::each_allowed(FunctionRef<Result<void>(IovaRange)> visit) const {
  MutexGuard guard(lock_);
  for (const IovaRange& range : allowed_) TRY(visit(range));
  return {};
}

Result<void> Ioas::reserve_locked(const void* owner, IovaRange range) {
  if (areas_.find(Iova(range.first), Iova(range.last))) return fail(Errno::Eaddrinuse);
  for (const IovaRange& allowed : allowed_) {
    if (ranges_meet(allowed, range)) return fail(Errno::Eaddrinuse);
  }
  return reserved_.add(owner, range);
}

Result<void> Ioas::reserve(const void* owner, IovaRange range) {
  MutexGuard guard(lock_);
  return reserve_locked(owner, range);
}

void Ioas::unreserve(const void* owner) {
  MutexGuard guard(lock_);
  reserved_.remove(owner);
}

Result<void> Ioas::reserve_for_good(IovaRange range) {
  MutexGuard guard(lock_);
  TRY(immutability.may_change());
  return reserve_locked(this, range);
}

bool Ioas::reserves_for_good() const {
  MutexGuard guard(lock_);
  return reserved_.owned_by(this);
}

// --- alignment --------------------------------------------------------------------------------------------------

// Einval: its smallest page is larger than ours.
Result<u64> Ioas::alignment_with_locked(const PagingDomain* added) const {
  u64 alignment = large_pages_ && pinning_accesses_ == 0 ? 1 : kPageSize;
  const auto count = [&](const PagingDomain& domain) {
    const u64 sizes = domain.geometry().leaf_sizes;
    const u64 smallest = sizes & (~sizes + 1);
    alignment = std::max(alignment, smallest);
    return smallest != 0 && smallest <= kPageSize;
  };
  for (const HwptPaging& hwpt : domains_) static_cast<void>(count(hwpt.domain()));
  if (added && !count(*added)) return fail(Errno::Einval);
  return alignment;
}

// Only when it rises: what is mapped conforms to what there is.
Result<void> Ioas::check_alignment_locked(u64 alignment) const {
  if (alignment <= alignment_) return {};
  for (const Area* area = areas_.first(); area; area = AreaMap::next(*area)) {
    if (((area->iova.value | area->length | area->source() % kPageSize) & (alignment - 1)) != 0) {
      return fail(Errno::Eaddrinuse);
    }
  }
  return {};
}

void Ioas::update_alignment_locked() {
  if (const Result<u64> alignment = alignment_with_locked(nullptr)) alignment_ = *alignment;
}

Result<void> Ioas::set_large_pages(bool on) {
  MutexGuard guard(lock_);
  TRY(immutability.may_change());
  if (on == large_pages_) return {};
  if (!on) {
    if (!domains_.empty() && !areas_.empty()) return fail(Errno::Einval);
    TRY(check_alignment_locked(kPageSize));
  }
  large_pages_ = on;
  update_alignment_locked();
  return {};
}

bool Ioas::large_pages() const {
  MutexGuard guard(lock_);
  return large_pages_;
}

}  // namespace perdure::iommufd
