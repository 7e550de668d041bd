// Linux's VFIO user API for devices opened through their own character device (7.3): layouts and numbers, as facts.
#pragma once
#include <cstddef>

#include "core/base/types.h"

namespace perdure::uapi {

// _IO(';', 100 + n). The first member of every structure is argsz.
inline constexpr u32 kVfioDeviceGetInfo = 0x3b6b;
inline constexpr u32 kVfioDeviceGetRegionInfo = 0x3b6c;
inline constexpr u32 kVfioDeviceGetIrqInfo = 0x3b6d;
inline constexpr u32 kVfioDeviceSetIrqs = 0x3b6e;
inline constexpr u32 kVfioDeviceReset = 0x3b6f;
inline constexpr u32 kVfioDeviceGetPciHotResetInfo = 0x3b70;
inline constexpr u32 kVfioDevicePciHotReset = 0x3b71;
inline constexpr u32 kVfioDeviceIoeventfd = 0x3b74;
inline constexpr u32 kVfioDeviceFeature = 0x3b75;
inline constexpr u32 kVfioDeviceBindIommufd = 0x3b76;
inline constexpr u32 kVfioDeviceAttachIommufdPt = 0x3b77;
inline constexpr u32 kVfioDeviceDetachIommufdPt = 0x3b78;

namespace vfio_device {
inline constexpr u32 kFlagReset = 1, kFlagPci = 2, kFlagCaps = 0x80;
inline constexpr u32 kBindFlagToken = 1;
inline constexpr u32 kAttachFlagPasid = 1;
}  // namespace vfio_device

namespace vfio_region {
inline constexpr u32 kRead = 1, kWrite = 2, kMmap = 4, kCaps = 8;
inline constexpr u32 kRom = 6, kConfig = 7, kVga = 8, kCount = 9;
inline constexpr u16 kCapMsixMappable = 3;
}  // namespace vfio_region

namespace vfio_irq {
inline constexpr u32 kIntx = 0, kMsi = 1, kMsix = 2, kErr = 3, kReq = 4, kCount = 5;
inline constexpr u32 kInfoEventfd = 1, kInfoMaskable = 2, kInfoAutomasked = 4, kInfoNoResize = 8;
inline constexpr u32 kDataNone = 1, kDataBool = 2, kDataEventfd = 4, kDataMask = 7;
inline constexpr u32 kActionMask = 8, kActionUnmask = 0x10, kActionTrigger = 0x20, kActions = 0x38;
}  // namespace vfio_irq

namespace vfio_feature {
inline constexpr u32 kIndexMask = 0xffff, kGet = 1 << 16, kSet = 1 << 17, kProbe = 1 << 18;
}  // namespace vfio_feature

struct VfioDeviceInfo {
  u32 argsz = 0;
  u32 flags = 0;
  u32 num_regions = 0;
  u32 num_irqs = 0;
  u32 cap_offset = 0;
  u32 pad = 0;
};
static_assert(sizeof(VfioDeviceInfo) == 24);
inline constexpr u32 kVfioDeviceInfoMin = offsetof(VfioDeviceInfo, cap_offset);

struct VfioRegionInfo {
  u32 argsz = 0;
  u32 flags = 0;
  u32 index = 0;
  u32 cap_offset = 0;
  u64 size = 0;
  u64 offset = 0;
};
static_assert(sizeof(VfioRegionInfo) == 32 && offsetof(VfioRegionInfo, size) == 16);

struct VfioCapHeader {
  u16 id = 0;
  u16 version = 0;
  u32 next = 0;  // offset from the structure's start; 0: the last
};
static_assert(sizeof(VfioCapHeader) == 8);

struct VfioIrqInfo {
  u32 argsz = 0;
  u32 flags = 0;
  u32 index = 0;
  u32 count = 0;
};
static_assert(sizeof(VfioIrqInfo) == 16);

// Followed by `count` bytes, s32 descriptors, or nothing, as `flags` says.
struct VfioIrqSet {
  u32 argsz = 0;
  u32 flags = 0;
  u32 index = 0;
  u32 start = 0;
  u32 count = 0;
};
static_assert(sizeof(VfioIrqSet) == 20);

struct VfioFeature {
  u32 argsz = 0;
  u32 flags = 0;
};
static_assert(sizeof(VfioFeature) == 8);

struct VfioBindIommufd {
  u32 argsz = 0;
  u32 flags = 0;
  s32 iommufd = 0;
  u32 out_devid = 0;
  u64 token_uuid_ptr = 0;
};
static_assert(sizeof(VfioBindIommufd) == 24);
inline constexpr u32 kVfioBindIommufdMin = offsetof(VfioBindIommufd, token_uuid_ptr);

struct VfioAttachIommufdPt {
  u32 argsz = 0;
  u32 flags = 0;
  u32 pt_id = 0;
  u32 pasid = 0;
};
static_assert(sizeof(VfioAttachIommufdPt) == 16);
inline constexpr u32 kVfioAttachIommufdPtMin = offsetof(VfioAttachIommufdPt, pasid);

struct VfioDetachIommufdPt {
  u32 argsz = 0;
  u32 flags = 0;
  u32 pasid = 0;
};
static_assert(sizeof(VfioDetachIommufdPt) == 12);
inline constexpr u32 kVfioDetachIommufdPtMin = offsetof(VfioDetachIommufdPt, pasid);

}  // namespace perdure::uapi
