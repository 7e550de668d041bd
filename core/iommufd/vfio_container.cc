// The ioctls of VFIO's container on a context (uapi §2.13). Type 1 in its first version may cut what it mapped.
#include "core/base/scope_guard.h"
#include "core/iommufd/iommufd.h"
#include "core/iommufd/vfio_info.h"
#include "core/uapi/vfio.h"

namespace perdure::iommufd {

namespace {

// iommufd has no limit of its own on mappings.
constexpr u32 kNoLimit = ~u32{0};

}  // namespace

Result<u64> IommufdFile::vfio_ioctl(Task& task, u32 cmd, UserAddr arg) {
  switch (cmd) {
    case uapi::kVfioGetApiVersion: return u64{0};
    case uapi::kVfioCheckExtension: return vfio_check_extension(arg.value);
    case uapi::kVfioSetIommu: TRY(vfio_set_iommu(arg.value)); return u64{0};
    case uapi::kVfioIommuGetInfo: {
      // The structure is judged before there has to be anything to tell about.
      const u32 argsz = TRY(task.copy_in<u32>(arg));
      uapi::VfioIommuInfo info{};
      TRY(task.copy_in(std::as_writable_bytes(std::span(&info, 1)).first(uapi::kVfioIommuInfoMin), arg));
      if (argsz < uapi::kVfioIommuInfoMin) return fail(Errno::Einval);
      const Ref<Ioas> ioas = TRY(compat_ioas());
      TRY(answer_vfio_iommu_info(task, arg, heap_, *ioas, kNoLimit));
      return u64{0};
    }
    case uapi::kVfioIommuMapDma: TRY(vfio_map(task, arg)); return u64{0};
    case uapi::kVfioIommuUnmapDma: TRY(vfio_unmap(task, arg)); return u64{0};
    default: return fail(Errno::Enotty);
  }
}

Result<u64> IommufdFile::vfio_check_extension(u64 extension) const {
  switch (extension) {
    case uapi::vfio_extension::kType1:
    case uapi::vfio_extension::kType1v2:
    case uapi::vfio_extension::kUnmapAll: return u64{1};
    case uapi::vfio_extension::kDmaCoherent:
      // No device here is able to get around the processors' caches.
      TRY(compat_ioas());
      return u64{1};
    default: return u64{0};
  }
}

Result<void> IommufdFile::vfio_set_iommu(u64 type) {
  if (type != uapi::vfio_extension::kType1 && type != uapi::vfio_extension::kType1v2) return fail(Errno::Einval);
  const Ref<Ioas> ioas = TRY(compat_ioas());
  // What the first version of type 1 mapped may be cut anywhere.
  return type == uapi::vfio_extension::kType1 ? ioas->set_large_pages(false) : Result<void>();
}

Result<void> IommufdFile::vfio_map(Task& task, UserAddr arg) {
  const auto cmd = TRY(task.copy_in<uapi::VfioDmaMap>(arg));
  constexpr u32 kBoth = uapi::vfio_iommu::kMapRead | uapi::vfio_iommu::kMapWrite;
  if (cmd.argsz < sizeof(cmd) || (cmd.flags & ~kBoth) != 0) return fail(Errno::Einval);
  const Ref<Ioas> ioas = TRY(compat_ioas());
  const Access access = (cmd.flags & kBoth) == kBoth                     ? Access::ReadWrite
                        : (cmd.flags & uapi::vfio_iommu::kMapWrite) != 0 ? Access::Write
                        : (cmd.flags & uapi::vfio_iommu::kMapRead) != 0  ? Access::Read
                                                                         : kNoAccess;
  const Iova fixed(cmd.iova);
  TRY(map_user(task, *ioas, cmd.vaddr, cmd.size, &fixed, access));
  return {};
}

// The size that was unmapped is told whatever comes of it.
Result<void> IommufdFile::vfio_unmap(Task& task, UserAddr arg) {
  auto cmd = TRY(task.copy_in<uapi::VfioDmaUnmap>(arg));
  if (cmd.argsz < sizeof(cmd) || (cmd.flags & ~uapi::vfio_iommu::kUnmapAll) != 0) return fail(Errno::Einval);
  const Ref<Ioas> ioas = TRY(compat_ioas());
  Ioas::AreaList removed;
  u64 unmapped = 0;
  const auto unmap = [&]() -> Result<void> {
    u64 first = cmd.iova;
    u64 last = ~u64{0};
    if ((cmd.flags & uapi::vfio_iommu::kUnmapAll) != 0) {
      if (cmd.iova != 0 || cmd.size != 0) return fail(Errno::Einval);
    } else {
      if (cmd.size == 0) return fail(Errno::Einval);
      if (range_overflows(cmd.iova, cmd.size)) return fail(Errno::Eoverflow);
      last = first + (cmd.size - 1);
      if (!ioas->large_pages()) {
        TRY(ioas->cut(Iova(first)));
        if (last != ~u64{0}) TRY(ioas->cut(Iova(last + 1)));
      }
    }
    const Result<u64> done = ioas->unmap(Iova(first), Iova(last), removed);
    if (done) return {};
    // Nothing there is no failure to VFIO; what would have to be cut is.
    if (done.error() != Errno::Enoent) return fail(done.error());
    return ioas->each_area([&](const Area& area) -> Result<void> {
      const bool inside = area.last().value >= first && area.iova.value <= last;
      return inside ? Result<void>(fail(Errno::Enoent)) : Result<void>();
    });
  };
  const Result<void> result = unmap();
  for (const Area& area : removed) unmapped += area.length;
  Ioas::release_areas(heap_, removed);
  cmd.size = unmapped;
  TRY(task.copy_out(arg, cmd));
  return result;
}

}  // namespace perdure::iommufd
