// Reading, writing and mapping a device's regions (uapi §3.4).
#include <algorithm>

#include "core/vfio/vfio.h"

namespace perdure::vfio {

namespace {

constexpr usize kConfigChunk = 64;

struct Table {
  bool present = false;
  u32 bar = 0;
  u64 offset = 0;
  u64 bytes = 0;
};

Table msix_table(const pci::Function& function) {
  const unsigned vectors = function.msix_vectors();
  if (vectors == 0) return {};
  const u16 capability = function.find(pci::CapabilityId::Msix);
  const u32 where = function.read32(static_cast<u16>(capability + pci::Msix::kTable));
  return {true, pci::Msix::TableBar::get(where), where & ~pci::Msix::TableBar::kMask, vectors * pci::Msix::kEntryBytes};
}

}  // namespace

u64 DeviceFile::position_of(u32 region) const {
  return (is_memory(region) ? kMemoryRegions : kRegions) + (u64{region} << kRegionShift);
}

Result<DeviceFile::Position> DeviceFile::locate(u64 pos) const {
  if (pos < kMemoryRegions) return fail(Errno::Einval);
  const u64 within = pos - (pos < kRegions ? kMemoryRegions : kRegions);
  const u64 region = within >> kRegionShift;
  if (region >= uapi::vfio_region::kCount) return fail(Errno::Einval);
  const Position at{static_cast<u32>(region), within & ((u64{1} << kRegionShift) - 1)};
  if (position_of(at.region) + at.offset != pos) return fail(Errno::Einval);
  return at;
}

bool DeviceFile::mappable(u32 region) const {
  const pci::Bar& bar = device_.function.bars()[region];
  return bar.kind == pci::Bar::Kind::Memory && bar.size >= kPageSize && bar.base.aligned(kPageSize);
}

bool DeviceFile::is_memory(u32 region) const {
  return region < pci::Function::kBars && mappable(region) && device_.function.bars()[region].prefetchable &&
         !holds_msix_table(region);
}

bool DeviceFile::holds_msix_table(u32 region) const {
  const Table table = msix_table(device_.function);
  return table.present && table.bar == region;
}

bool DeviceFile::in_msix_table(u32 region, u64 offset, u64 bytes) const {
  const Table table = msix_table(device_.function);
  return table.present && table.bar == region && ranges_overlap(offset, bytes, table.offset, table.bytes);
}

// The accesses that [offset, offset + bytes) is made of: as wide as alignment and length allow, up to 8 bytes. Those
// that touch the table of interrupt vectors, which is the kernel's, are hidden.
Result<usize> DeviceFile::access_bar(u32 region, usize bytes, u64 offset,
                                     FunctionRef<Result<void>(Phys at, Width width, u64 done, bool hidden)> access) {
  const pci::Bar& bar = device_.function.bars()[region];
  if (bar.kind != pci::Bar::Kind::Memory || offset >= bar.size) return fail(Errno::Einval);
  bytes = std::min<u64>(bytes, bar.size - offset);
  {
    MutexGuard guard(device_.lock);
    if (!device_.config.memory_enabled()) return fail(Errno::Eio);
  }
  const bool table_here = in_msix_table(region, offset, bytes);
  for (u64 done = 0; done < bytes;) {
    const u64 at = offset + done;
    unsigned width = 8;
    while (at % width != 0 || width > bytes - done) width /= 2;
    TRY(access(bar.base + at, static_cast<Width>(width), done, table_here && in_msix_table(region, at, width)));
    done += width;
  }
  return bytes;
}

Result<usize> DeviceFile::read(Task& task, UserAddr to, usize bytes, u64 pos) {
  if (!usable()) return fail(Errno::Einval);
  if (bytes == 0) return usize{0};
  const Position at = TRY(locate(pos));
  wake();
  if (at.region == uapi::vfio_region::kConfig) return read_config(task, to, bytes, at.offset);
  if (at.region >= pci::Function::kBars) return fail(Errno::Einval);
  return access_bar(at.region, bytes, at.offset, [&](Phys reg, Width width, u64 done, bool hidden) -> Result<void> {
    const u64 value = hidden ? ~u64{0} : module_.machine().mmio_read(reg, width);
    return task.copy_out(to + done, std::as_bytes(std::span(&value, 1)).first(static_cast<usize>(width)));
  });
}

Result<usize> DeviceFile::write(Task& task, UserAddr from, usize bytes, u64 pos) {
  if (!usable()) return fail(Errno::Einval);
  if (bytes == 0) return usize{0};
  const Position at = TRY(locate(pos));
  wake();
  if (at.region == uapi::vfio_region::kConfig) return write_config(task, from, bytes, at.offset);
  if (at.region >= pci::Function::kBars) return fail(Errno::Einval);
  return access_bar(at.region, bytes, at.offset, [&](Phys reg, Width width, u64 done, bool hidden) -> Result<void> {
    u64 value = 0;
    TRY(task.copy_in(std::as_writable_bytes(std::span(&value, 1)).first(static_cast<usize>(width)), from + done));
    if (!hidden) module_.machine().mmio_write(reg, width, value);
    return {};
  });
}

Result<usize> DeviceFile::read_config(Task& task, UserAddr to, usize bytes, u64 offset) {
  for (usize done = 0; done < bytes;) {
    std::byte chunk[kConfigChunk];
    const std::span<std::byte> part(chunk, std::min(bytes - done, kConfigChunk));
    {
      MutexGuard guard(device_.lock);
      const u32 size = device_.config.size();
      if (offset >= size || bytes > size - offset) return fail(Errno::Efault);
      device_.config.read(static_cast<u16>(offset + done), part);
    }
    TRY(task.copy_out(to + done, part));
    done += part.size();
  }
  return bytes;
}

Result<usize> DeviceFile::write_config(Task& task, UserAddr from, usize bytes, u64 offset) {
  for (usize done = 0; done < bytes;) {
    std::byte chunk[kConfigChunk];
    const std::span<std::byte> part(chunk, std::min(bytes - done, kConfigChunk));
    TRY(task.copy_in(part, from + done));
    MutexGuard guard(device_.lock);
    TRY(immutability_.may_change());
    const u32 size = device_.config.size();
    if (offset >= size || bytes > size - offset) return fail(Errno::Efault);
    if (device_.config.write(static_cast<u16>(offset + done), part) == ConfigView::Effect::Reset) {
      static_cast<void>(reset_locked());
    }
    device_.intx.set_disabled(device_.config.interrupt_disabled());
    done += part.size();
  }
  return bytes;
}

Result<MapTarget> DeviceFile::mmap(Task& task, u64 offset, u64 length, Access) {
  if (!usable()) return fail(Errno::Einval);
  const Position at = TRY(locate(offset));
  if (at.region >= pci::Function::kBars || !mappable(at.region)) return fail(Errno::Einval);
  const u64 size = align_up(bar_size(at.region), kPageSize);
  if (length == 0 || at.offset % kPageSize != 0 || at.offset >= size || length > size - at.offset) {
    return fail(Errno::Einval);
  }
  const bool memory = is_memory(at.region);
  if (!memory && !task.maps_registers()) return fail(Errno::Einval);
  return MapTarget{memory ? MapTarget::Kind::Memory : MapTarget::Kind::Registers,
                   device_.function.bars()[at.region].base + at.offset, length};
}

}  // namespace perdure::vfio
