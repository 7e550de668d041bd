#include "core/iommufd/ioas.h"

#include <algorithm>

#include "core/base/scope_guard.h"

namespace perdure::iommufd {

Ioas::~Ioas() {
  AreaList all;
  {
    MutexGuard guard(lock_);
    PERDURE_ASSERT(domains_.empty() && accesses_.empty());
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

// --- mapping ----------------------------------------------------------------------------------------------------

bool undo_map(PagingDomain& domain, Iova iova, u64 length) {
  return length == 0 || domain.unmap(iova, length).has_value();
}

Result<void> Ioas::pin_locked(Task& via, Area& area) {
  if (area.pinned) return {};
  TRY(area.pages->pin(via, area.offset, area.length));
  area.pinned = true;
  return {};
}

void Ioas::unpin_locked(Area& area) {
  if (!area.pinned || area.lost) return;
  area.pages->unpin(area.offset, area.length);
  area.pinned = false;
}

// Collected before anything is mapped: the memory's lock ranks below the domain's.
Result<void> Ioas::runs_locked(const Area& area, Vec<Run>& runs) const {
  u64 done = 0;
  const auto take = [&](const FileExtent& extent) -> Result<void> {
    TRY(runs.push_back({area.iova + done, extent.base, extent.length}));
    done += extent.length;
    return {};
  };
  TRY(area.pages->each_piece(area.offset, area.length, [&](const Pages::Piece& piece) {
    return piece.memory ? piece.memory->extents(piece.offset, piece.length, take)
                        : take({piece.offset, Phys(piece.offset), piece.length});
  }));
  PERDURE_ASSERT(done == area.length);
  return {};
}

Result<void> Ioas::fill_locked(PagingDomain& domain, Area& area, std::span<const Run> runs) {
  if (area.translated() == 0) return {};
  u64 done = 0;
  for (const Run& run : runs) {
    const u64 step = large_pages_ ? run.length : kPageSize;
    for (u64 at = 0; at < run.length; at += step) {
      const Result<void> mapped = domain.map(run.iova + at, run.phys + at, step, area.access);
      if (!mapped) {
        if (!undo_map(domain, area.iova, done)) area.lost = true;
        return mapped;
      }
      done += step;
    }
  }
  return {};
}

Result<void> Ioas::enter_locked(Task& via, Area& area, Vec<Run>& runs) {
  if (domains_.empty()) return {};
  const Result<void> entered = [&]() -> Result<void> {
    lock_.assert_held();
    TRY(pin_locked(via, area));
    runs.clear();
    TRY(runs_locked(area, runs));
    for (HwptPaging& hwpt : domains_) {
      const Result<void> filled = fill_locked(hwpt.domain(), area, runs.span());
      if (filled) continue;
      for (HwptPaging& earlier : domains_) {
        if (&earlier == &hwpt) break;
        if (!undo_map(earlier.domain(), area.iova, area.length)) area.lost = true;
      }
      return filled;
    }
    return {};
  }();
  if (!entered) unpin_locked(area);
  return entered;
}

void Ioas::leave_locked(Area& area) {
  for (HwptPaging& hwpt : domains_) {
    // Less than was mapped: an adopted table is damaged, and what it still leads to nobody knows.
    const Result<u64> bytes = hwpt.domain().unmap(area.iova, area.length);
    if (!bytes || *bytes != area.translated()) area.lost = true;
  }
  areas_.remove(area);
  unpin_locked(area);
}

Result<Iova> Ioas::map(Task& via, std::span<const Slice> slices, const Iova* fixed, Access access) {
  AreaList fresh;
  AreaList gone;
  // Runs with no lock held: may be the last use of the memory.
  ScopeGuard release([&] {
    release_areas(heap_, fresh);
    release_areas(heap_, gone);
  });
  u64 length = 0;
  for (const Slice& slice : slices) {
    Owned<Area> area = TRY(heap_.make<Area>(Iova(0), slice.length, access, slice.pages, slice.offset));
    fresh.push_back(*area.release());
    length += slice.length;
  }
  Vec<Run> runs(heap_);
  MutexGuard guard(lock_);
  TRY(immutability.may_change());
  if (length == 0 || length % alignment_ != 0) return fail(Errno::Einval);
  if (fixed) TRY(check_iova_locked(fixed->value, length));
  const Iova start = fixed ? *fixed : Iova(TRY(choose_iova_locked(fresh.front().source(), length)));
  // Judged whole before anything is mapped.
  Iova at = start;
  for (Area& area : fresh) {
    if (includes(access, Access::Write) && !area.pages->writable()) return fail(Errno::Eperm);
    if (area.source() % kPageSize % alignment_ != 0) return fail(Errno::Einval);
    area.iova = at;
    at += area.length;
  }
  Area* entered = nullptr;  // the last that did
  while (!fresh.empty()) {
    Area& area = fresh.front();
    const Result<void> done = enter_locked(via, area, runs);
    if (!done) {
      while (Area* const back = entered) {
        entered = back->iova == start ? nullptr : areas_.find(back->iova - 1, back->iova - 1);
        leave_locked(*back);
        gone.push_back(*back);
      }
      return fail(done.error());
    }
    fresh.pop_front();
    areas_.insert(area);
    entered = &area;
  }
  return start;
}

Result<void> Ioas::slices_of(u64 first, u64 length, Vec<Slice>& slices) const {
  if (length == 0) return fail(Errno::Einval);
  if (range_overflows(first, length)) return fail(Errno::Eoverflow);
  const u64 last = first + (length - 1);
  MutexGuard guard(lock_);
  const Area* area = areas_.find(Iova(first), Iova(first));
  for (u64 at = first;; area = AreaMap::next(*area)) {
    if (!area || area->iova.value > at) return fail(Errno::Enoent);
    const u64 until = std::min(area->last().value, last);
    TRY(slices.push_back({area->pages, area->offset + (at - area->iova.value), until - at + 1}));
    if (until == last) return {};
    at = until + 1;
  }
}

Result<void> Ioas::cut(Iova border) {
  MutexGuard guard(lock_);
  Area* const area = areas_.find(border, border);
  if (!area || area->iova == border) return {};
  TRY(immutability.may_change());
  if (border.value % alignment_ != 0) return fail(Errno::Einval);
  if (large_pages_ && !domains_.empty()) return fail(Errno::Einval);
  if (accessed_locked(*area)) return fail(Errno::Einval);
  const u64 lower = border - area->iova;
  Owned<Area> upper =
      TRY(heap_.make<Area>(border, area->length - lower, area->access, area->pages, area->offset + lower));
  if (area->pinned) TRY(area->pages->cut(area->offset + lower));
  upper->pinned = area->pinned;
  upper->lost = area->lost;
  area->length = lower;
  areas_.insert(*upper.release());
  return {};
}

Result<u64> Ioas::unmap(Iova first, Iova last, AreaList& removed) {
  MutexGuard guard(lock_);
  TRY(immutability.may_change());
  u64 unmapped = 0;
  bool confirmed = true;
  while (Area* area = areas_.find(first, last)) {
    if (area->iova < first || area->last() > last) return fail(Errno::Enoent);
    let_go_locked(*area);
    leave_locked(*area);
    if (area->lost) confirmed = false;
    removed.push_back(*area);
    unmapped += area->length;
  }
  if (!confirmed) return fail(Errno::Eio);
  if (unmapped == 0 && !(first.value == 0 && last.value == ~u64{0})) return fail(Errno::Enoent);
  return unmapped;
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
    const Pages& pages = *area->pages;
    if (pages.kind() != Pages::Kind::File || !pages.memory()) return fail(Errno::Einval);
    if ((pages.seals() & seal::kPreservable) != seal::kPreservable) return fail(Errno::Einval);
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
    const u64 until = std::min(area->last().value, end);
    const auto same = [&](const Pages::Piece& piece) -> Result<void> {
      const u64 want = recorded.offset + (at - recorded.iova.value);
      if (!piece.memory || piece.memory->id() != recorded.memory->id() || piece.offset != want)
        return fail(Errno::Einval);
      at += piece.length;
      return {};
    };
    // Efault: of a process, and not pinned.
    if (!area->pages->each_piece(area->offset + (at - area->iova.value), until - at + 1, same)) return false;
    if (until == end) return true;
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
