// A paging hardware page table object: a domain that translates an IOAS, or one that a former kernel left.
#pragma once
#include "core/iommu/iommu.h"
#include "core/iommufd/area.h"
#include "core/iommufd/object.h"

namespace perdure::iommufd {

class Ioas;

// What a restored domain translates: the record of an area, its memory found again.
struct RecordedArea {
  Iova iova;
  u64 length = 0;
  Access access = Access::ReadWrite;
  Ref<SharedMemory> memory;
  u64 offset = 0;
};

// Everything but what the constructor sets is guarded by the context's lock.
class HwptPaging final : public Object {
 public:
  static constexpr ObjectType kObjectType = ObjectType::HwptPaging;

  HwptPaging(Heap& heap, Ref<Ioas> ioas, Ref<PagingDomain> domain, bool automatic);
  // Around a former kernel's domain: no IOAS, nothing can be mapped or unmapped, no further device attached. Its memory
  // stays pinned for as long as it lives.
  // `recorded_ioas`: the number of the IOAS that it had, in the context's record.
  HwptPaging(Ref<PagingDomain> domain, Vec<RecordedArea> areas, u32 recorded_ioas);
  ~HwptPaging() override;

  Ioas* ioas() const { return ioas_.get(); }
  PagingDomain& domain() const { return *domain_; }
  const Ref<PagingDomain>& domain_ref() const { return domain_; }
  bool automatic() const { return automatic_; }
  bool restored() const { return !ioas_; }
  std::span<const RecordedArea> recorded_areas() const { return areas_.span(); }
  u32 recorded_ioas() const { return recorded_ioas_; }

  bool marked = false;
  u64 token = 0;  // when marked
  // Hardware may still walk it (its last detach did not complete): neither its tables nor what it maps may be freed.
  bool lost = false;

  ListNode ioas_node;       // IOAS's domains; guarded by the IOAS's lock
  ListNode automatic_node;  // context's automatic HWPTs

 private:
  Ref<Ioas> ioas_;
  Ref<PagingDomain> domain_;
  const bool automatic_;
  Vec<RecordedArea> areas_;
  const u32 recorded_ioas_ = 0;
};

}  // namespace perdure::iommufd
