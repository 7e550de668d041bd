#include "core/iommufd/reserved.h"

namespace perdure::iommufd {

Result<void> ReservedSet::add(const void* owner, IovaRange range) {
  usize at = 0;
  while (at < ranges_.size() && ranges_[at].range.first < range.first) ++at;
  return ranges_.insert_at(at, {range, owner});
}

void ReservedSet::remove(const void* owner) {
  for (usize i = ranges_.size(); i > 0; --i) {
    if (ranges_[i - 1].owner == owner) ranges_.erase_at(i - 1);
  }
}

bool ReservedSet::owned_by(const void* owner) const {
  for (const Entry& e : ranges_) {
    if (e.owner == owner) return true;
  }
  return false;
}

const IovaRange* ReservedSet::find(u64 first, u64 last) const {
  for (const Entry& e : ranges_) {
    if (e.range.first <= last && first <= e.range.last) return &e.range;
  }
  return nullptr;
}

Result<void> ReservedSet::each_gap(FunctionRef<Result<void>(IovaRange)> visit) const {
  u64 next = 0;
  for (const Entry& e : ranges_) {
    if (e.range.first > next) TRY(visit({next, e.range.first - 1}));
    if (e.range.last == ~u64{0}) return {};
    if (e.range.last + 1 > next) next = e.range.last + 1;
  }
  return visit({next, ~u64{0}});
}

}  // namespace perdure::iommufd
