// Calls of /dev/iommu with nothing around them: what tests of it share.
#pragma once
#include "client/memfd.h"
#include "client/vfio_device.h"
#include "core/uapi/iommufd.h"
#include "core/uapi/vfio.h"
#include "tests/uapi/size_rule.h"

namespace perdure::uapi_test::iommufd {

inline constexpr const char* kNode = "/dev/iommu";
inline constexpr u64 kPage = kPageSize;
inline constexpr u64 kAll = ~u64{0};
inline constexpr u32 kRead = uapi::iommu_map::kReadable, kWrite = uapi::iommu_map::kWriteable;
inline constexpr u32 kFixed = uapi::iommu_map::kFixedIova, kBoth = kRead | kWrite;

// A context with one address space and a stretch of memory.
struct Space {
  explicit Space(Case& c)
      : t(c), fd(c.open(kNode)), id(ioas()), memory(MUST(client::Memfd::create(c.sys, "space", kBytes))) {}

  u32 ioas() {
    uapi::IommuIoasAlloc call{.size = sizeof call, .flags = 0, .out_ioas_id = 0};
    MUST(t.ioctl(fd, uapi::kIommuIoasAlloc, call));
    return call.out_ioas_id;
  }
  uapi::IommuIoasMapFile file(u64 iova, u64 length, u32 flags = kFixed | kBoth) const {
    uapi::IommuIoasMapFile call{};
    call.size = sizeof call;
    call.flags = flags;
    call.ioas_id = id;
    call.fd = memory.number();
    call.length = length;
    call.iova = iova;
    return call;
  }
  Result<u64> map(uapi::IommuIoasMapFile call) { return t.ioctl(fd, uapi::kIommuIoasMapFile, call); }
  // Where it was mapped.
  Result<u64> map_anywhere(u64 length, u64 start = 0) {
    uapi::IommuIoasMapFile call = file(0, length, kBoth);
    call.start = start;
    TRY(t.ioctl(fd, uapi::kIommuIoasMapFile, call));
    return call.iova;
  }
  void must_map(u64 iova, u64 length, u32 flags = kFixed | kBoth) { MUST(map(file(iova, length, flags))); }
  Result<u64> unmap(u64 iova, u64 length) {
    uapi::IommuIoasUnmap call{.size = sizeof call, .ioas_id = id, .iova = iova, .length = length};
    TRY(t.ioctl(fd, uapi::kIommuIoasUnmap, call));
    return call.length;
  }
  uapi::IommuIoasCopy copying(u64 from, u64 length, u64 to, u32 flags = kFixed | kBoth) const {
    return {.size = sizeof(uapi::IommuIoasCopy),
            .flags = flags,
            .dst_ioas_id = id,
            .src_ioas_id = id,
            .length = length,
            .dst_iova = to,
            .src_iova = from};
  }
  Result<u64> copy(uapi::IommuIoasCopy call) {
    TRY(t.ioctl(fd, uapi::kIommuIoasCopy, call));
    return call.dst_iova;
  }
  Result<u64> allow(std::initializer_list<uapi::IommuIovaRange> ranges, u32 reserved = 0) {
    const std::vector<uapi::IommuIovaRange> list(ranges);
    uapi::IommuIoasAllowIovas call{.size = sizeof call,
                                   .ioas_id = id,
                                   .num_iovas = static_cast<u32>(list.size()),
                                   .reserved = reserved,
                                   .allowed_iovas = reinterpret_cast<u64>(list.data())};
    return t.ioctl(fd, uapi::kIommuIoasAllowIovas, call);
  }
  Result<u64> option(u32 what, u16 op, u32 object, u64 value = 0) {
    uapi::IommuOption call{
        .size = sizeof call, .option_id = what, .op = op, .reserved = 0, .object_id = object, .val64 = value};
    TRY(t.ioctl(fd, uapi::kIommuOption, call));
    return call.val64;
  }
  Result<u64> destroy(u32 object) {
    uapi::IommuDestroy call{.size = sizeof call, .id = object};
    return t.ioctl(fd, uapi::kIommuDestroy, call);
  }

  static constexpr u64 kBytes = u64{16} << 20;
  Case& t;
  Fd fd;
  u32 id;
  client::Memfd memory;
};

// A device that is bound to the space's context, and attached where it says so.
struct Device {
  explicit Device(Space& space) : vfio(space.t.open(space.t.devices()[0])) {
    Case& t = space.t;
    uapi::VfioBindIommufd call{
        .argsz = sizeof call, .flags = 0, .iommufd = space.fd.number(), .out_devid = 0, .token_uuid_ptr = 0};
    MUST(t.ioctl(vfio, uapi::kVfioDeviceBindIommufd, call));
    id = call.out_devid;
  }
  Result<u32> attach(Case& t, u32 pt) {
    uapi::VfioAttachIommufdPt call{.argsz = sizeof call, .flags = 0, .pt_id = pt, .pasid = 0};
    TRY(t.ioctl(vfio, uapi::kVfioDeviceAttachIommufdPt, call));
    return call.pt_id;
  }
  uapi::IommuHwptAlloc hwpt(u32 pt) const {
    uapi::IommuHwptAlloc call{};
    call.size = sizeof call;
    call.dev_id = id;
    call.pt_id = pt;
    return call;
  }
  Fd vfio;
  u32 id = 0;
};

}  // namespace perdure::uapi_test::iommufd
