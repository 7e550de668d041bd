// Linux's VFIO user API (7.3): devices through their own character device and through groups and containers. Layouts
// and numbers, as facts.
#pragma once
#include <cstddef>

#include "core/base/types.h"

namespace perdure::uapi {

// _IO(';', 100 + n). The first member of every structure is argsz.
// The same number means other things on containers, groups and devices.
inline constexpr u32 kVfioGetApiVersion = 0x3b64;
inline constexpr u32 kVfioCheckExtension = 0x3b65;
inline constexpr u32 kVfioSetIommu = 0x3b66;
inline constexpr u32 kVfioGroupGetStatus = 0x3b67;
inline constexpr u32 kVfioGroupSetContainer = 0x3b68;
inline constexpr u32 kVfioGroupUnsetContainer = 0x3b69;
inline constexpr u32 kVfioGroupGetDeviceFd = 0x3b6a;
inline constexpr u32 kVfioIommuGetInfo = 0x3b70;
inline constexpr u32 kVfioIommuMapDma = 0x3b71;
inline constexpr u32 kVfioIommuUnmapDma = 0x3b72;
inline constexpr u32 kVfioIommuDirtyPages = 0x3b75;

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

namespace vfio_extension {
inline constexpr u64 kType1 = 1, kDmaCoherent = 4, kType1v2 = 3, kNoIommu = 8, kUnmapAll = 9;
}  // namespace vfio_extension

namespace vfio_group {
inline constexpr u32 kViable = 1, kContainerSet = 2;
}  // namespace vfio_group

namespace vfio_iommu {
inline constexpr u32 kInfoPageSizes = 1, kInfoCaps = 2;
inline constexpr u16 kCapIovaRange = 1, kCapDmaAvail = 3;
inline constexpr u32 kMapRead = 1, kMapWrite = 2;
inline constexpr u32 kUnmapAll = 2;
}  // namespace vfio_iommu

namespace vfio_hot_reset {
inline constexpr u32 kDeviceId = 1, kDeviceIdOwned = 2;
// In place of an id: nothing of the caller's; his, and with no id of its own.
inline constexpr u32 kNotOwned = ~u32{0}, kOwned = 0;
}  // namespace vfio_hot_reset

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
inline constexpr u32 kVfToken = 0, kMigration = 1, kMigrationState = 2, kLowPowerEntry = 3, kLowPowerEntryWakeup = 4,
                     kLowPowerExit = 5, kDmaLoggingStart = 6, kDmaLoggingStop = 7, kDmaLoggingReport = 8,
                     kMigrationDataSize = 9, kBusMaster = 10, kDmaBuf = 11, kPrecopyInfo = 12, kZpciError = 13;
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

// Of kLowPowerEntryWakeup, behind the header.
struct VfioLowPowerWakeup {
  s32 eventfd = 0;
  u32 reserved = 0;
};
static_assert(sizeof(VfioLowPowerWakeup) == 8);

struct VfioIoeventfd {
  u32 argsz = 0;
  u32 flags = 0;  // the width in bytes
  u64 offset = 0;
  u64 data = 0;
  s32 fd = 0;
  u32 reserved = 0;
};
static_assert(sizeof(VfioIoeventfd) == 32 && offsetof(VfioIoeventfd, fd) == 24);
inline constexpr u32 kVfioIoeventfdMin = offsetof(VfioIoeventfd, reserved);

// Followed by `count` of the next.
struct VfioHotResetInfo {
  u32 argsz = 0;
  u32 flags = 0;
  u32 count = 0;
};
static_assert(sizeof(VfioHotResetInfo) == 12);
struct VfioDependentDevice {
  u32 id = 0;  // of its group; with kDeviceId of the device
  u16 segment = 0;
  u8 bus = 0;
  u8 devfn = 0;
};
static_assert(sizeof(VfioDependentDevice) == 8);

// Followed by `count` descriptors of groups.
struct VfioHotReset {
  u32 argsz = 0;
  u32 flags = 0;
  u32 count = 0;
};
static_assert(sizeof(VfioHotReset) == 12);

struct VfioGroupStatus {
  u32 argsz = 0;
  u32 flags = 0;
};
static_assert(sizeof(VfioGroupStatus) == 8);

struct VfioIommuInfo {
  u32 argsz = 0;
  u32 flags = 0;
  u64 iova_pgsizes = 0;
  u32 cap_offset = 0;
  u32 pad = 0;
};
static_assert(sizeof(VfioIommuInfo) == 24);
inline constexpr u32 kVfioIommuInfoMin = offsetof(VfioIommuInfo, cap_offset);

struct VfioIommuCapDmaAvail {
  VfioCapHeader header;
  u32 available = 0;
};
static_assert(sizeof(VfioIommuCapDmaAvail) == 12);
// Followed by `count` ranges of two u64, both ends inclusive.
struct VfioIommuCapIovaRange {
  VfioCapHeader header;
  u32 count = 0;
  u32 reserved = 0;
};
static_assert(sizeof(VfioIommuCapIovaRange) == 16);

struct VfioDmaMap {
  u32 argsz = 0;
  u32 flags = 0;
  u64 vaddr = 0;
  u64 iova = 0;
  u64 size = 0;
};
static_assert(sizeof(VfioDmaMap) == 32);

struct VfioDmaUnmap {
  u32 argsz = 0;
  u32 flags = 0;
  u64 iova = 0;
  u64 size = 0;
};
static_assert(sizeof(VfioDmaUnmap) == 24);

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
