// What a preserved HWPT should translate, by its areas, for the audit of its domain's leaves.
#pragma once
#include "core/iommu/leaf_check.h"
#include "core/iommufd/hwpt.h"

namespace perdure::iommufd {

class HwptAudit final : public LeafCheck {
 public:
  explicit HwptAudit(Heap& heap) : runs_(heap) {}

  // Ascending areas, whose memory gets its addresses looked up now: pinned, they do not change. Einval, Enomem.
  Result<void> expect(std::span<const RecordedArea> areas);
  Result<void> expect_same(const HwptAudit& other);

  bool expected(const PagingDomain& domain, const pt::Leaf& leaf) override;
  // The last audit saw a leaf for every page. False, too, when none ran since the HWPT was preserved.
  bool complete() const { return seen_ == total_; }

  struct ExpectedRun {
    Iova iova;
    Phys phys;
    u64 length = 0;
    Access access = Access::ReadWrite;
  };
  // Where the areas lead, by ascending address.
  std::span<const ExpectedRun> runs() const { return runs_.span(); }

 private:
  Vec<ExpectedRun> runs_;
  u64 total_ = 0;
  u64 seen_ = 0;
  usize at_ = 0;  // the run that the last leaf lay in
  Iova end_;      // of the last leaf
  bool ran_ = false;
};

}  // namespace perdure::iommufd
