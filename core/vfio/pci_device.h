// A function that programs may drive: what outlives its openings.
#pragma once
#include "core/iommu/iommu.h"
#include "core/vfio/config_view.h"
#include "core/vfio/interrupts.h"

namespace perdure::vfio {

class VfioFile;

struct PciDevice : public HeapObject {
  PciDevice(Heap& heap, u32 number, pci::Function& its_function, IommuDevice& its_device)
      : index(number),
        function(its_function),
        iommu_device(its_device),
        config(its_function),
        irqs(heap, its_function, its_device) {}

  const u32 index;  // N of vfioN
  pci::Function& function;
  IommuDevice& iommu_device;

  mutable Mutex lock{LockRank::VfioDevice};
  VfioFile* user GUARDED_BY(lock) = nullptr;  // through which it is bound
  // A file of it came out of a session that is not finished: nobody else opens it.
  bool in_transfer GUARDED_BY(lock) = false;
  bool reset_works GUARDED_BY(lock) = false;
  ConfigView config GUARDED_BY(lock);
  Interrupts irqs GUARDED_BY(lock);
  Ref<EventFd> error_event GUARDED_BY(lock);
  Ref<EventFd> request_event GUARDED_BY(lock);
};

}  // namespace perdure::vfio
