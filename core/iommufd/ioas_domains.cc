// The domains of an IOAS: filled with its areas, or adopted with what they map.
#include "core/base/scope_guard.h"
#include "core/iommufd/ioas.h"

namespace perdure::iommufd {

Result<void> Ioas::reserve_aperture_locked(const HwptPaging& hwpt) {
  const pt::Geometry& geometry = hwpt.domain().geometry();
  if (geometry.iova_bits >= 64) return {};
  return reserve_locked(&hwpt, {u64{1} << geometry.iova_bits, ~u64{0}});
}

Result<void> Ioas::add_domain(Task& via, HwptPaging& hwpt) {
  PagingDomain& domain = hwpt.domain();
  MutexGuard guard(lock_);
  TRY(check_alignment_locked(TRY(alignment_with_locked(&domain))));
  TRY(reserve_aperture_locked(hwpt));
  ScopeGuard unreserve([&] {
    lock_.assert_held();
    reserved_.remove(&hwpt);
  });
  const bool first = domains_.empty();
  Vec<Run> runs(heap_);
  for (Area* area = areas_.first(); area; area = AreaMap::next(*area)) {
    const Result<void> filled = [&]() -> Result<void> {
      lock_.assert_held();
      TRY(pin_locked(via, *area));
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

Result<void> Ioas::read_dirty(Task& task, HwptPaging& hwpt, const DirtyRequest& request) const {
  MutexGuard guard(lock_);
  // Linux's walk ends at the first hole, too, and says nothing about it (uapi §2.7).
  const Area* area = areas_.find(request.iova, request.iova);
  if (!area) return {};
  while (const Area* next = AreaMap::next(*area)) {
    if (next->iova != area->last() + 1) break;
    area = next;
  }
  return DirtyReader(heap_, task, hwpt.domain(), request).read(area->last());
}

Result<void> Ioas::take_areas(std::span<const RecordedArea> recorded, const Payer& payer) {
  MutexGuard guard(lock_);
  PERDURE_ASSERT(areas_.empty());
  for (const RecordedArea& r : recorded) {
    const bool writable = includes(r.access, Access::Write);
    // The seals that its memfd came back with: preserving it again needs them again (R59).
    Ref<Pages> pages =
        TRY(heap_.make_ref<Pages>(heap_, r.memory, r.memory->seals(), r.offset, r.length, writable, payer));
    Owned<Area> area = TRY(heap_.make<Area>(r.iova, r.length, r.access, std::move(pages), 0));
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

Result<void> Ioas::adopt_domain(Task& via, HwptPaging& hwpt) {
  PagingDomain& domain = hwpt.domain();
  MutexGuard guard(lock_);
  TRY(reserve_aperture_locked(hwpt));
  ScopeGuard unreserve([&] {
    lock_.assert_held();
    reserved_.remove(&hwpt);
  });
  if (domain.attached_devices() != 0) {
    // Its devices may be bound later than areas are mapped; they reserve it as if they were bound now.
    TRY(reserve_locked(&hwpt, kMsiWindow));
  }
  const bool first = domains_.empty();
  ScopeGuard unpin([&] {
    lock_.assert_held();
    for (Area* area = areas_.first(); area && first; area = AreaMap::next(*area)) unpin_locked(*area);
  });
  Vec<Run> runs(heap_);
  u64 mapped = 0;
  for (Area* area = areas_.first(); area; area = AreaMap::next(*area)) {
    TRY(pin_locked(via, *area));
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

}  // namespace perdure::iommufd
