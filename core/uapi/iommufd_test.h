// IOMMU_TEST_CMD, which Linux's own tests use (uapi §6): numbers and layouts, as facts. A Linux has it that was built
// with CONFIG_IOMMUFD_TEST.
#pragma once
#include <cstring>
#include <type_traits>

#include "core/uapi/iommufd.h"

namespace perdure::uapi {

inline constexpr u32 kIommuTestCmd = 0x3ba0;

namespace iommu_test {
inline constexpr u32 kAddReserved = 1, kMockDomain = 2, kMdCheckMap = 3, kMdCheckRefs = 4, kCreateAccess = 5,
                     kDestroyAccessPages = 6, kAccessPages = 7, kAccessRw = 8, kSetTempMemoryLimit = 9,
                     kMockDomainReplace = 10, kAccessReplaceIoas = 11, kMockDomainFlags = 12, kDirty = 13,
                     kMdCheckIotlb = 14, kTriggerIopf = 15, kDevCheckCache = 16, kTriggerVevent = 17, kPasidAttach = 18,
                     kPasidReplace = 19, kPasidDetach = 20, kPasidCheckHwpt = 21, kDmabufGet = 22, kDmabufRevoke = 23;

inline constexpr u32 kAccessWrite = 1;         // ACCESS_PAGES, ACCESS_RW
inline constexpr u32 kAccessRwSlow = 4;        // ACCESS_RW
inline constexpr u32 kAccessByArea = 1 << 16;  // both: `iova` is the number of an area, and an offset in its high half
inline constexpr u32 kCreateNeedsPin = 1;      // CREATE_ACCESS
inline constexpr u64 kMostAccessed = u64{16} << 20;
inline constexpr u32 kLeastMemoryLimit = 12;

// What follows the head, by operation.
struct AddReserved {
  u64 start = 0;
  u64 length = 0;
};
struct CheckMap {
  u64 iova = 0;
  u64 length = 0;
  u64 uptr = 0;
};
struct CheckRefs {
  u64 length = 0;
  u64 uptr = 0;
  u32 refs = 0;
  u32 pad = 0;
};
struct CreateAccess {
  s32 out_access_fd = 0;
  u32 flags = 0;
};
struct DestroyAccessPages {
  u32 access_pages_id = 0;
};
struct AccessPages {
  u32 flags = 0;
  u32 out_access_pages_id = 0;
  u64 iova = 0;
  u64 length = 0;
  u64 uptr = 0;
};
struct AccessRw {
  u64 iova = 0;
  u64 length = 0;
  u64 uptr = 0;
  u32 flags = 0;
  u32 pad = 0;
};
struct MemoryLimit {
  u32 limit = 0;
};
struct ReplaceIoas {
  u32 ioas_id = 0;
};
// Of those with one device or page table and no more.
struct TestDevice {
  u32 dev_id = 0;
};
}  // namespace iommu_test

struct IommuTestCmd {
  u32 size = 0;
  u32 op = 0;
  u32 id = 0;
  u32 reserved = 0;
  std::byte args[48] = {};
  u32 last = 0;
  u32 pad = 0;

  template <class T>
  T get() const {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof args);
    T value;
    std::memcpy(static_cast<void*>(&value), args, sizeof value);
    return value;
  }
  template <class T>
  void set(const T& value) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof args);
    std::memcpy(args, &value, sizeof value);
  }
};
static_assert(sizeof(IommuTestCmd) == 72 && offsetof(IommuTestCmd, args) == 16 && offsetof(IommuTestCmd, last) == 64);
inline constexpr u32 kIommuTestCmdMin = offsetof(IommuTestCmd, pad);
static_assert(sizeof(iommu_test::CheckRefs) == 24 && offsetof(iommu_test::CheckRefs, refs) == 16);
static_assert(sizeof(iommu_test::AccessPages) == 32 && offsetof(iommu_test::AccessPages, uptr) == 24);
static_assert(sizeof(iommu_test::AccessRw) == 32 && offsetof(iommu_test::AccessRw, flags) == 24);

}  // namespace perdure::uapi
