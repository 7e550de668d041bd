// VFIO_IOMMU_GET_INFO, which two kinds of container answer alike (uapi §2.13).
#pragma once
#include "core/iommufd/ioas.h"

namespace perdure {
class Task;
}

namespace perdure::iommufd {

// `dma_available`: mappings that the program may still make. Einval: no room for what is mandatory; Efault; Enomem.
Result<void> answer_vfio_iommu_info(Task& task, UserAddr arg, Heap& heap, const Ioas& ioas, u32 dma_available);

}  // namespace perdure::iommufd
