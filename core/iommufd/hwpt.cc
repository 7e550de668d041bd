#include "core/iommufd/hwpt.h"

#include "core/iommufd/ioas.h"

namespace perdure::iommufd {

HwptPaging::HwptPaging(Heap& heap, Ref<Ioas> ioas, Ref<PagingDomain> domain, bool automatic)
    : Object(kObjectType), ioas_(std::move(ioas)), domain_(std::move(domain)), automatic_(automatic), areas_(heap) {}

HwptPaging::HwptPaging(Ref<PagingDomain> domain, Vec<RecordedArea> areas)
    : Object(kObjectType), domain_(std::move(domain)), automatic_(false), areas_(std::move(areas)) {
  for (const RecordedArea& area : areas_) area.memory->pin();
}

HwptPaging::~HwptPaging() {
  if (lost) {
    // For ever: see the member.
    static_cast<void>(domain_.release());
    for (RecordedArea& area : areas_) static_cast<void>(area.memory.release());
    return;
  }
  for (const RecordedArea& area : areas_) area.memory->unpin();
}

}  // namespace perdure::iommufd
