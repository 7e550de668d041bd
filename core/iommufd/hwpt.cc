#include "core/iommufd/hwpt.h"

#include "core/iommufd/ioas.h"

namespace perdure::iommufd {

HwptPaging::HwptPaging(Heap& heap, Ref<Ioas> ioas, Ref<PagingDomain> domain, bool automatic)
    : Object(kObjectType), ioas_(std::move(ioas)), domain_(std::move(domain)), automatic_(automatic), areas_(heap) {}

HwptPaging::HwptPaging(Ref<PagingDomain> domain, Vec<RecordedArea> areas, u32 recorded_ioas)
    : Object(kObjectType),
      domain_(std::move(domain)),
      automatic_(false),
      areas_(std::move(areas)),
      recorded_ioas_(recorded_ioas) {
  for (const RecordedArea& area : areas_) area.memory->pin();
}

HwptPaging::~HwptPaging() {
  // Lost: never unpinned, so SharedMemory keeps its addresses for good; the domain keeps its tables.
  if (lost) return;
  for (const RecordedArea& area : areas_) area.memory->unpin();
}

}  // namespace perdure::iommufd
