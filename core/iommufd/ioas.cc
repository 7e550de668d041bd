#include "core/iommufd/ioas.h"

#include <algorithm>
#include <bit>

#include "core/base/scope_guard.h"

namespace perdure::iommufd {

namespace {

constexpr u64 kHighest = ~u64{0};

// Unmaps what was mapped a moment ago. False: a unit did not confirm.
bool undo_map(PagingDomain& domain, Iova iova, u64 length) {
  return length == 0 || domain.unmap(iova, length).has_value();
}

}  // namespace

Ioas::~Ioas() {
  AreaList all;
  {
    MutexGuard guard(lock_);
    PERDURE_ASSERT(domains_.empty());
    while (Area* area = areas_.first()) {
      areas_.remove(*area);
      all.push_back(*area);
    }
  }
  release_areas(heap_, all);
}

void Ioas::release_areas(Heap& heap, AreaList& removed) {
  // What is lost was never unpinned: SharedMemory then keeps its addresses for good.
  while (Area* area = removed.pop_front()) Owned<Area>(heap, area).reset();
}

// --- addresses ------------------------------------------------------------------------------------------------

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

// At the wanted alignment: that of the source, so that large pages can be used, but not beyond one large page (uapi
// §2.4).
Result<u64> Ioas::choose_iova_locked(u64 source_start, u64 length) const {
  if (length >= kHighest / 2) return fail(Errno::Eoverflow);
  u64 alignment = std::bit_ceil(length);
  if (source_start != 0) alignment = std::min(alignment, source_start & (~source_start + 1));
  alignment = std::min(alignment, kHugePageSize);
  if (alignment < alignment_) return fail(Errno::Einval);
  const u64 low_bits = source_start % kPageSize;
  if (allowed_.empty()) return place_locked({kPageSize, kHighest - kPageSize}, length, alignment, low_bits);
  for (const IovaRange& range : allowed_) {
    const Result<u64> at = place_locked(range, length, alignment, low_bits);
    if (at) return at;
  }
  return fail(Errno::Enospc);
}

Result<u64> Ioas::place_locked(IovaRange in, u64 length, u64 alignment, u64 low_bits) const {
  const Area* area = areas_.lower_bound(Iova(in.first));
  for (u64 at = std::max<u64>(in.first, 1); at <= in.last;) {
    while (area && area->last().value < at) area = AreaMap::next(*area);
    const IovaRange* reserved = reserved_.find(at, in.last);
    // Ranges are found by their start, so one that begins below may hide one that reaches further: taken in turns.
    u64 used_until = 0;
    if (area && area->iova.value <= at) used_until = area->last().value;
    if (reserved && reserved->first <= at) used_until = std::max(used_until, reserved->last);
    if (used_until != 0) {
      if (used_until >= in.last) break;
      at = used_until + 1;
      continue;
    }
    u64 hole_last = in.last;
    if (area) hole_last = std::min(hole_last, area->iova.value - 1);
    if (reserved) hole_last = std::min(hole_last, reserved->first - 1);
    // `start < last` is Linux's test, too: a hole of one byte is never used.
    const u64 start = align_up(at, alignment) | low_bits;
    if (start >= at && start < hole_last && hole_last - start >= length - 1) return start;
    if (hole_last >= in.last) break;
    at = hole_last + 1;
  }
  return fail(Errno::Enospc);
}

// That it can be reserved.
Result<void> Ioas::check_free_locked(IovaRange range) const {
  if (areas_.find(Iova(range.first), Iova(range.last))) return fail(Errno::Eaddrinuse);
  for (const IovaRange& allowed : allowed_) {
    if (ranges_meet(allowed, range)) return fail(Errno::Eaddrinuse);
  }
  return {};
}

Result<void> Ioas::allow(Vec<IovaRange> ranges) {
  MutexGuard guard(lock_);
  TRY(immutability.may_change());
  for (const IovaRange& range : ranges) {
    if (reserved_.find(range.first, range.last)) return fail(Errno::Eaddrinuse);
  }
  allowed_ = std::move(ranges);
  return {};
}

bool Ioas::large_pages() const {
  MutexGuard guard(lock_);
  return large_pages_;
}

Result<void> Ioas::check_aligned_locked() const {
  for (const Area* area = areas_.first(); area; area = AreaMap::next(*area)) {
    if ((area->iova.value | area->length | area->source.start) % kPageSize != 0) return fail(Errno::Eaddrinuse);
  }
  return {};
}

Result<void> Ioas::set_large_pages(bool on) {
  MutexGuard guard(lock_);
  TRY(immutability.may_change());
  if (!on && large_pages_) {
    if (!domains_.empty() && !areas_.empty()) return fail(Errno::Einval);
    TRY(check_aligned_locked());
  }
  large_pages_ = on;
  update_alignment_locked();
  return {};
}

void Ioas::update_alignment_locked() {
  alignment_ = domains_.empty() && large_pages_ ? 1 : kPageSize;
}

// --- pinning and filling ----------------------------------------------------------------------------------------

Result<void> Ioas::pin_locked(Area& area) {
  if (area.pinned) return {};
  if (area.source.pieces.empty()) return fail(area.source.unpinnable);
  for (const Piece& piece : area.source.pieces) piece.memory->pin();
  area.pinned = true;
  return {};
}

void Ioas::unpin_locked(Area& area) {
  if (!area.pinned || area.lost) return;
  for (const Piece& piece : area.source.pieces) piece.memory->unpin();
  area.pinned = false;
}

// Collected before anything is mapped: the memory's lock ranks below the domain's.
Result<void> Ioas::runs_locked(const Area& area, Vec<Run>& runs) const {
  u64 done = 0;
  for (const Piece& piece : area.source.pieces) {
    if ((piece.offset | piece.length) % kPageSize != 0) return fail(Errno::Einval);
    const auto take = [&](const FileExtent& extent) -> Result<void> {
      TRY(runs.push_back({area.iova + done, extent.base, extent.length}));
      done += extent.length;
      return {};
    };
    TRY(piece.memory->extents(piece.offset, piece.length, take));
  }
  PERDURE_ASSERT(done == area.length);
  return {};
}

Result<void> Ioas::fill_locked(PagingDomain& domain, Area& area, std::span<const Run> runs) {
  u64 done = 0;
  for (const Run& run : runs) {
    const u64 step = large_pages_ ? run.length : kPageSize;
    for (u64 at = 0; at < run.length; at += step, done += step) {
      const Result<void> mapped = domain.map(run.iova + at, run.phys + at, step, area.access);
      if (mapped) continue;
      if (!undo_map(domain, area.iova, done)) area.lost = true;
      return mapped;
    }
  }
  return {};
}

Result<Iova> Ioas::map(Source source, u64 length, const Iova* fixed, Access access) {
  AreaList fresh;
  // Runs with no lock held: may be the last use of the memory.
  ScopeGuard release([&] { release_areas(heap_, fresh); });
  Owned<Area> area = TRY(heap_.make<Area>(Iova(0), length, access, std::move(source)));
  fresh.push_back(*area.release());
  return map(fresh, fixed);
}

Result<Iova> Ioas::map(AreaList& fresh, const Iova* fixed) {
  MutexGuard guard(lock_);
  TRY(immutability.may_change());
  u64 length = 0;
  for (const Area& area : fresh) length += area.length;
  if (length == 0 || length % alignment_ != 0) return fail(Errno::Einval);
  if (fixed) TRY(check_iova_locked(fixed->value, length));
  const Iova start = fixed ? *fixed : Iova(TRY(choose_iova_locked(fresh.front().source.start, length)));
  Iova at = start;
  for (Area& area : fresh) {
    if (includes(area.access, Access::Write) && !area.source.writable) return fail(Errno::Eperm);
    if (at.value % alignment_ != 0 || area.source.start % kPageSize % alignment_ != 0) return fail(Errno::Einval);
    area.iova = at;
    at = at + area.length;
  }
  if (!domains_.empty()) TRY(fill_all_locked(fresh));
  while (Area* area = fresh.pop_front()) areas_.insert(*area);
  return start;
}

// Every area in every domain, or none in any.
Result<void> Ioas::fill_all_locked(AreaList& fresh) {
  Vec<Run> runs(heap_);
  for (Area& area : fresh) {
    HwptPaging* stopped_at = nullptr;
    const Result<void> filled = [&]() -> Result<void> {
      lock_.assert_held();
      TRY(pin_locked(area));
      runs.clear();
      TRY(runs_locked(area, runs));
      for (HwptPaging& hwpt : domains_) {
        stopped_at = &hwpt;
        TRY(fill_locked(hwpt.domain(), area, runs.span()));
      }
      return {};
    }();
    if (filled) continue;
    for (Area& back : fresh) {
      const bool last = &back == &area;
      for (HwptPaging& hwpt : domains_) {
        if (last && (!stopped_at || &hwpt == stopped_at)) break;
        if (!undo_map(hwpt.domain(), back.iova, back.length)) back.lost = true;
      }
      unpin_locked(back);
      if (last) break;
    }
    return filled;
  }
  return {};
}

Result<void> Ioas::copy(Iova from, u64 length, Access access, AreaList& copies) const {
  MutexGuard guard(lock_);
  u64 done = 0;
  const Area* area = areas_.find(from, from);
  while (area && area->iova <= from + done) {
    const u64 into = (from + done) - area->iova;
    const u64 bytes = std::min(area->length - into, length - done);
    Source part = TRY(area->source.slice(heap_, into, bytes));
    Owned<Area> fresh = TRY(heap_.make<Area>(Iova(0), bytes, access, std::move(part)));
    copies.push_back(*fresh.release());
    done += bytes;
    if (done == length) return {};
    area = AreaMap::next(*area);
  }
  return fail(Errno::Enoent);
}

Result<void> Ioas::cut(Iova at) {
  MutexGuard guard(lock_);
  TRY(immutability.may_change());
  Area* const area = at.value == 0 ? nullptr : areas_.find(at, at);
  if (!area || area->iova == at) return {};
  if (at.value % alignment_ != 0 || (large_pages_ && !domains_.empty())) return fail(Errno::Einval);
  const u64 low = at - area->iova;
  Source front = TRY(area->source.slice(heap_, 0, low));
  Source rest = TRY(area->source.slice(heap_, low, area->length - low));
  Owned<Area> above = TRY(heap_.make<Area>(at, area->length - low, area->access, std::move(rest)));
  above->lost = area->lost;
  // Memory that both reach is pinned for each; its first pin goes last.
  if (area->pinned) {
    for (const Piece& piece : front.pieces) piece.memory->pin();
    for (const Piece& piece : above->source.pieces) piece.memory->pin();
    for (const Piece& piece : area->source.pieces) piece.memory->unpin();
    above->pinned = true;
  }
  area->source = std::move(front);
  area->length = low;
  areas_.insert(*above.release());
  return {};
}

Result<u64> Ioas::unmap(Iova first, Iova last, AreaList& removed) {
  MutexGuard guard(lock_);
  TRY(immutability.may_change());
  u64 unmapped = 0;
  bool confirmed = true;
  while (Area* area = areas_.find(first, last)) {
    if (area->iova < first || area->last() > last) return fail(Errno::Enoent);
    for (HwptPaging& hwpt : domains_) {
      // Less than was mapped: an adopted table is damaged, and what it still leads to nobody knows.
      const Result<u64> bytes = hwpt.domain().unmap(area->iova, area->length);
      if (!bytes || *bytes != area->length) area->lost = true;
    }
    if (area->lost) confirmed = false;
    areas_.remove(*area);
    unpin_locked(*area);
    removed.push_back(*area);
    unmapped += area->length;
  }
  if (!confirmed) return fail(Errno::Eio);
  if (unmapped == 0 && !(first.value == 0 && last.value == kHighest)) return fail(Errno::Enoent);
  return unmapped;
}

// --- domains ----------------------------------------------------------------------------------------------------

Result<void> Ioas::reserve_aperture_locked(const HwptPaging& hwpt) {
  const pt::Geometry& geometry = hwpt.domain().geometry();
  if (geometry.iova_bits >= 64) return {};
  const u64 end = u64{1} << geometry.iova_bits;
  TRY(check_free_locked({end, kHighest}));
  return reserved_.add(&hwpt, {end, kHighest});
}

Result<void> Ioas::add_domain(Task&, HwptPaging& hwpt) {
  PagingDomain& domain = hwpt.domain();
  const pt::Geometry& geometry = domain.geometry();
  MutexGuard guard(lock_);
  const u64 page = geometry.leaf_sizes & (~geometry.leaf_sizes + 1);
  if (page == 0 || page > kPageSize) return fail(Errno::Einval);

  TRY(reserve_aperture_locked(hwpt));
  ScopeGuard unreserve([&] {
    lock_.assert_held();
    reserved_.remove(&hwpt);
  });
  const bool first = domains_.empty();
  if (first) TRY(check_aligned_locked());
  Vec<Run> runs(heap_);
  for (Area* area = areas_.first(); area; area = AreaMap::next(*area)) {
    const Result<void> filled = [&]() -> Result<void> {
      lock_.assert_held();
      TRY(pin_locked(*area));
      runs.clear();
      TRY(runs_locked(*area, runs));
      return fill_locked(domain, *area, runs.span());
    }();
    if (filled) continue;
    // A device may be attached already (automatic domains), so what was mapped is unmapped, not just forgotten.
    for (Area* back = areas_.first(); back; back = AreaMap::next(*back)) {
      if (back != area && !undo_map(domain, back->iova, back->length)) back->lost = true;
      if (first) unpin_locked(*back);
      if (back == area) break;
    }
    return filled;
  }
  domains_.push_back(hwpt);
  update_alignment_locked();
  unreserve.dismiss();
  return {};
}

Result<void> Ioas::take_areas(std::span<const RecordedArea> recorded) {
  MutexGuard guard(lock_);
  PERDURE_ASSERT(areas_.empty());
  for (const RecordedArea& r : recorded) {
    Source source(heap_);
    source.kind = Source::Kind::File;
    source.start = r.offset;
    // Those that its memfd came back with: preserving it again needs them again (R59).
    source.seals = r.memory->seals();
    source.writable = includes(r.access, Access::Write);
    TRY(source.pieces.push_back({r.memory, r.offset, r.length}));
    Owned<Area> area = TRY(heap_.make<Area>(r.iova, r.length, r.access, std::move(source)));
    areas_.insert(*area.release());
  }
  return {};
}

// Which memory lies behind a record is said by a token (and, from version 2 on, the memory's identity), what hardware
// reaches by the table: a token that leads to other memory shows at the first page. That nothing in between differs
// was seen by the former kernel's audit, and is looked at again by the next one of this kernel.
Result<void> Ioas::check_ends_locked(const PagingDomain& domain, const Area& area, std::span<const Run> runs) const {
  for (const Run& run : runs) {
    for (const u64 at : {u64{0}, run.length - kPageSize}) {
      const Result<pt::Leaf> leaf = domain.leaf_at(run.iova + at);
      if (!leaf || leaf->access != area.access || leaf->phys + (run.iova + at - leaf->iova) != run.phys + at) {
        return fail(Errno::Eproto);
      }
    }
  }
  return {};
}

Result<void> Ioas::adopt_domain(HwptPaging& hwpt) {
  PagingDomain& domain = hwpt.domain();
  MutexGuard guard(lock_);
  TRY(reserve_aperture_locked(hwpt));
  ScopeGuard unreserve([&] {
    lock_.assert_held();
    reserved_.remove(&hwpt);
  });
  if (domain.attached_devices() != 0) {
    // Its devices may be bound later than areas are mapped; they reserve it as if they were bound now.
    TRY(check_free_locked(kMsiWindow));
    TRY(reserved_.add(&hwpt, kMsiWindow));
  }
  const bool first = domains_.empty();
  ScopeGuard unpin([&] {
    lock_.assert_held();
    for (Area* area = areas_.first(); area && first; area = AreaMap::next(*area)) unpin_locked(*area);
  });
  Vec<Run> runs(heap_);
  u64 mapped = 0;
  for (Area* area = areas_.first(); area; area = AreaMap::next(*area)) {
    TRY(pin_locked(*area));
    runs.clear();
    TRY(runs_locked(*area, runs));
    TRY(check_ends_locked(domain, *area, runs.span()));
    mapped += area->length;
  }
  TRY(domain.adopt(mapped));
  domains_.push_back(hwpt);
  update_alignment_locked();
  unpin.dismiss();
  unreserve.dismiss();
  return {};
}

void Ioas::remove_domain(HwptPaging& hwpt) {
  MutexGuard guard(lock_);
  domains_.remove(hwpt);
  reserved_.remove(&hwpt);
  for (Area* area = areas_.first(); area; area = AreaMap::next(*area)) {
    if (hwpt.lost) area->lost = true;
    if (domains_.empty()) unpin_locked(*area);
  }
  update_alignment_locked();
}

Result<void> Ioas::reserve(const void* owner, IovaRange range) {
  MutexGuard guard(lock_);
  TRY(check_free_locked(range));
  return reserved_.add(owner, range);
}

void Ioas::unreserve(const void* owner) {
  MutexGuard guard(lock_);
  reserved_.remove(owner);
}

// --- live update ------------------------------------------------------------------------------------------------

void Ioas::hold_immutable() {
  MutexGuard guard(lock_);
  immutability.hold();
}

void Ioas::release_immutable() {
  MutexGuard guard(lock_);
  immutability.release();
}

Result<void> Ioas::check_preservable() const {
  MutexGuard guard(lock_);
  for (const Area* area = areas_.first(); area; area = AreaMap::next(*area)) {
    if (area->source.kind != Source::Kind::File || area->source.pieces.empty()) return fail(Errno::Einval);
    if ((area->source.seals & seal::kPreservable) != seal::kPreservable) return fail(Errno::Einval);
  }
  return {};
}

Result<void> Ioas::each_area(FunctionRef<Result<void>(const Area&)> visit) const {
  MutexGuard guard(lock_);
  for (const Area* area = areas_.first(); area; area = AreaMap::next(*area)) TRY(visit(*area));
  return {};
}

bool Ioas::equal_locked(const RecordedArea& recorded) const {
  const u64 end = recorded.iova.value + (recorded.length - 1);
  u64 at = recorded.iova.value;
  for (const Area* area = areas_.lower_bound(recorded.iova); area; area = AreaMap::next(*area)) {
    if (area->iova.value > at || area->access != recorded.access) return false;
    // The pieces of one area, those that matter: [at, end] of it.
    u64 piece_at = area->iova.value;
    for (const Piece& piece : area->source.pieces) {
      const u64 piece_last = piece_at + (piece.length - 1);
      if (piece_last >= at && piece_at <= end) {
        const u64 want = recorded.offset + (at - recorded.iova.value);
        if (piece.memory->id() != recorded.memory->id() || piece.offset + (at - piece_at) != want) return false;
        if (piece_last >= end) return true;
        at = piece_last + 1;
      }
      piece_at = piece_last + 1;
    }
    if (at <= area->last().value) return false;  // nothing behind (part of) the area
  }
  return false;
}

Result<void> Ioas::with_equal_areas(std::span<const RecordedArea> recorded, FunctionRef<Result<void>()> then) const {
  MutexGuard guard(lock_);
  for (const RecordedArea& area : recorded) {
    if (!equal_locked(area)) return fail(Errno::Einval);
  }
  return then();
}

}  // namespace perdure::iommufd
