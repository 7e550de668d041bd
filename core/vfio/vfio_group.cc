#include "core/vfio/vfio_group.h"

#include "core/vfio/type1_container.h"

namespace perdure::vfio {

VfioGroup::VfioGroup(Group& of) : iommu_group(of) {}

VfioGroup::~VfioGroup() = default;

Result<void> VfioGroup::block() {
  MutexGuard guard(lock);
  if (opened) return fail(Errno::Ebusy);
  ++bound_cdevs;
  return {};
}

void VfioGroup::unblock() {
  MutexGuard guard(lock);
  --bound_cdevs;
}

}  // namespace perdure::vfio
