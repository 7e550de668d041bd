// One IOMMU group as /dev/vfio/<group> stands for it (uapi §3.9).
#pragma once
#include "core/iommu/group.h"
#include "core/iommufd/iommufd_file.h"

namespace perdure::vfio {

class GroupFile;
class Type1Container;
struct PciDevice;

// Two ways lead to a device, and exclude each other: through its group, which one file has open, or by its own node.
class VfioGroup : public HeapObject {
 public:
  explicit VfioGroup(Group& of);
  ~VfioGroup() override;

  u32 id() const { return iommu_group.id(); }
  // A device of it is bound by its own node, or not any more. Ebusy: the group is open.
  Result<void> block() EXCLUDES(lock);
  void unblock() EXCLUDES(lock);

  Group& iommu_group;
  mutable Mutex lock{LockRank::VfioGroup};
  GroupFile* opened GUARDED_BY(lock) = nullptr;
  u32 bound_cdevs GUARDED_BY(lock) = 0;
  // What it was put into: at most one of the two.
  Ref<iommufd::IommufdFile> iommufd GUARDED_BY(lock);
  Ref<Type1Container> container GUARDED_BY(lock);
  u32 open_devices GUARDED_BY(lock) = 0;  // files of devices opened through it
};

}  // namespace perdure::vfio
