#include "core/iommufd/hwpt_audit.h"

namespace perdure::iommufd {

Result<void> HwptAudit::expect(std::span<const RecordedArea> areas) {
  for (const RecordedArea& area : areas) {
    Iova at = area.iova;
    const auto add = [&](const FileExtent& extent) -> Result<void> {
      TRY(runs_.push_back({at, extent.base, extent.length, area.access}));
      at += extent.length;
      return {};
    };
    TRY(area.memory->extents(area.offset, area.length, add));
    total_ += area.length;
  }
  return {};
}

Result<void> HwptAudit::expect_same(const HwptAudit& other) {
  TRY(runs_.reserve(other.runs_.size()));
  for (const ExpectedRun& run : other.runs_) TRY(runs_.push_back(run));
  total_ = other.total_;
  return {};
}

bool HwptAudit::expected(const PagingDomain&, const pt::Leaf& leaf) {
  // Leaves come in ascending order; one that does not begins another audit.
  if (!ran_ || leaf.iova < end_) {
    ran_ = true;
    seen_ = 0;
    at_ = 0;
  }
  end_ = leaf.iova + leaf.length;
  while (at_ < runs_.size() && runs_[at_].iova + (runs_[at_].length - 1) < leaf.iova) ++at_;
  // A leaf never reaches beyond the stretch that it was made for.
  if (at_ == runs_.size()) return false;
  const ExpectedRun& run = runs_[at_];
  if (leaf.iova < run.iova || leaf.length > run.length - (leaf.iova - run.iova)) return false;
  if (leaf.phys != run.phys + (leaf.iova - run.iova) || leaf.access != run.access) return false;
  seen_ += leaf.length;
  return true;
}

}  // namespace perdure::iommufd
