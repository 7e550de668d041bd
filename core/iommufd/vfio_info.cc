#include "core/iommufd/vfio_info.h"

#include <algorithm>

#include "core/file/task.h"
#include "core/uapi/iommufd.h"
#include "core/uapi/vfio.h"

namespace perdure::iommufd {

Result<void> answer_vfio_iommu_info(Task& task, UserAddr arg, Heap& heap, const Ioas& ioas, u32 dma_available) {
  using namespace uapi;
  VfioIommuInfo info{};
  TRY(task.copy_in(std::as_writable_bytes(std::span(&info, 1)).first(kVfioIommuInfoMin), arg));
  if (info.argsz < kVfioIommuInfoMin) return fail(Errno::Einval);
  const u32 room = info.argsz;

  Vec<IommuIovaRange> ranges(heap);
  TRY(ioas.each_gap([&](IovaRange gap) { return ranges.push_back({gap.first, gap.last}); }));
  struct {
    VfioIommuCapDmaAvail available;
    u32 padding = 0;
    VfioIommuCapIovaRange ranges;
  } caps{};
  static_assert(sizeof(caps) == 32);
  const u32 size = static_cast<u32>(sizeof(info) + sizeof(caps) + ranges.size() * sizeof(IommuIovaRange));
  const bool fits = room >= size;
  info.argsz = size;
  info.flags = vfio_iommu::kInfoPageSizes | vfio_iommu::kInfoCaps;
  info.iova_pgsizes = ioas.page_sizes();
  info.cap_offset = fits ? sizeof(info) : 0;
  if (fits) {
    caps.available = {.header = {.id = vfio_iommu::kCapDmaAvail, .version = 1, .next = sizeof(info) + 16},
                      .available = dma_available};
    caps.ranges = {.header = {.id = vfio_iommu::kCapIovaRange, .version = 1, .next = 0},
                   .count = static_cast<u32>(ranges.size()),
                   .reserved = 0};
    TRY(task.copy_out(arg + sizeof(info), std::as_bytes(std::span(&caps, 1))));
    TRY(task.copy_out(arg + sizeof(info) + sizeof(caps), std::as_bytes(ranges.span())));
  }
  return task.copy_out(arg, std::as_bytes(std::span(&info, 1)).first(std::min<usize>(room, sizeof(info))));
}

}  // namespace perdure::iommufd
