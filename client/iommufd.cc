#include "client/iommufd.h"

#include "core/uapi/iommufd.h"

namespace perdure::client {

using namespace uapi;  // NOLINT(google-build-using-namespace): the structures of one API

Result<Iommufd> Iommufd::open(Syscalls& sys) {
  return Iommufd(Fd(sys, TRY(sys.open("/dev/iommu"))));
}

Result<u32> Iommufd::ioas_alloc() const {
  IommuIoasAlloc cmd{.size = sizeof cmd, .flags = 0, .out_ioas_id = 0};
  TRY(fd_.sys().ioctl(number(), kIommuIoasAlloc, &cmd));
  return cmd.out_ioas_id;
}

namespace {
u32 map_flags(bool writable) {
  return iommu_map::kFixedIova | iommu_map::kReadable | (writable ? iommu_map::kWriteable : 0);
}
}  // namespace

Result<void> Iommufd::map_file(u32 ioas, s32 memfd, u64 start, u64 length, u64 iova, bool writable) const {
  IommuIoasMapFile cmd{.size = sizeof cmd,
                       .flags = map_flags(writable),
                       .ioas_id = ioas,
                       .fd = memfd,
                       .start = start,
                       .length = length,
                       .iova = iova};
  TRY(fd_.sys().ioctl(number(), kIommuIoasMapFile, &cmd));
  return {};
}

Result<void> Iommufd::map(u32 ioas, const void* at, u64 length, u64 iova, bool writable) const {
  IommuIoasMap cmd{.size = sizeof cmd,
                   .flags = map_flags(writable),
                   .ioas_id = ioas,
                   .reserved = 0,
                   .user_va = reinterpret_cast<u64>(at),
                   .length = length,
                   .iova = iova};
  TRY(fd_.sys().ioctl(number(), kIommuIoasMap, &cmd));
  return {};
}

Result<u64> Iommufd::unmap(u32 ioas, u64 iova, u64 length) const {
  IommuIoasUnmap cmd{.size = sizeof cmd, .ioas_id = ioas, .iova = iova, .length = length};
  TRY(fd_.sys().ioctl(number(), kIommuIoasUnmap, &cmd));
  return cmd.length;
}

Result<u32> Iommufd::hwpt_alloc(u32 device, u32 ioas) const {
  IommuHwptAlloc cmd{};
  cmd.size = sizeof cmd;
  cmd.dev_id = device;
  cmd.pt_id = ioas;
  TRY(fd_.sys().ioctl(number(), kIommuHwptAlloc, &cmd));
  return cmd.out_hwpt_id;
}

Result<u32> Iommufd::hwpt_alloc_tracking(u32 device, u32 ioas) const {
  IommuHwptAlloc cmd{};
  cmd.size = sizeof cmd;
  cmd.flags = iommu_hwpt::kDirtyTracking;
  cmd.dev_id = device;
  cmd.pt_id = ioas;
  TRY(fd_.sys().ioctl(number(), kIommuHwptAlloc, &cmd));
  return cmd.out_hwpt_id;
}

Result<void> Iommufd::track_dirty(u32 hwpt, bool on) const {
  IommuHwptSetDirtyTracking cmd{
      .size = sizeof cmd, .flags = on ? iommu_dirty::kEnable : 0, .hwpt_id = hwpt, .reserved = 0};
  TRY(fd_.sys().ioctl(number(), kIommuHwptSetDirtyTracking, &cmd));
  return {};
}

Result<void> Iommufd::dirty_bitmap(u32 hwpt, u64 iova, u64 length, u64 page, u64* bits, bool clear) const {
  IommuHwptGetDirtyBitmap cmd{.size = sizeof cmd,
                              .hwpt_id = hwpt,
                              .flags = clear ? 0 : iommu_dirty::kNoClear,
                              .reserved = 0,
                              .iova = iova,
                              .length = length,
                              .page_size = page,
                              .data = reinterpret_cast<u64>(bits)};
  TRY(fd_.sys().ioctl(number(), kIommuHwptGetDirtyBitmap, &cmd));
  return {};
}

Result<void> Iommufd::destroy(u32 id) const {
  IommuDestroy cmd{.size = sizeof cmd, .id = id};
  TRY(fd_.sys().ioctl(number(), kIommuDestroy, &cmd));
  return {};
}

Result<void> Iommufd::mark_preserve(u32 hwpt, u64 token) const {
  IommuHwptMarkPreserve cmd{.size = sizeof cmd, .hwpt_id = hwpt, .token = token};
  TRY(fd_.sys().ioctl(number(), kIommuHwptMarkPreserve, &cmd));
  return {};
}

Result<u32> Iommufd::hwpt_restore(u64 token) const {
  IommuHwptRestore cmd{.size = sizeof cmd, .flags = 0, .token = token, .out_hwpt_id = 0, .out_ioas_id = 0};
  TRY(fd_.sys().ioctl(number(), kIommuHwptRestore, &cmd));
  return cmd.out_hwpt_id;
}

Result<Iommufd::Adopted> Iommufd::hwpt_adopt(u64 token) const {
  IommuHwptRestore cmd{
      .size = sizeof cmd, .flags = iommu_hwpt_restore::kIoas, .token = token, .out_hwpt_id = 0, .out_ioas_id = 0};
  TRY(fd_.sys().ioctl(number(), kIommuHwptRestore, &cmd));
  return Adopted{cmd.out_hwpt_id, cmd.out_ioas_id};
}

}  // namespace perdure::client
