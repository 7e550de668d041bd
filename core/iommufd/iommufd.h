// /dev/iommu: what all its contexts share.
#pragma once
#include "core/iommu/live_update.h"
#include "core/iommufd/iommufd_file.h"

namespace perdure::iommufd {

class Iommufd {
 public:
  struct Config {
    u32 write_version = abi::kIommufdReadMax;  // of records
    // Numbers of the two ioctls that Linux does not have; 0: off (Enotty).
    u32 mark_preserve = uapi::kIommuHwptMarkPreserve;
    u32 restore = uapi::kIommuHwptRestore;
  };

  Iommufd(Kho& handover, Iommu& core, IommuLiveUpdate& records, Config configured)
      : kho(handover), iommu(core), live_update(records), config(configured) {}
  Iommufd(const Iommufd&) = delete;
  Iommufd& operator=(const Iommufd&) = delete;

  // Each open is a context of its own. /dev/iommu charges users, /dev/vfio/vfio processes. Enomem.
  Result<Ref<IommufdFile>> open(Accounting accounting = Accounting::User);

  Heap& heap() const { return kho.heap(); }
  Machine& machine() const { return kho.machine(); }

  Kho& kho;
  Iommu& iommu;
  IommuLiveUpdate& live_update;
  const Config config;
};

}  // namespace perdure::iommufd
