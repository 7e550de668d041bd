// Linux's iommufd user API (7.3): structure layouts and numbers, as facts. Pointers travel as u64. The behaviour
// behind them is core/iommufd/.
#pragma once
#include <cstddef>

#include "core/base/types.h"

namespace perdure::uapi {

// _IO(';', 0x80 + n): no direction and no size in the number; the first member of every structure is its size.
inline constexpr u32 kIommuDestroy = 0x3b80;
inline constexpr u32 kIommuIoasAlloc = 0x3b81;
inline constexpr u32 kIommuIoasAllowIovas = 0x3b82;
inline constexpr u32 kIommuIoasCopy = 0x3b83;
inline constexpr u32 kIommuIoasIovaRanges = 0x3b84;
inline constexpr u32 kIommuIoasMap = 0x3b85;
inline constexpr u32 kIommuIoasUnmap = 0x3b86;
inline constexpr u32 kIommuOption = 0x3b87;
inline constexpr u32 kIommuVfioIoas = 0x3b88;
inline constexpr u32 kIommuHwptAlloc = 0x3b89;
inline constexpr u32 kIommuGetHwInfo = 0x3b8a;
inline constexpr u32 kIommuHwptSetDirtyTracking = 0x3b8b;
inline constexpr u32 kIommuHwptGetDirtyBitmap = 0x3b8c;
inline constexpr u32 kIommuHwptInvalidate = 0x3b8d;
inline constexpr u32 kIommuFaultQueueAlloc = 0x3b8e;
inline constexpr u32 kIommuIoasMapFile = 0x3b8f;
inline constexpr u32 kIommuViommuAlloc = 0x3b90;
inline constexpr u32 kIommuVdeviceAlloc = 0x3b91;
inline constexpr u32 kIommuIoasChangeProcess = 0x3b92;
inline constexpr u32 kIommuVeventqAlloc = 0x3b93;
inline constexpr u32 kIommuHwQueueAlloc = 0x3b94;
inline constexpr u32 kIommuIoasNoiommuGetPa = 0x3b95;
// The next two are not Linux's: the numbers of the unmerged series moved from version to version (0x95 is taken in
// 7.3), so these are defaults that a kernel's configuration may change.
inline constexpr u32 kIommuHwptMarkPreserve = 0x3b96;
inline constexpr u32 kIommuHwptRestore = 0x3b97;

namespace iommu_map {
inline constexpr u32 kFixedIova = 1, kWriteable = 2, kReadable = 4;
inline constexpr u32 kKnown = 7;
}  // namespace iommu_map

namespace iommu_hwpt {
inline constexpr u32 kNestParent = 1, kDirtyTracking = 2, kFaultIdValid = 4, kAllocPasid = 8;
inline constexpr u32 kKnownPaging = 15;
}  // namespace iommu_hwpt

namespace iommu_dirty {
inline constexpr u32 kEnable = 1;   // HWPT_SET_DIRTY_TRACKING
inline constexpr u32 kNoClear = 1;  // HWPT_GET_DIRTY_BITMAP
}  // namespace iommu_dirty

namespace iommu_option {
inline constexpr u32 kRlimitMode = 0, kHugePages = 1;
inline constexpr u16 kSet = 0, kGet = 1;
}  // namespace iommu_option

namespace iommu_vfio_ioas {
inline constexpr u16 kGet = 0, kSet = 1, kClear = 2;
}  // namespace iommu_vfio_ioas

namespace iommu_hwpt_restore {
// With the IOAS of the former kernel: a real one, which holds what was mapped then and can be changed like any other.
inline constexpr u32 kIoas = 1;
inline constexpr u32 kKnown = 1;
}  // namespace iommu_hwpt_restore

namespace iommu_hw_info {
inline constexpr u32 kFlagInputType = 1;
inline constexpr u32 kTypeNone = 0, kTypeIntelVtd = 1;
inline constexpr u64 kCapDirtyTracking = 1, kCapPasidExec = 2, kCapPasidPriv = 4, kCapPciAtsNotSupported = 8;
}  // namespace iommu_hw_info

struct IommuDestroy {
  u32 size = 0;
  u32 id = 0;
};
static_assert(sizeof(IommuDestroy) == 8);

struct IommuIoasAlloc {
  u32 size = 0;
  u32 flags = 0;
  u32 out_ioas_id = 0;
};
static_assert(sizeof(IommuIoasAlloc) == 12);

struct IommuIovaRange {
  u64 start = 0;
  u64 last = 0;  // inclusive
};
static_assert(sizeof(IommuIovaRange) == 16);

struct IommuIoasIovaRanges {
  u32 size = 0;
  u32 ioas_id = 0;
  u32 num_iovas = 0;
  u32 reserved = 0;
  u64 allowed_iovas = 0;
  u64 out_iova_alignment = 0;
};
static_assert(sizeof(IommuIoasIovaRanges) == 32 && offsetof(IommuIoasIovaRanges, allowed_iovas) == 16);

struct IommuIoasAllowIovas {
  u32 size = 0;
  u32 ioas_id = 0;
  u32 num_iovas = 0;
  u32 reserved = 0;
  u64 allowed_iovas = 0;
};
static_assert(sizeof(IommuIoasAllowIovas) == 24);

struct IommuIoasMap {
  u32 size = 0;
  u32 flags = 0;
  u32 ioas_id = 0;
  u32 reserved = 0;
  u64 user_va = 0;
  u64 length = 0;
  u64 iova = 0;
};
static_assert(sizeof(IommuIoasMap) == 40 && offsetof(IommuIoasMap, iova) == 32);

struct IommuIoasMapFile {
  u32 size = 0;
  u32 flags = 0;
  u32 ioas_id = 0;
  s32 fd = 0;
  u64 start = 0;
  u64 length = 0;
  u64 iova = 0;
};
static_assert(sizeof(IommuIoasMapFile) == 40 && offsetof(IommuIoasMapFile, fd) == 12);

struct IommuIoasCopy {
  u32 size = 0;
  u32 flags = 0;
  u32 dst_ioas_id = 0;
  u32 src_ioas_id = 0;
  u64 length = 0;
  u64 dst_iova = 0;
  u64 src_iova = 0;
};
static_assert(sizeof(IommuIoasCopy) == 40);

struct IommuIoasUnmap {
  u32 size = 0;
  u32 ioas_id = 0;
  u64 iova = 0;
  u64 length = 0;
};
static_assert(sizeof(IommuIoasUnmap) == 24);

struct IommuOption {
  u32 size = 0;
  u32 option_id = 0;
  u16 op = 0;
  u16 reserved = 0;
  u32 object_id = 0;
  u64 val64 = 0;
};
static_assert(sizeof(IommuOption) == 24);

struct IommuVfioIoas {
  u32 size = 0;
  u32 ioas_id = 0;
  u16 op = 0;
  u16 reserved = 0;
};
static_assert(sizeof(IommuVfioIoas) == 12);

struct IommuHwptAlloc {
  u32 size = 0;
  u32 flags = 0;
  u32 dev_id = 0;
  u32 pt_id = 0;
  u32 out_hwpt_id = 0;
  u32 reserved = 0;
  u32 data_type = 0;
  u32 data_len = 0;
  u64 data_uptr = 0;
  u32 fault_id = 0;
  u32 reserved2 = 0;
};
static_assert(sizeof(IommuHwptAlloc) == 48 && offsetof(IommuHwptAlloc, data_uptr) == 32);
inline constexpr u32 kIommuHwptAllocMin = offsetof(IommuHwptAlloc, data_type);

struct IommuHwInfo {
  u32 size = 0;
  u32 flags = 0;
  u32 dev_id = 0;
  u32 data_len = 0;
  u64 data_uptr = 0;
  u32 data_type = 0;  // in with kFlagInputType; out
  u8 out_max_pasid_log2 = 0;
  u8 reserved[3] = {};
  u64 out_capabilities = 0;
};
static_assert(sizeof(IommuHwInfo) == 40 && offsetof(IommuHwInfo, out_capabilities) == 32);
inline constexpr u32 kIommuHwInfoMin = offsetof(IommuHwInfo, out_capabilities);

struct IommuHwInfoVtd {
  u32 flags = 0;
  u32 reserved = 0;
  u64 cap_reg = 0;
  u64 ecap_reg = 0;
};
static_assert(sizeof(IommuHwInfoVtd) == 24);

struct IommuHwptSetDirtyTracking {
  u32 size = 0;
  u32 flags = 0;
  u32 hwpt_id = 0;
  u32 reserved = 0;
};
static_assert(sizeof(IommuHwptSetDirtyTracking) == 16);

struct IommuHwptGetDirtyBitmap {
  u32 size = 0;
  u32 hwpt_id = 0;
  u32 flags = 0;
  u32 reserved = 0;
  u64 iova = 0;
  u64 length = 0;
  u64 page_size = 0;
  u64 data = 0;
};
static_assert(sizeof(IommuHwptGetDirtyBitmap) == 48);

struct IommuHwptInvalidate {
  u32 size = 0;
  u32 hwpt_id = 0;
  u64 data_uptr = 0;
  u32 data_type = 0;
  u32 entry_len = 0;
  u32 entry_num = 0;
  u32 reserved = 0;
};
static_assert(sizeof(IommuHwptInvalidate) == 32);

struct IommuFaultAlloc {
  u32 size = 0;
  u32 flags = 0;
  u32 out_fault_id = 0;
  u32 out_fault_fd = 0;
};
static_assert(sizeof(IommuFaultAlloc) == 16);

struct IommuViommuAlloc {
  u32 size = 0;
  u32 flags = 0;
  u32 type = 0;
  u32 dev_id = 0;
  u32 hwpt_id = 0;
  u32 out_viommu_id = 0;
  u32 data_len = 0;
  u32 reserved = 0;
  u64 data_uptr = 0;
};
static_assert(sizeof(IommuViommuAlloc) == 40);
inline constexpr u32 kIommuViommuAllocMin = offsetof(IommuViommuAlloc, data_len);

struct IommuVdeviceAlloc {
  u32 size = 0;
  u32 viommu_id = 0;
  u32 dev_id = 0;
  u32 out_vdevice_id = 0;
  u64 virt_id = 0;
};
static_assert(sizeof(IommuVdeviceAlloc) == 24);

struct IommuIoasChangeProcess {
  u32 size = 0;
  u32 reserved = 0;
};
static_assert(sizeof(IommuIoasChangeProcess) == 8);

struct IommuVeventqAlloc {
  u32 size = 0;
  u32 flags = 0;
  u32 viommu_id = 0;
  u32 type = 0;
  u32 veventq_depth = 0;
  u32 out_veventq_id = 0;
  u32 out_veventq_fd = 0;
  u32 reserved = 0;
};
static_assert(sizeof(IommuVeventqAlloc) == 32);
inline constexpr u32 kIommuVeventqAllocMin = offsetof(IommuVeventqAlloc, reserved);

struct IommuHwQueueAlloc {
  u32 size = 0;
  u32 flags = 0;
  u32 viommu_id = 0;
  u32 type = 0;
  u32 index = 0;
  u32 out_hw_queue_id = 0;
  u64 nesting_parent_iova = 0;
  u64 length = 0;
};
static_assert(sizeof(IommuHwQueueAlloc) == 40);

struct IommuIoasNoiommuGetPa {
  u32 size = 0;
  u32 flags = 0;
  u32 ioas_id = 0;
  u32 reserved = 0;
  u64 iova = 0;
  u64 length = 0;
  u64 out_phys = 0;
};
static_assert(sizeof(IommuIoasNoiommuGetPa) == 40);

// Marks a paging HWPT for preservation under a token of the program's choice; there is no unmark. The token is 64 bits
// wide and naturally aligned (R60, R61).
struct IommuHwptMarkPreserve {
  u32 size = 0;
  u32 hwpt_id = 0;
  u64 token = 0;
};
static_assert(sizeof(IommuHwptMarkPreserve) == 16 && offsetof(IommuHwptMarkPreserve, token) % 8 == 0);

// In a retrieved context: takes over the page table that was preserved under `token`, once; devices run on meanwhile.
// Without flags it is a HWPT without IOAS: nothing can be mapped or unmapped, no further device attached; it can be
// replaced, kept, preserved again, destroyed. With kIoas it gets its IOAS back, with the areas that were mapped, and is
// like any other HWPT; nothing is mapped anew. HWPTs that shared an IOAS share it again: until all of them were
// restored (with the flag or without), nothing can be mapped or unmapped there (Ebusy). While another thread restores
// one of them, the others are to be asked for again (Ebusy).
struct IommuHwptRestore {
  u32 size = 0;
  u32 flags = 0;
  u64 token = 0;
  u32 out_hwpt_id = 0;
  u32 out_ioas_id = 0;  // 0 without kIoas
};
static_assert(sizeof(IommuHwptRestore) == 24 && offsetof(IommuHwptRestore, token) % 8 == 0);
static_assert(offsetof(IommuHwptRestore, out_hwpt_id) == 16 && offsetof(IommuHwptRestore, out_ioas_id) == 20);

}  // namespace perdure::uapi
