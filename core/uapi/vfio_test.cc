// Our numbers and layouts against the headers of the Linux that this is built on, as far as it has them.
#include "core/uapi/vfio.h"

#include <gtest/gtest.h>
#if __has_include(<linux/vfio.h>)
#include <linux/vfio.h>
#endif

namespace perdure::uapi {
namespace {

#ifdef VFIO_BASE
TEST(VfioUapiTest, IsWhatTheHostsHeadersSay) {
  EXPECT_EQ(kVfioDeviceGetInfo, u32{VFIO_DEVICE_GET_INFO});
  EXPECT_EQ(kVfioDeviceGetRegionInfo, u32{VFIO_DEVICE_GET_REGION_INFO});
  EXPECT_EQ(kVfioDeviceGetIrqInfo, u32{VFIO_DEVICE_GET_IRQ_INFO});
  EXPECT_EQ(kVfioDeviceSetIrqs, u32{VFIO_DEVICE_SET_IRQS});
  EXPECT_EQ(kVfioDeviceReset, u32{VFIO_DEVICE_RESET});
  EXPECT_EQ(kVfioDeviceGetPciHotResetInfo, u32{VFIO_DEVICE_GET_PCI_HOT_RESET_INFO});
  EXPECT_EQ(kVfioDevicePciHotReset, u32{VFIO_DEVICE_PCI_HOT_RESET});
  EXPECT_EQ(kVfioDeviceIoeventfd, u32{VFIO_DEVICE_IOEVENTFD});
  EXPECT_EQ(kVfioDeviceFeature, u32{VFIO_DEVICE_FEATURE});
#ifdef VFIO_DEVICE_BIND_IOMMUFD
  EXPECT_EQ(kVfioDeviceBindIommufd, u32{VFIO_DEVICE_BIND_IOMMUFD});
  EXPECT_EQ(kVfioDeviceAttachIommufdPt, u32{VFIO_DEVICE_ATTACH_IOMMUFD_PT});
  EXPECT_EQ(kVfioDeviceDetachIommufdPt, u32{VFIO_DEVICE_DETACH_IOMMUFD_PT});
#endif

  EXPECT_EQ(offsetof(VfioDeviceInfo, num_regions), offsetof(vfio_device_info, num_regions));
  EXPECT_EQ(offsetof(VfioDeviceInfo, num_irqs), offsetof(vfio_device_info, num_irqs));
  EXPECT_EQ(offsetof(VfioDeviceInfo, cap_offset), offsetof(vfio_device_info, cap_offset));
  EXPECT_EQ(sizeof(VfioRegionInfo), sizeof(vfio_region_info));
  EXPECT_EQ(offsetof(VfioRegionInfo, index), offsetof(vfio_region_info, index));
  EXPECT_EQ(offsetof(VfioRegionInfo, cap_offset), offsetof(vfio_region_info, cap_offset));
  EXPECT_EQ(offsetof(VfioRegionInfo, size), offsetof(vfio_region_info, size));
  EXPECT_EQ(offsetof(VfioRegionInfo, offset), offsetof(vfio_region_info, offset));
  EXPECT_EQ(sizeof(VfioIrqInfo), sizeof(vfio_irq_info));
  EXPECT_EQ(offsetof(VfioIrqInfo, count), offsetof(vfio_irq_info, count));
  EXPECT_EQ(sizeof(VfioIrqSet), offsetof(vfio_irq_set, data));
  EXPECT_EQ(offsetof(VfioIrqSet, start), offsetof(vfio_irq_set, start));
  EXPECT_EQ(offsetof(VfioIrqSet, count), offsetof(vfio_irq_set, count));
  EXPECT_EQ(sizeof(VfioFeature), offsetof(vfio_device_feature, data));
  EXPECT_EQ(sizeof(VfioCapHeader), sizeof(vfio_info_cap_header));

  EXPECT_EQ(vfio_device::kFlagReset, u32{VFIO_DEVICE_FLAGS_RESET});
  EXPECT_EQ(vfio_device::kFlagPci, u32{VFIO_DEVICE_FLAGS_PCI});
  EXPECT_EQ(vfio_region::kMmap, u32{VFIO_REGION_INFO_FLAG_MMAP});
  EXPECT_EQ(vfio_region::kCaps, u32{VFIO_REGION_INFO_FLAG_CAPS});
  EXPECT_EQ(vfio_region::kConfig, u32{VFIO_PCI_CONFIG_REGION_INDEX});
  EXPECT_EQ(vfio_region::kCount, u32{VFIO_PCI_NUM_REGIONS});
  EXPECT_EQ(vfio_region::kCapMsixMappable, u32{VFIO_REGION_INFO_CAP_MSIX_MAPPABLE});
  EXPECT_EQ(vfio_irq::kMsix, u32{VFIO_PCI_MSIX_IRQ_INDEX});
  EXPECT_EQ(vfio_irq::kReq, u32{VFIO_PCI_REQ_IRQ_INDEX});
  EXPECT_EQ(vfio_irq::kCount, u32{VFIO_PCI_NUM_IRQS});
  EXPECT_EQ(vfio_irq::kInfoNoResize, u32{VFIO_IRQ_INFO_NORESIZE});
  EXPECT_EQ(vfio_irq::kDataMask, u32{VFIO_IRQ_SET_DATA_TYPE_MASK});
  EXPECT_EQ(vfio_irq::kActions, u32{VFIO_IRQ_SET_ACTION_TYPE_MASK});
  EXPECT_EQ(vfio_feature::kGet, u32{VFIO_DEVICE_FEATURE_GET});
  EXPECT_EQ(vfio_feature::kProbe, u32{VFIO_DEVICE_FEATURE_PROBE});
}
#else
TEST(VfioUapiTest, IsWhatTheHostsHeadersSay) {
  GTEST_SKIP() << "no linux/vfio.h on this host";
}
#endif

}  // namespace
}  // namespace perdure::uapi
