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
    bool test_ops = false;  // IOMMU_TEST_CMD; off: Enotty
  };

  Iommufd(Kho& handover, Iommu& core, IommuLiveUpdate& records, Config configured)
      : kho(handover), iommu(core), live_update(records), accounts(handover.heap()), config(configured) {}
  Iommufd(const Iommufd&) = delete;
  Iommufd& operator=(const Iommufd&) = delete;

  // Each open is a context of its own. /dev/iommu charges users, /dev/vfio/vfio processes. Enomem.
  Result<Ref<IommufdFile>> open(Accounting accounting = Accounting::User);

  // For reports: every context that is open, oldest first, with no lock held.
  void each_context(FunctionRef<void(const IommufdFile& context)> visit) const EXCLUDES(lock_);

  Heap& heap() const { return kho.heap(); }
  Machine& machine() const { return kho.machine(); }

  Kho& kho;
  Iommu& iommu;
  IommuLiveUpdate& live_update;
  Accounts accounts;
  const Config config;

 private:
  friend class IommufdFile;
  void add(IommufdFile& context) EXCLUDES(lock_);
  void remove(IommufdFile& context) EXCLUDES(lock_);

  mutable Mutex lock_{LockRank::Leaf};
  List<IommufdFile, &IommufdFile::in_module_> contexts_ GUARDED_BY(lock_);
  u64 contexts_made_ GUARDED_BY(lock_) = 0;
};

}  // namespace perdure::iommufd
