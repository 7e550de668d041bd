#include "core/iommufd/ioas_access.h"

#include <algorithm>

#include "core/base/scope_guard.h"
#include "core/iommufd/ioas.h"

namespace perdure::iommufd {

IoasAccess::IoasAccess(Heap& heap, bool pins) : Object(kObjectType), pins_(pins), items_(heap) {}

IoasAccess::~IoasAccess() {
  PERDURE_ASSERT(!ioas && items_.empty());
}

void IoasAccess::release(Vec<Pin>& pins) {
  for (const Pin& pin : pins) pin.pages->unpin(pin.first, pin.length);
  pins.clear();
}

bool IoasAccess::overlaps(u64 first, u64 last) const {
  for (const Item& item : items_) {
    if (item.first <= last && first <= item.last) return true;
  }
  return false;
}

void IoasAccess::drop_overlapping(u64 first, u64 last) {
  for (usize i = items_.size(); i > 0; --i) {
    Item& item = items_[i - 1];
    if (item.first > last || first > item.last) continue;
    release(item.pins);
    items_.erase_at(i - 1);
  }
}

Result<void> Ioas::admit_access(const IoasAccess& access) {
  if (!access.pins()) return {};
  MutexGuard guard(lock_);
  TRY(check_alignment_locked(kPageSize));
  ++pinning_accesses_;
  update_alignment_locked();
  return {};
}

void Ioas::join_access(IoasAccess& access) {
  MutexGuard guard(lock_);
  accesses_.push_back(access);
}

void Ioas::leave_access(IoasAccess& access) {
  MutexGuard guard(lock_);
  access.drop_overlapping(0, ~u64{0});
  accesses_.remove(access);
  if (!access.pins()) return;
  --pinning_accesses_;
  update_alignment_locked();
}

// Linux asks whoever pins to let go, again and again, until it gives up (Edeadlock). Nobody here has a reason to
// refuse.
void Ioas::let_go_locked(const Area& area) {
  for (IoasAccess& access : accesses_) access.drop_overlapping(area.iova.value, area.last().value);
}

bool Ioas::accessed_locked(const Area& area) const {
  for (const IoasAccess& access : accesses_) {
    if (access.overlaps(area.iova.value, area.last().value)) return true;
  }
  return false;
}

Result<void> Ioas::each_part_locked(u64 first, u64 length, Access wanted,
                                    FunctionRef<Result<void>(const Area&, u64, u64)> visit) const {
  if (length == 0) return fail(Errno::Einval);
  if (range_overflows(first, length)) return fail(Errno::Eoverflow);
  const u64 last = first + (length - 1);
  const Area* area = areas_.find(Iova(first), Iova(first));
  for (u64 at = first;; area = AreaMap::next(*area)) {
    if (!area || area->iova.value > at) return fail(Errno::Enoent);
    if (!includes(area->access, wanted)) return fail(Errno::Eperm);
    const u64 until = std::min(area->last().value, last);
    TRY(visit(*area, area->offset + (at - area->iova.value), until - at + 1));
    if (until == last) return {};
    at = until + 1;
  }
}

Result<u32> Ioas::pin(Task& via, IoasAccess& access, u64 iova, u64 length, Access wanted) {
  Vec<IoasAccess::Pin> pins(heap_);
  MutexGuard guard(lock_);
  ScopeGuard undo([&] {
    lock_.assert_held();
    IoasAccess::release(pins);
  });
  TRY(each_part_locked(iova, length, wanted, [&](const Area& area, u64 offset, u64 bytes) -> Result<void> {
    lock_.assert_held();
    if (area.pages->kind() == Pages::Kind::Registers) return fail(Errno::Efault);  // no memory
    TRY(pins.reserve(pins.size() + 1));
    // Areas are of whole pages while somebody may pin. What is asked for may end anywhere, but not begin there.
    const u64 whole = align_up(bytes, kPageSize);
    TRY(area.pages->pin(via, offset, whole));
    return pins.push_back({area.pages, offset, whole});
  }));
  TRY(access.items_.reserve(access.items_.size() + 1));
  undo.dismiss();
  const u32 number = access.next_number_++;
  static_cast<void>(access.items_.push_back({number, iova, iova + (length - 1), std::move(pins)}));  // reserved
  return number;
}

Result<void> Ioas::unpin(IoasAccess& access, u32 number) {
  MutexGuard guard(lock_);
  for (usize i = 0; i < access.items_.size(); ++i) {
    if (access.items_[i].number != number) continue;
    IoasAccess::release(access.items_[i].pins);
    access.items_.erase_at(i);
    return {};
  }
  return fail(Errno::Enoent);
}

Result<void> Ioas::read(Task& via, u64 iova, std::span<std::byte> to) const {
  MutexGuard guard(lock_);
  return each_part_locked(iova, to.size(), Access::Read, [&](const Area& area, u64 offset, u64 bytes) -> Result<void> {
    const std::span<std::byte> part = to.first(bytes);
    to = to.subspan(bytes);
    return area.pages->read(via, offset, part);
  });
}

Result<void> Ioas::write(Task& via, u64 iova, std::span<const std::byte> from) {
  MutexGuard guard(lock_);
  return each_part_locked(iova, from.size(), Access::Write,
                          [&](const Area& area, u64 offset, u64 bytes) -> Result<void> {
                            const std::span<const std::byte> part = from.first(bytes);
                            from = from.subspan(bytes);
                            return area.pages->write(via, offset, part);
                          });
}

}  // namespace perdure::iommufd
