#include "core/abi/boot_info.h"

#include "core/base/platform.h"

namespace perdure::abi {

namespace {

u32 checksum(const BootInfo& info) {
  BootInfo copy = info;
  copy.checksum = 0;
  return crc32c(std::as_bytes(std::span(&copy, 1)));
}

// [at, at + length) lies in the window; an address of 0 means that there is nothing.
bool placed(u64 at, u64 length, u64 window) {
  return length <= window && at <= window - length;
}

std::unexpected<Errno> refuse(Errno error, std::string_view reason, std::string_view* why) {
  if (why != nullptr) *why = reason;
  return fail(error);
}

}  // namespace

void seal(BootInfo& info) {
  info.size = sizeof(BootInfo);
  info.checksum = checksum(info);
}

Result<void> check(const BootInfo& info, u64 window, std::string_view* why) {
  if (info.magic != kBootInfoMagic) return refuse(Errno::Eproto, "magic", why);
  if (info.version != kBootInfoVersion) return refuse(Errno::Eproto, "version", why);
  if (info.size != sizeof(BootInfo)) return refuse(Errno::Eproto, "size", why);
  if (info.checksum != checksum(info)) return refuse(Errno::Eproto, "checksum", why);

  if (info.padding != 0) return refuse(Errno::Einval, "padding", why);
  bool ends = false;
  for (const char c : info.command_line) ends = ends || c == '\0';
  if (!ends) return refuse(Errno::Einval, "command line without end", why);
  if (info.memory_map == 0 || info.memory_map_count == 0 || info.memory_map % alignof(MemoryMapEntry) != 0 ||
      !placed(info.memory_map, u64{info.memory_map_count} * sizeof(MemoryMapEntry), window)) {
    return refuse(Errno::Einval, "place of the memory map", why);
  }
  if (info.rsdp != 0 && !placed(info.rsdp, 1, window)) return refuse(Errno::Einval, "ACPI root pointer", why);
  if (!Phys(info.kho_fdt).aligned(kPageSize) || (info.kho_fdt != 0 && !placed(info.kho_fdt, kPageSize, window))) {
    return refuse(Errno::Einval, "address of the handover tree", why);
  }
  const bool has_scratch = info.kho_scratch != 0;
  if (has_scratch != (info.kho_scratch_length != 0) || (info.kho_fdt != 0 && !has_scratch)) {
    return refuse(Errno::Einval, "handover without scratch table", why);
  }
  if (has_scratch &&
      (info.kho_scratch % alignof(KhoScratch) != 0 || info.kho_scratch_length % sizeof(KhoScratch) != 0 ||
       !placed(info.kho_scratch, info.kho_scratch_length, window))) {
    return refuse(Errno::Einval, "place of the scratch table", why);
  }
  return {};
}

Result<void> check_memory_map(std::span<const MemoryMapEntry> map, u64 window, std::string_view* why) {
  bool ram = false;
  u64 last_base = 0;
  u64 managed_end = 0;   // of the RAM and banks so far
  u64 bank_end = 0;      // of the banks so far
  u64 reserved_end = 0;  // of the reserved stretches so far
  for (const MemoryMapEntry& e : map) {
    if (e.reserved != 0) return refuse(Errno::Einval, "memory map: reserved field", why);
    if (e.length == 0 || !placed(e.base, e.length, window)) {
      return refuse(Errno::Einval, "memory map: empty entry, or beyond the physical address space", why);
    }
    if (e.base < last_base) return refuse(Errno::Einval, "memory map: not sorted", why);
    last_base = e.base;
    const u64 end = e.base + e.length;
    switch (static_cast<MemoryType>(e.type)) {
      case MemoryType::Bank:
        if (e.base < reserved_end) return refuse(Errno::Einval, "memory map: bank overlaps reserved memory", why);
        bank_end = end;
        [[fallthrough]];
      case MemoryType::Ram:
        if (!Phys(e.base | e.length).aligned(kPageSize)) {
          return refuse(Errno::Einval, "memory map: part of a page", why);
        }
        if (e.base < managed_end) return refuse(Errno::Einval, "memory map: overlap", why);
        managed_end = end;
        ram = ram || e.type == static_cast<u32>(MemoryType::Ram);
        break;
      case MemoryType::Reserved:
        if (e.base < bank_end) return refuse(Errno::Einval, "memory map: bank overlaps reserved memory", why);
        if (end > reserved_end) reserved_end = end;
        break;
      default: return refuse(Errno::Einval, "memory map: unknown type", why);
    }
  }
  if (!ram) return refuse(Errno::Einval, "memory map: no RAM", why);
  return {};
}

}  // namespace perdure::abi
