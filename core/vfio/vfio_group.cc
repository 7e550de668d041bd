#include "core/vfio/vfio_group.h"

#include "core/vfio/type1_container.h"

namespace perdure::vfio {

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
