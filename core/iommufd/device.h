// A device bound to a context, in the hands of the driver that bound it (vfio).
#pragma once
#include "core/iommufd/hwpt.h"

namespace perdure::iommufd {

// Everything but the constructor's is guarded by the context's lock.
class Device final : public Object {
 public:
  static constexpr ObjectType kObjectType = ObjectType::Device;
  explicit Device(IommuDevice& device) : Object(kObjectType), device_(device) {}
  IommuDevice& iommu_device() const { return device_; }
  Group& group() const { return device_.group(); }

  Ref<HwptPaging> hwpt;  // attached to; null: DMA is blocked, or goes through what a former kernel left

 private:
  IommuDevice& device_;
};

}  // namespace perdure::iommufd
